"""CSV with a header line (`,` or `;`, quotes as RFC 4180) and TSV (no quoting: a field is what stands between tabs).

Every field is text, also in carried columns: `007` is not 7.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from synth.errors import InputError
from synth.sources.columns import Columns
from synth.sources.options import ReadLimits
from synth.sources.records import EXCERPT, Fault, InputFile, RawRow
from synth.sources.streams import Line, lines, opened, tally, undecodable


class _Record(NamedTuple):
    fields: list[str]
    fault: Fault | None


def count(path: Path, limits: ReadLimits) -> int:
    """Number of records below the header. Raises InputError as `read` does."""
    return tally(_records(str(path), limits))


def _records(path: str, limits: ReadLimits) -> Iterator[_Record]:
    with opened(path) as stream:
        yield from _Table(stream, path, limits)


def header(path: str, limits: ReadLimits) -> list[str]:
    """The names in the first line, none for an empty file. Raises InputError for a name that comes twice."""
    with opened(path) as stream:
        return _Table(stream, path, limits).header


def read(
    file: InputFile, columns: Columns, limits: ReadLimits, wanted: Callable[[int], bool] | None
) -> Iterator[RawRow]:
    """Raw rows, an empty field as None; a record with too few or too many fields has a fault instead of values.

    Raises InputError for a header that names a column twice, an over-long field, a quote that is never closed.
    """
    with opened(file.path) as stream:
        table = _Table(stream, file.path, limits)
        places = {name: place for place, name in enumerate(table.header)}
        text, ident, title, language = (None if name is None else places[name] for name in columns[:4])
        carry = [places[name] for name in columns.carry]
        for row, (fields, fault) in enumerate(table):
            if wanted is not None and not wanted(row):
                continue
            if fault is not None:
                yield RawRow(row, fault=fault)
                continue
            values = [field or None for field in fields]
            yield RawRow(
                row,
                values[text or 0],
                None if ident is None else values[ident],
                None if title is None else values[title],
                None if language is None else values[language],
                tuple(values[place] for place in carry),
            )


class _Table:
    """The header of an open file, and its records as an iterator."""

    def __init__(self, stream: IO[bytes], path: str, limits: ReadLimits) -> None:
        self._path = path
        self._lines = lines(stream, limits.max_line_bytes, path)
        self._read: list[Line] = []  # the lines of the present record, to say where one is broken
        # one setting for the whole process: the default of 131,072 characters is shorter than many documents
        csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes))
        first = next(self._lines, None)
        head = "" if first is None else first.data.decode(errors="surrogateescape")
        tsv = Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower() == ".tsv"
        self._options: dict[str, str | int] = {"delimiter": max(",;", key=head.count)}
        if tsv:
            self._options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        self.header = next(self._parser(iter([head])), [])
        if len(set(self.header)) < len(self.header):
            raise InputError(f"{path}: the header names a column twice.", "Rename one of them.")
        if first is not None and first.data != b"" and undecodable(first.data, 0):
            raise InputError(f"{path}: the header is not UTF-8.", "Convert the file with iconv.")

    def __iter__(self) -> Iterator[_Record]:
        parser = self._parser(self._decoded())
        while True:
            self._read.clear()
            try:
                fields = next(parser, None)
            except csv.Error as exc:
                yield _Record([], self._broken(exc))
                continue
            if fields is None:
                return
            if fields:
                yield _Record(fields, self._fault(fields))

    def _parser(self, source: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(source, strict=True, **self._options)  # type: ignore[arg-type] # a checked mapping

    def _decoded(self) -> Iterator[str]:
        for line in self._lines:
            self._read.append(line)
            yield line.data.decode(errors="surrogateescape")

    def _broken(self, exc: csv.Error) -> Fault:
        """A record that is no CSV. A quote never closed would swallow the rows behind it, so that ends the reading."""
        number = self._read[0].number if self._read else 0
        if "unexpected end" in str(exc) or "field larger" in str(exc):
            raise InputError(
                f"{self._path}: line {number}: a quote is not closed within the file or `limits.max_line_bytes`.",
                "Mend the line, or write the file as JSON lines.",
            ) from exc
        return Fault("csv", f"line {number}: {exc}", self._excerpt())

    def _fault(self, fields: list[str]) -> Fault | None:
        if not all(map(_whole, fields)):
            data = b"".join(line.data for line in self._read)
            return Fault("encoding", undecodable(data, self._read[0].offset), self._excerpt())
        if len(fields) != len(self.header):
            detail = f"line {self._read[0].number}: {len(fields)} fields, the header has {len(self.header)}"
            return Fault("csv", detail, self._excerpt())
        return None

    def _excerpt(self) -> str:
        return b"".join(line.data for line in self._read)[: EXCERPT * 4].decode(errors="replace")[:EXCERPT]


def _whole(field: str) -> bool:
    """Whether no byte of a field was kept aside while decoding."""
    if field.isascii():
        return True
    try:
        field.encode()
    except UnicodeEncodeError:
        return False
    return True
