"""The files of a run as an outsider sees them: which there are, and what is in one Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from synth.verify.findings import Book

NEWEST_FORMAT = 1
FOREIGN = "not a file of synth"
SHARD = re.compile(r"([0-9]{8})\.parquet")
BODY = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.parquet")
JOURNAL = re.compile(r"(.+)-([0-9]{8})(?:\.[A-Za-z0-9_-]+)?\.jnl")
REVISION = re.compile(r"job\.([0-9]+)\.json")
_HIDDEN = re.compile(r"-[0-9a-f]{8}(-[0-9]+)?(\.old)?$")
_KNOWN = frozenset(
    {"README.md", "job.json", "passages", "generated", "scores", "kept", "views", "rejected", "mined"}
    | {"prompts", ".rejects", "tmp", "wip", "logs", "index", "lost+found"}
)
_NUMBERS = ("format", "shard", "first", "in", "out", "rejected")
_TEXTS = ("identity", "input", "rejects_file", "rejects_sha256", "schema", "writer")
_OPTIONAL = ("retry_of", "positive")
"""Columns that only some shards have: with retried items, or with rows that made several pairs."""


class Unreadable(Exception):  # noqa: N818 - becomes a finding, never shown as an error
    """A file is missing, damaged or not what its name says; the text says how."""


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
            raise Unreadable(f"its metadata cannot be parsed ({exc})") from exc
        if number["format"] > NEWEST_FORMAT:
            raise Unreadable(f"it was written by a newer synth ({found['synth.writer']})")
        if min(number.values()) < 0:
            raise Unreadable("its metadata contain a negative count")
        counts = number["shard"], number["first"], number["in"], number["out"], number["rejected"]
        identity, source, file, sha256, _, _ = (found[f"synth.{name}"] for name in _TEXTS)
        return cls(identity, source, *counts, file, sha256)


class ShardFile:
    """An open Parquet file, read with page checksums on. All methods raise Unreadable for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        self._sha256: str | None = None
        try:
            with _damage():
                self._parquet = pq.ParquetFile(self._file, pre_buffer=False, page_checksum_verification=True)
        except Unreadable:
            self._file.close()
            raise
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
        """Some columns, or all of them, which checks every page."""
        absent = sorted(set(columns or ()) - set(self.names))
        if absent:
            raise Unreadable(f"it has no column {absent[0]!r}")
        with _damage():
            table = self._parquet.read(columns, use_threads=False)  # a thread of Arrow's may outlive this process
        if table.num_rows != self.rows:
            raise Unreadable(f"its footer says {self.rows} rows, it holds {table.num_rows}")
        return table.replace_schema_metadata(None)

    def check_pages(self) -> None:
        """Read every page, one row group in memory at a time."""
        with _damage():
            for group in range(self._parquet.num_row_groups):
                self._parquet.read_row_group(group, use_threads=False)

    def sha256(self) -> str:
        """Hash of the file, read once."""
        if self._sha256 is None:
            self._sha256 = sha256_of(self.path)
        return self._sha256


@contextmanager
def _damage() -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into Unreadable."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise Unreadable(str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc


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
    with open_regular(path) as file, _damage():
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(slots=True)
class StepFiles:
    """The shards of one step."""

    name: str
    path: Path
    shards: frozenset[int]
    inode: int

    @property
    def hidden(self) -> bool:
        """Whether this is a view that readers do not see, because it is being filled or was replaced."""
        return self.name.startswith(".")

    @property
    def visible_name(self) -> str:
        """The name under which a hidden view is or was visible: `.kept-1a2b3c4d-0` belongs to `kept`."""
        return _HIDDEN.sub("", self.name).removeprefix(".")

    def file(self, index: int) -> Path:
        return self.path / f"{index:08d}.parquet"

    def replaced(self) -> bool:
        """Whether the name now belongs to another folder."""
        return _inode(self.path) != self.inode


