"""The records of reading: input files, raw rows, and what a row becomes (passages, pairs or a rejection)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import pyarrow as pa

FileKind = Literal["parquet", "arrow", "jsonl", "csv", "tsv", "text", "hub"]
COLUMNAR = ("parquet", "arrow")
"""Kinds whose files state the types of their columns."""
LayoutKind = Literal["columns", "tuples", "flag", "messages", "tevatron", "beir", "shards"]
FileKey = tuple[int, str]
"""Identifies a file within a job: `corpus_index` and `relative`."""

EXCERPT = 200
"""Characters of a rejected text that its row keeps: enough to recognise it."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input as it was when the job started; everything but `target` is part of the job's identity.

    `path` opens it, `relative` is its path below the folder that the job names, with `/` between the parts.
    For a data set on the hub `sha256` is the commit, `size` and `mtime_ns` are 0, and `rows` is None if unknown.
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
    """The real path, if `path` is a symbolic link."""

    @property
    def key(self) -> FileKey:
        return self.corpus_index, self.relative

    @property
    def role(self) -> str:
        """The part that it plays in a BEIR or MTEB folder: `corpus`, `queries` or `qrels`."""
        part = self.relative.split("/")[0].split(".")[0]
        return "qrels" if part == "data" else part


class Fault(NamedTuple):
    """Why a row is rejected. Reasons of any row: json, csv, encoding, surrogate, nul, empty, type, language, carry.

    Of a passage also control_token, too_short, too_long, duplicate; of a pair label, no_positive, not_relevant,
    unresolved.
    """

    reason: str
    detail: str
    excerpt: str = ""


class Selection(NamedTuple):
    """What to read from one file: `values` as Python objects (dotted names reach into structs), the rest as Arrow.

    `schema` is that of the carried columns of the whole job; those not named in `carried` are null in this file.
    Columns in `as_json` are carried as JSON text.
    """

    values: tuple[str, ...]
    carried: frozenset[str] = frozenset()
    schema: pa.Schema = pa.schema([])
    as_json: frozenset[str] = frozenset()


class RawRows(NamedTuple):
    """Some rows of one file before any check, all fields aligned.

    `numbers` count from 0 in the file, `values` has a list for each of `Selection.values`, `carried` the columns of
    `Selection.schema`, `faults` what is wrong by place in this block.
    """

    numbers: Sequence[int]
    values: Mapping[str, Sequence[Any]]
    carried: pa.Table
    faults: dict[int, Fault]


class PassageRow(NamedTuple):
    """One passage: an input row, or chunk number `chunk` of it.

    `source_row` counts from 0 through all files of the source, so that (source, source_row, chunk) is unique.
    `language` is a code of the table or `und`. A tuple because one is made for every row: it costs a third.
    """

    source: str
    source_row: int
    chunk: int
    id: str
    text: str
    title: str | None
    language: str

    @property
    def first(self) -> bool:
        return self.chunk == 0


class PairRow(NamedTuple):
    """One pair. `source_row` counts from 0 through all files of the source that have pairs.

    `positive` is the place in the list of positives of its row, None where the layout has no lists; `label` is a
    float or None.
    """

    source: str
    source_row: int
    positive: int | None
    query: str
    passage: str
    query_language: str
    passage_language: str
    label: float | None

    @property
    def first(self) -> bool:
        return not self.positive


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """An input row that gives nothing: `reason` is a code, `detail` says what is wrong and where."""

    source: str
    source_row: int
    id: str
    reason: str
    detail: str
    text_excerpt: str


Row = TypeVar("Row", PassageRow, PairRow)


@dataclass(slots=True)
class Block(Generic[Row]):
    """What some input rows became, in their order; `carried` has one row for each row that is not rejected."""

    outcomes: list[Row | RejectedRow] = field(default_factory=list)
    carried: pa.Table = field(default_factory=lambda: pa.table({}))

    def rows(self) -> Iterator[tuple[Row, pa.Table]]:
        used = (outcome for outcome in self.outcomes if not isinstance(outcome, RejectedRow))
        return ((row, self.carried.slice(place, 1)) for place, row in enumerate(used))


@dataclass(frozen=True, slots=True)
class LanguageSource:
    """Where a text's language comes from: one code for all, a column, or (neither) the detector.

    `strict`: the job named the column, so an unknown language rejects its row; otherwise it is detected.
    """

    code: str | None = None
    column: str | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class PairSet:
    """One entry of `data:` as it was when the job started, and how it is laid out.

    `query` and `passage` are columns of texts, or of lists of them.
    """

    files: tuple[InputFile, ...]
    kind: LayoutKind
    query: str
    passage: str
    label: str | None
    query_language: LanguageSource
    passage_language: LanguageSource
    carried: tuple[str, ...]
    assumed: str = ""
    """What was assumed of a column that may hold judgements."""

    @property
    def source(self) -> str:
        return self.files[0].source

    @property
    def judged(self) -> bool:
        """Whether pairs may come with a judgement that is against them."""
        return self.label is not None and self.kind != "beir"

    @property
    def pair_files(self) -> list[InputFile]:
        """The files whose rows become pairs, in order."""
        return [file for file in self.files if self.kind != "beir" or file.role == "qrels"]

    @property
    def rows(self) -> int:
        return sum(file.rows or 0 for file in self.pair_files)

    def describe(self) -> str:
        """One line on what was recognised."""
        files = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        what = {
            "columns": f"columns {self.query!r} and {self.passage!r}",
            "tuples": f"sentence-transformers tuples, {self.query!r} with {self.passage!r}, negatives carried",
            "flag": f"FlagEmbedding lines, {self.query!r} with each of {self.passage!r}, negatives carried",
            "messages": f"ms-swift messages, {self.query!r} with each of {self.passage!r}, negatives carried",
            "tevatron": f"Tevatron lines, {self.query!r} with each of {self.passage!r}, negatives carried",
            "beir": "a BEIR folder, a pair for each judgement above 0",
            "shards": f"shards of synth, {self.query!r} and {self.passage!r}",
        }[self.kind]
        label = f"; label from {self.label!r}" if self.label else ""
        label += ", 0 or less is not relevant (the rule `label above 0`)" if self.judged else ""
        label += f"; {self.assumed}: data.label changes that" if self.assumed else ""
        columns = f"; carries {', '.join(self.carried)}" if self.carried else ""
        return f"{self.source}: {what}; {self.rows:,} rows in {files}{label}{columns}"
