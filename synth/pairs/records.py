"""What goes through the reading of pairs: how a set is laid out, and blocks of rows on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from synth.sources import InputFile, RejectedRow
from synth.sources.records import Fault

Kind = Literal["columns", "tuples", "flag", "messages", "beir", "shards"]
BLOCK = 1024
"""Rows of a text file that are in memory at once; Parquet brings batches of its own."""


@dataclass(frozen=True, slots=True)
class LanguageOf:
    """Where a side's language comes from: one code for all, a column, or (neither) the detector.

    `strict`: the job named the column, so a value that is no language rejects its row; else it is detected.
    """

    code: str | None = None
    column: str | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How one set of pairs is laid out. `query` and `passage` are columns, or what holds the texts in lists of them.

    `used` are the columns that become ours and are not carried beside; `rows` counts input rows.
    """

    kind: Kind
    source: str
    query: str
    passage: str
    label: str | None
    query_language: LanguageOf
    passage_language: LanguageOf
    carried: tuple[str, ...]
    rows: int
    files: int

    @property
    def used(self) -> frozenset[str]:
        return frozenset(name for name in (self.query, self.passage, self.label) if name is not None)

    def describe(self) -> str:
        """One line that says what was recognised."""
        files = f"{self.files} file{'s' if self.files > 1 else ''}"
        what = {
            "columns": f"columns {self.query!r} and {self.passage!r}",
            "tuples": f"sentence-transformers tuples, {self.query!r} with {self.passage!r}, negatives carried",
            "flag": f"FlagEmbedding lines, {self.query!r} with each of {self.passage!r}, negatives carried",
            "messages": f"ms-swift messages, {self.query!r} with each of {self.passage!r}, negatives carried",
            "beir": "a BEIR folder, a pair for each judgement above 0",
            "shards": f"shards of synth, {self.query!r} and {self.passage!r}",
        }[self.kind]
        label = f"; label from {self.label!r}" if self.label else ""
        columns = f"; carries {', '.join(self.carried)}" if self.carried else ""
        return f"{self.source}: {what}; {self.rows:,} rows in {files}{label}{columns}"


class Chunk(NamedTuple):
    """Some rows of one file before any check.

    `rows` are their numbers in the file, `values` the Python values of the columns that become ours, `own` the carried
    columns in their final types, `faults` by place in the chunk; all are aligned.
    """

    rows: Sequence[int]
    values: Mapping[str, Sequence[Any]]
    own: pa.Table
    faults: dict[int, Fault]


class PairRow(NamedTuple):
    """One pair, checked. `source_row` counts from 0 through all files of the source that hold pairs.

    `positive` is the place among the positives of its row where that has a list of them, else None; `label` is a
    float or None. A tuple because one is made for every row.
    """

    source: str
    source_row: int
    positive: int | None
    query: str
    passage: str
    query_language: str
    passage_language: str
    label: float | None


@dataclass(slots=True)
class PairBlock:
    """What some input rows became, in their order: `own` has a row of carried columns for each pair.

    `outcomes` interleaves pairs and rejected rows as they came.
    """

    outcomes: list[PairRow | RejectedRow] = field(default_factory=list)
    own: pa.Table = field(default_factory=lambda: pa.table({}))


@dataclass(frozen=True, slots=True)
class PairSet:
    """One entry of `data:` as it was when the job started."""

    layout: Layout
    files: tuple[InputFile, ...]
