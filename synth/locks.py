"""Whether somebody works on a file, asked without getting in their way; and waiting for one's turn."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def turn(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the file's lock, which must exist, and wait for it where another process has it (`waiting` is called first).

    It only saves double work: where there are no locks, or none on a file opened to be read, nobody waits.
    """
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
    """Whether a process of this machine holds a lock on a file; None where the system does not tell.

    Asked of the kernel's list: to try the lock would for a moment take it from a worker.
    """
    try:
        table = Path("/proc/locks").read_text(encoding="ascii")
        inode = path.stat().st_ino
    except OSError:
        return None
    return any(line.split()[1:2] == ["FLOCK"] and f":{inode} " in line for line in table.splitlines())
