"""Text files, plain or packed: JSON lines, CSV with a header line, TSV, and files that are one passage each.

CSV fields are separated by `,` or `;` and quoted as in RFC 4180; TSV has no quoting: everything between two tabs is a
field. Every field is text, also in carried columns: `007` is not 7.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from synth.errors import InputError, SystemFault
from synth.sources.checks import excerpt_of_bytes, surrogate
from synth.sources.options import ReadLimits
from synth.sources.records import Fault, FileKind

BOM = b"\xef\xbb\xbf"

Wanted = Callable[[int], bool]
"""Whether the row with this number in its file is wanted; others are counted and not parsed."""


class Line(NamedTuple):
    """One line with its ending; `number` counts from 1 as editors do, `offset` is in bytes of the unpacked file."""

    number: int
    offset: int
    data: bytes


class ObjectRow(NamedTuple):
    """One row as an object, or what is wrong with it; `size` is in bytes."""

    number: int
    values: Mapping[str, Any] | Fault
    size: int


@contextmanager
def opened(path: Path | str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a plain, gzip or Zstandard file, whatever its name. Raises InputError, SystemFault."""
    try:
        with Path(path).open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif magic == b"\x28\xb5\x2f\xfd":
                with pa.CompressedInputStream(raw, "zstd") as unpacked:
                    yield io.BufferedReader(unpacked)
            else:
                yield raw
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
    except FileNotFoundError as exc:
        raise InputError(f"{path}: the file is gone.", "Put it back, or start a new output folder.") from exc
    except (EOFError, zlib.error, OSError, pa.ArrowException) as exc:
        raise InputError(f"{path}: cut off or damaged ({exc}).", "Download or pack it again.") from exc


def lines(stream: IO[bytes], limit: int, path: str) -> Iterator[Line]:
    """Lines of a stream, without a byte order mark. Raises InputError for a line of more than `limit` bytes."""
    offset = 0
    for number, data in enumerate(iter(lambda: stream.readline(limit + 2), b""), start=1):
        if len(data) > limit + 1 or (len(data) > limit and not data.endswith(b"\n")):
            raise InputError(f"{path}: line {number} is longer than {limit} bytes.", RAISE_LIMIT)
        if number == 1 and data.startswith(BOM):
            yield Line(number, len(BOM), data[len(BOM) :])
        else:
            yield Line(number, offset, data)
        offset += len(data)


RAISE_LIMIT = "Shorten it, or raise `limits.max_line_bytes` in the job."


def rows(path: str, kind: FileKind, limits: ReadLimits, wanted: Wanted | None = None) -> Iterator[ObjectRow]:
    """The wanted rows in order; one that cannot be parsed has a fault. Raises InputError where it cannot be read on."""
    with opened(path) as stream:
        if kind == "text":
            if wanted is None or wanted(0):
                data = stream.read(limits.max_line_bytes + 1)
                if len(data) > limits.max_line_bytes:
                    raise InputError(f"{path}: longer than {limits.max_line_bytes} bytes.", RAISE_LIMIT)
                values: Mapping[str, Any] | Fault
                try:
                    values = {"text": data.removeprefix(BOM).decode()}
                except UnicodeDecodeError as exc:
                    values = _not_utf8(exc, 0)
                yield ObjectRow(0, values, len(data))
        elif kind == "jsonl":
            for number, line in enumerate(_json_lines(stream, limits, path)):
                if wanted is None or wanted(number):
                    yield ObjectRow(number, _parse_json(line), len(line.data))
        else:
            reader = _CsvReader(stream, path, limits)
            yield from (row for row in reader if wanted is None or wanted(row.number))


def count(path: str, kind: FileKind, limits: ReadLimits) -> int:
    """Number of rows, by reading the whole file; the error for a damaged file says how many can be read."""
    if kind == "text":
        return 1
    total = 0
    try:
        with opened(path) as stream:
            found = _json_lines(stream, limits, path) if kind == "jsonl" else _CsvReader(stream, path, limits)
            for _ in found:
                total += 1
    except InputError as exc:
        raise InputError(f"{exc.message} {total:,} rows can be read before that.", exc.hint) from exc
    return total


