"""Two renames that Python does not offer: never over an existing name, and two names exchanged in one step.

Both are flags of Linux's renameat2(2). Where the C library or the file system lacks them, OSError says so (ENOSYS,
EINVAL).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2


def rename_new(source: Path, target: Path) -> bool:
    """Rename unless `target` exists; False when it does. Raises OSError, ENOSYS or EINVAL where unsupported."""
    try:
        _renameat2(source, target, _NOREPLACE)
    except FileExistsError:
        return False
    return True


def exchange(one: Path, other: Path) -> None:
    """Exchange two existing names in one step. Raises OSError, ENOSYS or EINVAL where unsupported."""
    _renameat2(one, other, _EXCHANGE)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    import ctypes  # noqa: PLC0415 - only the rare file system without hard links pays for it

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "the C library has no renameat2", str(source), None, str(target))
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))
