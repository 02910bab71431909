"""What goes through the reading of corpora: files, raw rows, and the two ends a row can come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
