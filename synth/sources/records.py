"""What goes through the reading of corpora: files, raw rows, and the two ends a row can come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa

FileKind = Literal["parquet", "jsonl", "csv", "tsv", "text", "hub"]

EXCERPT = 200
"""Characters of a rejected text that its row keeps: enough to recognise it."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input as it was when the job started; everything but `target` is part of the job's identity.

    `path` opens it, `relative` is its path below the folder that the job names, with `/` between the parts.
    Of a data set on the hub `sha256` is the commit, `size` and `mtime_ns` are 0, and `rows` is None if nobody knows.
    """

    corpus_index: int
    source: str
    path: str
    relative: str
    kind: FileKind
    size: int
    mtime_ns: int
    sha256: str
    rows: int | None
    target: str | None = None
    """Where `path` led to, if it is a symbolic link."""


@dataclass(frozen=True, slots=True)
class PassageRow:
    """One passage: an input row, or chunk number `chunk` of it.

    `source_row` counts from 0 through all files of the source, so that (source, source_row, chunk) is unique.
    `language` is a code of the table or `und`; `carried` has a value that `pyarrow.array` takes for every field of
    `carried_schema`, None where this corpus does not carry it.
    """

    source: str
    source_row: int
    chunk: int
    id: str
    text: str
    title: str | None
    language: str
    carried: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """An input row that gives no passage: `reason` is a code, `detail` says what and where for a person."""

    source: str
    source_row: int
    id: str
    reason: str
    detail: str
    text_excerpt: str


RowOutcome = PassageRow | RejectedRow


class Fault(NamedTuple):
    """Why a row is rejected."""

    reason: str
    detail: str
    excerpt: str = ""


class RawRow(NamedTuple):
    """A row of one file before any check; `row` counts from 0 in its file, `carried` follows `Columns.carry`.

    A tuple and not a dataclass because one is made for every row: it costs a third.
    """

    row: int
    text: object = None
    id: object = None
    title: object = None
    language: object = None
    carried: tuple[object, ...] = ()
    fault: Fault | None = None


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