@dataclass(slots=True)
class Layout:
    """All files that are verified, by kind."""

    root: Path
    passages: StepFiles
    generated: StepFiles
    scores: list[StepFiles] = field(default_factory=list)
    views: list[StepFiles] = field(default_factory=list)
    """`kept`, the named ones, and hidden ones that are being filled or were replaced."""
    mined: StepFiles | None = None
    others: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Files of `.rejects`, `rejected`, `wip` and `tmp`, listed before the shards."""

    def steps(self) -> Iterator[StepFiles]:
        """All steps, in the order of the pipeline."""
        yield from (self.passages, self.generated, *self.scores, *self.views)
        if self.mined is not None:
            yield self.mined

    def indexes(self) -> list[int]:
        return sorted(frozenset().union(*(step.shards for step in self.steps())))


def survey(root: Path, book: Book) -> Layout:
    """List the folder; files that are not synth's are noted in the book."""
    top = _names(root)
    others = {name: files_below(root / name) for name in ("rejected", ".rejects", "wip", "tmp")}
    mined = _step(root, "mined", book) if "mined" in top else None
    views = [_step(root, name, book) for name in _views(root, top)]
    views.insert(0, _step(root, "kept", book))
    scores = [_step(root, f"scores/{name}", book) for name in _folders(root / "scores", book)]
    generated = _step(root, "generated", book)
    for name in sorted(top - _KNOWN):
        if not REVISION.fullmatch(name) and not name.startswith("prompts.") and not _hidden_view(name):
            book.note(root / name, FOREIGN)
    return Layout(root, _step(root, "passages", book), generated, scores, views, mined, others)


def files_below(folder: Path) -> list[Path]:
    """All files and links below a folder, in order; empty if the folder does not exist."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names)


def listed(folder: Path, pattern: re.Pattern[str]) -> dict[str, int]:
    """Names in `folder` that match, with the number in their first group."""
    found = {name: pattern.fullmatch(name) for name in sorted(_names(folder))}
    return {name: int(match[1]) for name, match in found.items() if match}


def _hidden_view(name: str) -> bool:
    return name.startswith(".") and name != ".rejects"


def _views(root: Path, top: set[str]) -> Iterator[str]:
    """Names of the views other than `kept`, including hidden ones, which begin with a dot."""
    for name in sorted(top):
        if name in ("views", ".views"):
            yield from (f"{name}/{each}" for each in sorted(_names(root / name)) if (root / name / each).is_dir())
        elif _hidden_view(name) and (root / name).is_dir():
            yield name


def _step(root: Path, name: str, book: Book) -> StepFiles:
    path = root / name
    inode = _inode(path)
    shards = set()
    if path.is_symlink():
        book.damage(path, "is a symbolic link; synth creates none")
        return StepFiles(name, path, frozenset(), inode)
    for entry in _entries(path):
        match = SHARD.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            shards.add(int(match[1]))
        elif match or entry.name.endswith(".parquet"):
            book.damage(path / entry.name, "is not a shard of synth, but a reader of *.parquet reads it")
        else:
            book.note(path / entry.name, FOREIGN)
    return StepFiles(name, path, frozenset(shards), inode)


def _folders(path: Path, book: Book) -> list[str]:
    folders = []
    for entry in _entries(path):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            book.note(path / entry.name, FOREIGN)
    return sorted(folders)


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _names(path: Path) -> set[str]:
    return {entry.name for entry in _entries(path)}


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


@dataclass(slots=True)
class Opened:
    """One shard, open, with the columns that were read of it (all of them in deep mode)."""

    step: StepFiles
    file: ShardFile
    stamp: Stamp
    table: pa.Table
    rejected: pa.Table | None = None

    @property
    def name(self) -> str:
        return f"{self.step.name}/{self.file.path.name}"

    @property
    def ids(self) -> list[str]:
        found: list[str] = self.table["id"].to_pylist()
        return found

    @property
    def rejected_ids(self) -> list[str]:
        return [] if self.rejected is None else self.rejected["id"].to_pylist()


def open_shard(step: StepFiles, index: int, stack: ExitStack, columns: Iterable[str] | None) -> Opened:
    """Open shard `index` for as long as `stack` lives and read `columns`, None for all. Raises Unreadable."""
    file = stack.enter_context(ShardFile(step.file(index)))
    stamp = file.stamp()
    if stamp.shard != index:
        raise Unreadable(f"holds shard {stamp.shard:08d}: it was moved or copied here")
    if stamp.rows_in != stamp.rows_out + stamp.rejected:
        raise Unreadable(f"says {stamp.rows_in} in, {stamp.rows_out} out, {stamp.rejected} rejected")
    wanted = None if columns is None else [each for each in columns if each not in _OPTIONAL or each in file.names]
    return Opened(step, file, stamp, file.read(wanted))
