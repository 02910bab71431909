"""Text files, plain or packed: JSON lines, CSV with a header line, TSV, and files that are one passage each.

How CSV and TSV are written is found from each file (`synth.sources.dialects`). Every field is text, also in carried
columns: `007` is not 7.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from synth.errors import InputError, SystemFault
from synth.sources import dialects
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

    @property
    def text(self) -> str:
        return self.data.decode(errors="surrogateescape")


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


def lines(stream: IO[bytes], limit: int, path: str, *, carriage: bool = False) -> Iterator[Line]:
    """Lines of a stream, without a byte order mark; with `carriage` a carriage return alone ends one, too.

    Raises InputError for a line of more than `limit` bytes.
    """
    offset = 0
    found = _any_lines(stream, limit) if carriage else iter(lambda: stream.readline(limit + 2), b"")
    for number, data in enumerate(found, start=1):
        if len(data) > limit + 1 or (len(data) > limit and not data.endswith((b"\n", b"\r"))):
            raise InputError(f"{path}: line {number} is longer than {limit} bytes.", RAISE_LIMIT)
        if number == 1 and data.startswith(BOM):
            yield Line(number, len(BOM), data[len(BOM) :])
        else:
            yield Line(number, offset, data)
        offset += len(data)


def _any_lines(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    """Lines that end with a line feed, a carriage return or both; one beyond the limit is not read to its end."""
    rest = b""
    while chunk := stream.read(1 << 20):
        *whole, rest = (rest + chunk).splitlines(keepends=True)
        yield from whole
        if len(rest) > limit + 1:
            break
    yield from rest.splitlines(keepends=True)


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
        before = f" {total:,} rows can be read before that." if total else ""
        raise InputError(f"{exc.message}{before}", exc.hint) from exc
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
        self._path, self._limit = path, limits.max_line_bytes
        # one setting for the whole process: the default of 131,072 characters is shorter than many documents
        csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes))
        status = Path(path).stat()
        self._dialect = _dialect(path, (status.st_size, status.st_mtime_ns))
        self._lines = lines(stream, limits.max_line_bytes, path, carriage=self._dialect.carriage)
        self._waiting = deque[Line]()  # lines that were read ahead
        self._record: list[Line] = []  # the lines of the current record
        self._parser = self._dialect.fields(self._decoded())
        try:
            while (found := next(self._parser, None)) == []:
                self._record.clear()
        except csv.Error as exc:
            what = f"line {self._record[0].number}: the header is malformed ({exc})"
            raise InputError(f"{path}: {what}.", "Close its quotes, or write the file as JSON lines.") from exc
        self.header = found or []
        if len(set(self.header)) < len(self.header):
            raise InputError(f"{path}: the header names a column twice.", "Rename one of them.")
        if surrogate("".join(self.header)) is not None:
            raise InputError(f"{path}: the header is not UTF-8.", "Convert the file with iconv.")

    def __iter__(self) -> Iterator[ObjectRow]:
        number, sound = 0, True
        while True:
            self._record.clear()
            found: Mapping[str, Any] | Fault
            try:
                fields = next(self._parser)
            except StopIteration:
                return
            except csv.Error as exc:
                first = self._record[0].number if self._record else 0
                if "unexpected end" in str(exc) or "field larger" in str(exc):  # it would swallow the rows after it
                    what = "a quote is not closed within the file or `limits.max_line_bytes`"
                    hint = "Fix the line, or write the file as JSON lines."
                    raise InputError(f"{self._path}: line {first}: {what}.", hint) from exc
                self._find_end()
                found = self._fault(str(exc))
            else:
                if not fields:  # a blank line
                    continue
                found = self._values(fields, sound=sound)
            sound = not isinstance(found, Fault) or found.reason != "csv"
            yield ObjectRow(number, found, sum(len(line.data) for line in self._record))
            number += 1

    def _decoded(self) -> Iterator[str]:
        for line in self._unread():
            self._record.append(line)
            yield line.text

    def _unread(self) -> Iterator[Line]:
        while (line := self._waiting.popleft() if self._waiting else next(self._lines, None)) is not None:
            yield line

    def _values(self, fields: list[str], *, sound: bool) -> dict[str, Any] | Fault:
        """The row of these fields; after a malformed record one that has stray quotes is the rest of it."""
        if len(fields) == len(self.header) and all(surrogate(field) is None for field in fields):
            if sound or self._dialect.width("".join(line.text for line in self._record)):
                return dict(zip(self.header, (each or None for each in fields), strict=True))
            return self._fault("stray quotes after a malformed record")
        try:
            self._data().decode()
        except UnicodeDecodeError as exc:
            return _not_utf8(exc, self._record[0].offset)
        if self._dialect.opens(self._record[0].text):
            self._find_end()
        return self._fault(f"{len(fields)} fields, the header has {len(self.header)}")

    def _find_end(self) -> None:
        """Leave the lines of the malformed record in `_record`; those after it wait.

        It ends with the last line that closes a quote, of those before the next line that opens one; with its first
        line where there is none.
        """
        first, *rest = self._record
        self._waiting.extendleft(reversed(rest))
        ahead: list[Line] = []
        size = closed = 0
        for line in self._unread():
            ahead.append(line)
            size += len(line.data)
            if size > self._limit or self._dialect.opens(line.text):
                break
            if (self._dialect.quotechar or "\n") in line.text.rstrip("\r\n"):
                closed = len(ahead)
        self._record = [first, *ahead[:closed]]
        self._waiting.extendleft(reversed(ahead[closed:]))

    def _fault(self, what: str) -> Fault:
        first, last = self._record[0].number, self._record[-1].number
        where = f"line {first}" if first == last else f"lines {first} to {last}"
        return Fault("csv", f"{where}: {what}", excerpt_of_bytes(self._data()))

    def _data(self) -> bytes:
        return b"".join(line.data for line in self._record)


@lru_cache(maxsize=256)
def _dialect(path: str, _changed: tuple[int, int]) -> dialects.Dialect:
    with opened(path) as stream:
        head = stream.read(dialects.HEAD)
    if len(head) == dialects.HEAD:  # up to the last line end
        head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1]
    tabs = Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower() == ".tsv"
    return dialects.find(head.removeprefix(BOM).decode(errors="surrogateescape"), tabs=tabs)
