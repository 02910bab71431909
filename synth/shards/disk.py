"""File operations that survive kill -9 and power loss: a name is whole and on the disk, or it is not there at all.

One system call a line, and no other module of this package creates, links or removes a name except through here. An
OSError leaves as SystemFault (exit 7) with a remedy, a symbolic link in our way as OutputError (exit 4).
"""

# ruff: noqa: PTH102, PTH104, PTH105, PTH108 - the order of the system calls is the subject of this module; pathlib would hide it

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synth.errors import OutputError, SystemFault

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


_MODE = 0o644  # narrowed by the umask, as for any file the user makes
_CHUNK = 1 << 20
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EMLINK})
_NO_SUCH_RENAME = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV})
CURES = {
    errno.ENOSPC: "Free space on that disk",
    errno.EDQUOT: "Free space in that quota",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n 65536`), or lower run.concurrency",
    errno.ENFILE: "Close other programs or raise the system's limit of open files",
    errno.EROFS: "Make that file system writable, or name another folder with -o",
    errno.EACCES: "Give yourself permission there, or name another folder with -o",
    errno.EPERM: "Give yourself permission there, or name another folder with -o",
    errno.ENOENT: "Put the folder back if it was moved",
    errno.EIO: "Check that disk: the system's log says more",
}
"""What helps where the machine refuses."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into the SynthError that names `path`."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            raise foreign(path) from exc
        raise refused(exc, path) from exc


def refused(exc: OSError, path: Path | str) -> SystemFault:
    cure = CURES.get(exc.errno or 0, "Check that disk")
    return SystemFault(f"{path}: {exc.strerror or exc}.", f"{cure}, then run the same command again.")


def foreign(path: Path) -> OutputError:
    """The error for something under one of our names that synth did not make."""
    return OutputError(
        f"{path}: is a symbolic link or not what synth puts there, and synth writes only inside its own folder.",
        "Remove it, or choose another output folder with -o.",
    )


def make_folder(path: Path) -> None:
    """Make sure that `path` is a real folder whose name will survive power loss; its parent must exist.

    Raises OutputError when something else has the name, SystemFault.
    """
    with disk_errors(path):
        with suppress(FileExistsError):
            os.mkdir(path)
        if not is_folder(path):
            raise foreign(path)
        # Also when it was there: its maker may have died before the sync.
        sync_folder(path.parent)


@contextmanager
def partial(target: Path) -> Iterator[Path]:
    """The hidden folder `.NAME.partial` beside the target, locked for this process; what is in it stays.

    Raises OutputError while another process has it, SystemFault.
    """
    path = target.with_name(f".{target.name}.partial")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    make_folder(path)
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise OutputError(
                f"{target}: another process is writing it.", "Wait for it, or choose another -o."
            ) from exc
        yield path
    finally:
        os.close(descriptor)


def is_folder(path: Path) -> bool:
    """Whether `path` is a real folder; False when nothing is there. Raises OutputError for anything else."""
    with disk_errors(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            raise foreign(path)
        return True


def require_writable(path: Path) -> None:
    """Check, without writing, that names can be made in `path`. Raises SystemFault."""
    with disk_errors(path):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(path, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def sync_folder(path: Path) -> None:
    """Put the names in `path` on the disk. Raises SystemFault."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as exc:
            # Some network mounts cannot sync a folder at all; there names are as durable as the mount makes them.
            if exc.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)


def create_once(aside: Path, final: Path, content: bytes) -> bool:
    """Create `final` whole and durable unless it exists; True when this call created it.

    `aside` is a folder on the same file system. The link is the only commit point: of several writers the first wins.
    Raises SystemFault, and then `final` is whole or absent.
    """
    with disk_errors(final), _written(aside, final.name, content) as copy:
        created = _publish(copy, final)
        # Also when another writer won: it may not have synced the name yet, and we are about to believe it.
        sync_folder(final.parent)
    return created


def replace(aside: Path, final: Path, content: bytes) -> None:
    """Give `final` new content in one step; a reader sees the old or the new. Raises SystemFault."""
    with disk_errors(final), _written(aside, final.name, content) as copy:
        os.replace(copy, final)
        sync_folder(final.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, made if need be; it is on the disk when this returns.

    What a killed writer left of its line is ended first, so that a reader finds every other line whole. Raises
    SystemFault, OutputError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with disk_errors(path):
        descriptor = os.open(path, flags, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            rest = memoryview(b"\n" * torn + line + b"\n")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            sync_folder(path.parent)


def link_once(aside: Path, source: Path, final: Path) -> None:
    """Make `final` a second name of `source` (a copy where hard links are unsupported) unless it exists."""
    with disk_errors(final):
        try:
            os.link(source, final)
        except FileExistsError:
            return
        except OSError as exc:
            if exc.errno not in _NO_HARD_LINKS:
                raise
            create_once(aside, final, read_whole(source))
        else:
            sync_folder(final.parent)


def swap_folders(hidden: Path, shown: Path) -> None:
    """Exchange two folders side by side in one rename and sync their parent; `shown` need not exist yet.

    Without RENAME_EXCHANGE it takes two renames: for a moment `shown` does not exist, and a crash just then leaves the
    old one as `<hidden>.old`. Raises SystemFault.
    """
    with disk_errors(shown):
        if not is_folder(shown):
            os.rename(hidden, shown)
        else:
            try:
                exchange(hidden, shown)
            except OSError as exc:
                if exc.errno not in _NO_SUCH_RENAME:
                    raise
                old = hidden.with_name(f"{hidden.name}.old")
                os.rename(shown, old)
                os.rename(hidden, shown)
                os.rename(old, hidden)
        sync_folder(shown.parent)


def read_whole(path: Path) -> bytes:
    """All bytes of a regular file, never through a symbolic link. Raises SystemFault, OutputError."""
    with disk_errors(path), os.fdopen(open_to_read(path), "rb") as file:
        return file.read()


def open_to_read(path: Path) -> int:
    """A descriptor of a regular file. Raises OutputError when it is gone or something else, SystemFault."""
    with disk_errors(path):
        try:
            # O_NONBLOCK: a FIFO under the name must not block us before fstat.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise OutputError(f"{path}: does not exist.", "Run the job again, then this command.") from exc
        regular = False
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        finally:
            if not regular:
                os.close(descriptor)
        if not regular:
            raise foreign(path)
        return descriptor


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """One listing of `folder`, empty when it does not exist. Raises SystemFault, OutputError."""
    if not is_folder(folder):
        return []
    with disk_errors(folder):
        try:
            with os.scandir(folder) as listing:
                return list(listing)
        except FileNotFoundError:
            return []


def remove(path: Path) -> None:
    """Remove a name; nothing to do when it is gone. Raises SystemFault."""
    with disk_errors(path), suppress(FileNotFoundError):
        os.unlink(path)


def exists(path: Path) -> bool:
    """Whether the name exists, as anything. Raises SystemFault when that is unknown."""
    with disk_errors(path):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
        return True


@contextmanager
def _written(aside: Path, name: str, content: bytes) -> Iterator[Path]:
    """A durable copy in another folder, removed at the end unless it was renamed."""
    copy = aside / f"{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(copy, flags, _MODE)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
            # A failed fsync is final: the kernel may have dropped the pages, so the copy goes and is written anew.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield copy
    finally:
        # What stays in tmp/ harms nobody and `synth gc` removes it; an error that brought us here matters more.
        with suppress(OSError):
            os.unlink(copy)


def _publish(copy: Path, final: Path) -> bool:
    try:
        os.link(copy, final)
    except FileExistsError:
        # NFS may repeat a link whose answer was lost and then report our own success as a clash.
        mine, theirs = os.lstat(copy), os.lstat(final)
        return (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino)
    except OSError as exc:
        if exc.errno not in _NO_HARD_LINKS:
            raise
    else:
        return True
    try:
        return rename_new(copy, final)
    except OSError as exc:
        if exc.errno not in _NO_SUCH_RENAME:
            raise
        raise SystemFault(
            f"{final}: its file system ({_file_system(final.parent)}) offers neither hard links nor a rename that "
            "spares an existing file, so two writers could overwrite each other.",
            "Choose an output folder on another file system with -o.",
        ) from exc


def _file_system(folder: Path) -> str:
    """Type and mount point, for instance `exfat on /media/stick`; `unknown` where the system does not report it."""
    best = ("", "unknown")
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            if folder.is_relative_to(point) and len(point) >= len(best[0]):
                best = (point, f"{kind} on {point}")
    return best[1]