def header(path: str, limits: ReadLimits) -> list[str]:
    """Column names of a CSV or TSV file, none for an empty file. Raises InputError for a repeated name."""
    with opened(path) as stream:
        return _CsvReader(stream, path, limits).header


def _json_lines(stream: IO[bytes], limits: ReadLimits, path: str) -> Iterator[Line]:
    found = lines(stream, limits.max_line_bytes, path)
    return (line for line in found if line.data and not line.data.isspace())


def _parse_json(line: Line) -> dict[str, Any] | Fault:
    try:
        parsed = json.loads(line.data.decode())
    except UnicodeDecodeError as exc:
        return _not_utf8(exc, line.offset, f"line {line.number}: ")
    except (ValueError, RecursionError) as exc:
        wrong = str(exc)
    else:
        if isinstance(parsed, dict):
            return parsed
        wrong = f"not an object but {type(parsed).__name__}"
    return Fault("json", f"line {line.number}: {wrong}", excerpt_of_bytes(line.data))


def _not_utf8(exc: UnicodeDecodeError, offset: int, where: str = "") -> Fault:
    """The fault of bytes that are not UTF-8; `offset` is their place in the file."""
    detail = f"{where}byte {offset + exc.start} of the file (0x{exc.object[exc.start]:02x}) is not UTF-8"
    return Fault("encoding", detail, excerpt_of_bytes(exc.object))


class _CsvReader:
    def __init__(self, stream: IO[bytes], path: str, limits: ReadLimits) -> None:
        self._path = path
        self._lines = lines(stream, limits.max_line_bytes, path)
        self._record: list[Line] = []  # the lines of the current record, for messages
        # one setting for the whole process: the default of 131,072 characters is shorter than many documents
        csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes))
        first = next(self._lines, None)
        head = "" if first is None else first.data.decode(errors="surrogateescape")
        self._options: dict[str, str | int] = {"delimiter": max(",;", key=head.count)}
        if Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower() == ".tsv":
            self._options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        self.header = next(self._parser(iter([head])), [])
        if len(set(self.header)) < len(self.header):
            raise InputError(f"{path}: the header names a column twice.", "Rename one of them.")
        if surrogate(head) is not None:
            raise InputError(f"{path}: the header is not UTF-8.", "Convert the file with iconv.")

    def __iter__(self) -> Iterator[ObjectRow]:
        parser, number = self._parser(self._decoded()), 0
        while True:
            self._record.clear()
            found: Mapping[str, Any] | Fault
            try:
                fields = next(parser)
            except StopIteration:
                return
            except csv.Error as exc:
                first = self._record[0].number if self._record else 0
                if "unexpected end" in str(exc) or "field larger" in str(exc):  # it would swallow the rows after it
                    what = "a quote is not closed within the file or `limits.max_line_bytes`"
                    hint = "Fix the line, or write the file as JSON lines."
                    raise InputError(f"{self._path}: line {first}: {what}.", hint) from exc
                found = Fault("csv", f"line {first}: {exc}", excerpt_of_bytes(self._data()))
            else:
                if not fields:  # a blank line
                    continue
                found = self._values(fields)
            yield ObjectRow(number, found, sum(len(line.data) for line in self._record))
            number += 1

    def _parser(self, source: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(source, strict=True, **self._options)  # type: ignore[arg-type] # a checked mapping

    def _decoded(self) -> Iterator[str]:
        for line in self._lines:
            self._record.append(line)
            yield line.data.decode(errors="surrogateescape")

    def _values(self, fields: list[str]) -> dict[str, Any] | Fault:
        if len(fields) == len(self.header) and all(surrogate(field) is None for field in fields):
            return dict(zip(self.header, (each or None for each in fields), strict=True))
        data, first = self._data(), self._record[0]
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            return _not_utf8(exc, first.offset)
        detail = f"line {first.number}: {len(fields)} fields, the header has {len(self.header)}"
        return Fault("csv", detail, excerpt_of_bytes(data))

    def _data(self) -> bytes:
        return b"".join(line.data for line in self._record)
