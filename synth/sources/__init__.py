"""Step 0: corpora become checked passages whose language is known; nothing here writes a file.

`inspect` lists the input files, `read_passages` yields for every input row its passages or its rejection. Inside:
options → files (which, what kind, how many rows) → columns, carried → jsonl, csvs, parquet, hub (raw rows)
→ checks, chunking → passages.
"""

from synth.sources.carried import carried_schema
from synth.sources.chunking import chunk
from synth.sources.files import inspect
from synth.sources.options import Corpus, LanguageColumn, ReadLimits
from synth.sources.passages import read_passages
from synth.sources.readers import count_rows, sample_rows
from synth.sources.records import InputFile, PassageRow, RejectedRow, RowOutcome

__all__ = [
    "Corpus",
    "InputFile",
    "LanguageColumn",
    "PassageRow",
    "ReadLimits",
    "RejectedRow",
    "RowOutcome",
    "carried_schema",
    "chunk",
    "count_rows",
    "inspect",
    "read_passages",
    "sample_rows",
]
