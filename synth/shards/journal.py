"""The journal of one open shard: every finished model call, so that a crash costs no call twice.

One record is one line, `crc32 json`, appended by one write(). The journal is a cache: it is not synced, and losing it
costs requests, never rows. The lock on it only saves work; what decides who made a shard is the link (`disk`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from synth.shards.disk import disk_errors, exists, remove

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})
_CRC = 9  # eight hexadecimal digits and a space
_CHUNK = 1 << 20


class Journal:
    """Append-only records of one shard, keyed by text; a record of a key replaces the earlier one."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self._descriptor = descriptor
        self._records: dict[str, dict[str, Any]] = {}
        self._size = 0
        self._broken = False
        self._load()

    def get(self, key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every key with its record, in the order in which they were first written."""
        return iter(self._records.items())

    def append(self, key: str, value: dict[str, Any]) -> None:
        """Add one record; once this returns it survives the death of the process.

        Raises SystemFault when the disk does not take the whole line; the journal then ends before it.
        """
        # ASCII escapes: also a lone surrogate, which no UTF-8 can hold, comes back as it was.
        body = json.dumps([key, value], separators=(",", ":")).encode("ascii")
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        with disk_errors(self.path):
            self._cut_back()
            self._broken = True
            written = 0
            try:
                written = os.write(self._descriptor, line)
            finally:
                if written != len(line):
                    self._cut_back()
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._broken = False
        self._size += len(line)
        self._records[key] = value

    def drop(self) -> None:
        try:
            remove(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Release the shard and keep the records for the next process that claims it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with disk_errors(self.path):
                os.close(descriptor)

    def _cut_back(self) -> None:
        # A torn line would hide all that follows it, so nothing is appended until it is gone.
        if self._broken:
            os.ftruncate(self._descriptor, self._size)
            self._broken = False

    def _load(self) -> None:
        raw = bytearray()
        while chunk := os.pread(self._descriptor, _CHUNK, len(raw)):
            raw += chunk
        while (end := raw.find(b"\n", self._size)) >= 0:
            record = _record(bytes(raw[self._size : end]))
            if record is None:
                break
            self._records[record[0]] = record[1]
            self._size = end + 1
        self._broken = self._size < len(raw)
        self._cut_back()


def claim(path: Path, shard: Path, *, locked: bool) -> Journal | None:
    """Open the journal of a shard for this process alone; None when another has it or `shard` exists.

    A lock dies with its process. Raises SystemFault, OutputError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_errors(path):
        descriptor = os.open(path, flags, 0o644)
        journal = None
        try:
            if (not locked or _lock(descriptor)) and _is_open(descriptor, path, shard):
                journal = Journal(descriptor, path)
        finally:
            if journal is None:
                os.close(descriptor)
        return journal


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        # Without locks two workers may do the same shard: work lost, never a row, for the link decides.
        if exc.errno not in _NO_LOCKS:
            raise
    return True


def _is_open(descriptor: int, path: Path, shard: Path) -> bool:
    try:
        # A finisher may have removed the name between our open and our lock: then we hold a lock on nothing.
        if os.fstat(descriptor).st_ino != os.lstat(path).st_ino:
            return False
    except FileNotFoundError:
        return False
    if exists(shard):
        remove(path)
        return False
    return True


def _record(line: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        if int(line[: _CRC - 1], 16) != zlib.crc32(line[_CRC:]):
            return None
        key, value = json.loads(line[_CRC:])
    except ValueError:
        return None
    return (key, value) if isinstance(key, str) and isinstance(value, dict) else None


def records(path: Path) -> Iterator[dict[str, Any]]:
    """What a journal holds, without its lock; nothing where it has just been dropped."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from dict(filter(None, map(_record, lines))).values()


@contextmanager
def turn(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Take the lock of a file, which must exist; call `waiting` and wait where another process has it.

    It only saves double work: where locks are unsupported, also on a file opened to be read, nobody waits.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def locked(path: Path) -> bool | None:
    """Whether a process of this machine holds a lock on a file; None where the system does not report it.

    Asked of the kernel's list: to try the lock would for a moment take it from a worker.
    """
    try:
        table = Path("/proc/locks").read_text(encoding="ascii")
        inode = path.stat().st_ino
    except OSError:
        return None
    return any(line.split()[1:2] == ["FLOCK"] and f":{inode} " in line for line in table.splitlines())
