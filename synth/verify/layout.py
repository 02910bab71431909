"""Which files a run's folder holds, from one listing of each folder, later steps first.

Shards appear in the order of the steps, and their links to rejected rows after them, so listings in the opposite order
never show a file without those it was made from, also while a run goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synth.verify.findings import Book

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
