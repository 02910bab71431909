"""Bytes of text files: unpacked, cut into lines of bounded length, with every kind of damage named."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

from synth.errors import InputError, SystemFault

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"


class Line(NamedTuple):
    """One line with its ending; `number` counts from 1 as editors do, `offset` is in bytes of the unpacked file."""

    number: int
    offset: int
    data: bytes


@contextmanager
def opened(path: Path | str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file, plain, gzip or Zstandard by its first bytes, whatever its name says.

    Raises InputError when the file is gone, cut off or damaged, SystemFault when it may not be read.
    """
    try:
        with Path(path).open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic.startswith(GZIP):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield io.BufferedReader(unpacked)
            elif magic == ZSTD:
                with pa.CompressedInputStream(raw, "zstd") as unpacked:
                    yield io.BufferedReader(unpacked)
            else:
                yield raw
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
    except FileNotFoundError as exc:
        raise InputError(f"{path}: the file is gone.", "Put it back, or start a new output folder.") from exc
    except (EOFError, zlib.error, OSError, pa.ArrowException) as exc:
        raise InputError(f"{path}: cut off or damaged ({exc}).", "Fetch or pack it again.") from exc


def tally(rows: Iterable[object]) -> int:
    """How many rows there are; where the file breaks off, the error says how many could be read before."""
    count = 0
    try:
        for _ in rows:
            count += 1
    except InputError as exc:
        raise InputError(f"{exc.message} {count:,} rows can be read before that.", exc.hint) from exc
    return count


def lines(stream: IO[bytes], limit: int, path: str) -> Iterator[Line]:
    """Lines of a stream, without the byte order mark at its start.

    Raises InputError for a line of more than `limit` bytes.
    """
    offset = 0
    for number, data in enumerate(iter(lambda: stream.readline(limit + 2), b""), start=1):
        if len(data) > limit + 1 or (len(data) > limit and not data.endswith(b"\n")):
            raise InputError(
                f"{path}: line {number} is longer than {limit} bytes.",
                "Cut it, or raise `limits.max_line_bytes` in the job.",
            )
        if number == 1 and data.startswith(BOM):
            yield Line(number, len(BOM), data[len(BOM) :])
        else:
            yield Line(number, offset, data)
        offset += len(data)


def undecodable(data: bytes, offset: int) -> str:
    """Where the first byte stands that is not UTF-8, for a rejected row; `offset` is that of `data` in its file."""
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        return f"byte {offset + exc.start} of the file (0x{data[exc.start]:02x}) is not UTF-8"
    return ""
