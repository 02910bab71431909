"""Step 0: corpora become checked passages, existing pairs become checked pairs; nothing here writes a file.

`inspect` and `inspect_pairs` list the input files, `read_passages` and `read_pairs` yield for every input row what it
becomes or why it is rejected. Inside: options → columns → text, parquet, hub (rows of one kind of file) → files (which,
what kind, how many rows) → readers (any file, and the loop over all) → passages, pairs (the two types of row).
"""

from synth.sources.files import require_apart
from synth.sources.options import INSTRUCTION, Corpus, PairData, ReadLimits
from synth.sources.pairs import inspect_pairs, pair_files, pairs_schema, read_pairs
from synth.sources.passages import carried_schema, inspect, read_passages, sentences
from synth.sources.readers import Part, count_rows, sample_rows, wanted_rows
from synth.sources.records import Block, InputFile, PairRow, PairSet, PassageRow, RejectedRow

__all__ = [
    "INSTRUCTION",
    "Block",
    "Corpus",
    "InputFile",
    "PairData",
    "PairRow",
    "PairSet",
    "Part",
    "PassageRow",
    "ReadLimits",
    "RejectedRow",
    "carried_schema",
    "count_rows",
    "inspect",
    "inspect_pairs",
    "pair_files",
    "pairs_schema",
    "read_pairs",
    "read_passages",
    "require_apart",
    "sample_rows",
    "sentences",
    "wanted_rows",
]
