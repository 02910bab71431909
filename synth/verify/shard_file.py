"""One Parquet file of a run as an outsider sees it: key-values, rows, columns, pages, checksum."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

NEWEST_FORMAT = 1
_NUMBERS = ("format", "shard", "first", "in", "out", "rejected")
_TEXTS = ("identity", "input", "rejects_file", "rejects_sha256", "schema", "writer")


class Unreadable(Exception):  # noqa: N818 - a finding in the making, never shown as an error
    """A file is gone, torn or not what its name says; the text says how."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The `synth.*` key-values of a shard."""

    identity: str
    input: str
    shard: int
    first: int
    rows_in: int
    rows_out: int
    rejected: int
    rejects_file: str
    rejects_sha256: str

    @classmethod
    def of(cls, keys: dict[bytes, bytes] | None) -> Stamp:
        """Read the key-values of a footer. Raises Unreadable."""
        found = {key.decode(): value.decode() for key, value in (keys or {}).items() if key.startswith(b"synth.")}
        absent = [name for name in (*_NUMBERS, *_TEXTS, "models") if f"synth.{name}" not in found]
        if absent:
            raise Unreadable(f"its metadata lack synth.{absent[0]}")
        try:
            number = {name: int(found[f"synth.{name}"]) for name in _NUMBERS}
            json.loads(found["synth.models"])
        except ValueError as exc:
            raise Unreadable(f"its metadata are garbled ({exc})") from exc
        if number["format"] > NEWEST_FORMAT:
            raise Unreadable(f"it was written by a newer synth ({found['synth.writer']})")
        if min(number.values()) < 0:
            raise Unreadable("its metadata hold a negative count")
        return cls(
            found["synth.identity"],
            found["synth.input"],
            number["shard"],
            number["first"],
            number["in"],
            number["out"],
            number["rejected"],
            found["synth.rejects_file"],
            found["synth.rejects_sha256"],
        )


class ShardFile:
    """An open Parquet file, read with page checksums on. Every method raises Unreadable for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        self._sha256: str | None = None
        try:
            self._parquet = pq.ParquetFile(self._file, pre_buffer=False, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as exc:
            self._file.close()
            raise Unreadable(_first_line(exc)) from exc
        self.rows: int = self._parquet.metadata.num_rows
        self.names: list[str] = self._parquet.schema_arrow.names

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parquet.close()
        self._file.close()

    def stamp(self) -> Stamp:
        """The key-values of the footer."""
        return Stamp.of(self._parquet.metadata.metadata)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Some columns, or all of them: then every page is checked."""
        absent = sorted(set(columns or ()) - set(self.names))
        if absent:
            raise Unreadable(f"it has no column {absent[0]!r}")
        try:
            table = self._parquet.read(columns, use_threads=False)  # one of Arrow's may outlive this process
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise Unreadable(_first_line(exc)) from exc
        if table.num_rows != self.rows:
            raise Unreadable(f"it promises {self.rows} rows and holds {table.num_rows}")
        return table.replace_schema_metadata(None)

    def check_pages(self) -> None:
        """Read every page, one row group in memory at a time."""
        try:
            for group in range(self._parquet.num_row_groups):
                self._parquet.read_row_group(group, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise Unreadable(_first_line(exc)) from exc

    def sha256(self) -> str:
        """Hash of the file, read once."""
        if self._sha256 is None:
            self._sha256 = sha256_of(self.path)
        return self._sha256


def open_regular(path: Path) -> Any:
    """A binary file object of a regular file, never through a symbolic link. Raises Unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise Unreadable(exc.strerror or str(exc)) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable("is not a regular file")
    return os.fdopen(descriptor, "rb")


def sha256_of(path: Path) -> str:
    """Hash of a regular file, read in pieces. Raises Unreadable."""
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise Unreadable(exc.strerror or str(exc)) from exc


def _first_line(exc: Exception) -> str:
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
