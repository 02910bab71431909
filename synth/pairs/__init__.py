"""Pairs that exist already, from whatever trainer or benchmark they were made for; nothing here writes a file.

`inspect_pairs` recognises the layout of every entry of `data:`, `own_schema` types what is carried, `read_pairs` yields
for every input row its pairs or its rejection. Inside: options → names, types (columns) → files (what lies where)
→ chunks (rows of any file), beir (three files joined) → reading.
"""

from synth.sources.files import inspect_pairs
from synth.sources.options import INSTRUCTION, PairData
from synth.sources.pairs import own_schema, pair_files, read_pairs
from synth.sources.records import Layout, PairBlock, PairRow, PairSet

__all__ = [
    "INSTRUCTION",
    "Layout",
    "PairBlock",
    "PairData",
    "PairRow",
    "PairSet",
    "inspect_pairs",
    "own_schema",
    "pair_files",
    "read_pairs",
]
