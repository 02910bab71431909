"""One Parquet file of a run as an outsider sees it: key-values, rows, columns, pages, checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from synth.verify.findings import Book

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


SHARD = re.compile(r"([0-9]{8})\.parquet")
BODY = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.parquet")
JOURNAL = re.compile(r"(.+)-([0-9]{8})(?:\.[A-Za-z0-9_-]+)?\.jnl")
REVISION = re.compile(r"job\.([0-9]+)\.json")
_ASIDE = re.compile(r"-[0-9a-f]{8}(-[0-9]+)?(\.old)?$")
_KNOWN = frozenset(
    {"README.md", "job.json", "passages", "generated", "scores", "kept", "views", "rejected", "mined"}
    | {"prompts", ".rejects", "tmp", "wip", "logs", "index", "lost+found"}
)


@dataclass(slots=True)
class StepFiles:
    """The shards of one step."""

    name: str
    path: Path
    shards: frozenset[int]
    inode: int

    @property
    def hidden(self) -> bool:
        """Whether this is a view that no reader sees: being filled, or swapped out."""
        return self.name.startswith(".")

    @property
    def shown(self) -> str:
        """Of a hidden view the name by which readers will know it, or knew it: `.kept-1a2b3c4d-0` is for `kept`."""
        return _ASIDE.sub("", self.name).removeprefix(".")

    def file(self, index: int) -> Path:
        return self.path / f"{index:08d}.parquet"

    def exchanged(self) -> bool:
        """Whether another folder has the name now."""
        return _inode(self.path) != self.inode


@dataclass(slots=True)
class Layout:
    """All that verification looks at, by kind."""

    root: Path
    passages: StepFiles
    generated: StepFiles
    scores: list[StepFiles] = field(default_factory=list)
    views: list[StepFiles] = field(default_factory=list)
    """`kept`, the named ones, and hidden ones that are being filled or were swapped out."""
    mined: StepFiles | None = None
    aside: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Files of `.rejects`, `rejected`, `wip` and `tmp`, listed before the shards that they came before or after."""

    def steps(self) -> Iterator[StepFiles]:
        """All of them, in the order of the flow."""
        yield from (self.passages, self.generated, *self.scores, *self.views)
        if self.mined is not None:
            yield self.mined

    def indexes(self) -> list[int]:
        return sorted(frozenset().union(*(step.shards for step in self.steps())))


def survey(root: Path, book: Book) -> Layout:
    """List the folder; names that are not of synth's making are put into the book."""
    top = _names(root)
    aside = {name: files_below(root / name) for name in ("rejected", ".rejects", "wip", "tmp")}
    mined = _step(root, "mined", book) if "mined" in top else None
    views = [_step(root, name, book) for name in _views(root, top)]
    views.insert(0, _step(root, "kept", book))
    scores = [_step(root, f"scores/{name}", book) for name in _folders(root / "scores", book)]
    generated = _step(root, "generated", book)
    for name in sorted(top - _KNOWN):
        if not REVISION.fullmatch(name) and not name.startswith("prompts.") and not _hidden_view(name):
            book.note(root / name, "is not of synth's making")
    return Layout(root, _step(root, "passages", book), generated, scores, views, mined, aside)


def files_below(folder: Path) -> list[Path]:
    """All names below a folder that are no folders, links included, in order; none when there is no folder."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names)


def listed(folder: Path, pattern: re.Pattern[str]) -> dict[str, int]:
    """Names in `folder` that match, with the number in their first group."""
    found = {name: pattern.fullmatch(name) for name in sorted(_names(folder))}
    return {name: int(match[1]) for name, match in found.items() if match}


def _hidden_view(name: str) -> bool:
    return name.startswith(".") and name != ".rejects"


def _views(root: Path, top: set[str]) -> Iterator[str]:
    """Names of the views beside `kept`, hidden ones among them, which begin with a dot."""
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
        book.damage(path, "is a symbolic link; synth makes none")
        return StepFiles(name, path, frozenset(), inode)
    for entry in _entries(path):
        match = SHARD.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            shards.add(int(match[1]))
        elif match or entry.name.endswith(".parquet"):
            book.damage(path / entry.name, "is not a shard of synth, and whoever reads *.parquet reads it too")
        else:
            book.note(path / entry.name, "is not of synth's making")
    return StepFiles(name, path, frozenset(shards), inode)


def _folders(path: Path, book: Book) -> list[str]:
    folders = []
    for entry in _entries(path):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            book.note(path / entry.name, "is not of synth's making")
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


_OPTIONAL = ("retry_of", "positive")
"""Columns that only shards of items asked again have, or of rows that made several pairs."""


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
        raise Unreadable(f"holds shard {stamp.shard:08d}, so it was moved or copied here")
    if stamp.rows_in != stamp.rows_out + stamp.rejected:
        raise Unreadable(f"says {stamp.rows_in} in, {stamp.rows_out} out, {stamp.rejected} rejected")
    wanted = None if columns is None else [each for each in columns if each not in _OPTIONAL or each in file.names]
    return Opened(step, file, stamp, file.read(wanted))
