"""The files of a run as an outsider sees them, and what is found: damage, which ends in exit 4, and notes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

NEWEST_FORMAT = 1
FOREIGN = "not a file of synth"
SHARD = re.compile(r"([0-9]{8})\.parquet")
BODY = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.parquet")
JOURNAL = re.compile(r"(.+)-([0-9]{8})(?:\.[A-Za-z0-9_-]+)?\.jnl")
REVISION = re.compile(r"job\.([0-9]+)\.json")
_HIDDEN = re.compile(r"-[0-9a-f]{8}(-[0-9]+)?(\.old)?$")
MARKS = "marks.jsonl"
_KNOWN = frozenset(
    {"README.md", "report.html", "job.json", "passages", "generated", "scores", "kept", "views", "rejected", "mined"}
    | {"prepared.json", "prompts", ".rejects", "tmp", "wip", "logs", "index", "lost+found", "relabelled", MARKS}
)
_NUMBERS = ("shard", "first", "in", "out", "rejected")
_TEXTS = ("identity", "input", "rejects_file", "rejects_sha256")
_KEYS = ("format", *_NUMBERS, *_TEXTS, "schema", "writer", "models")
_OPTIONAL = ("retry_of", "positive")
"""Columns that only some shards have: with retried items, or with rows that made several pairs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one file; its path is relative to the run's folder if the file is in it."""

    file: str
    what: str


@dataclass(slots=True)
class StepTotals:
    """One step over all its shards. `of` is None until the number of shards is known.

    `unit` is what `rows_in` counts, `made` is what those in `rows_out` became.
    """

    step: str
    of: int | None
    unit: str = "pairs"
    made: str = "kept"
    shards: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejected: int = 0
    retried: int = 0
    """How many of the rejected items were retried as new items."""
    open: int | None = None
    """Items without an outcome yet; None for steps where they are not counted."""

    @property
    def complete(self) -> bool:
        return self.of is not None and self.shards >= self.of


@dataclass(slots=True)
class Report:
    """Everything that is found, filled while the files are read; `facts` are about files that belong to no step."""

    root: Path
    deep: bool = False
    facts: list[tuple[str, str]] = field(default_factory=list)
    steps: list[StepTotals] = field(default_factory=list)
    _damage: dict[Finding, None] = field(default_factory=dict)
    _notes: dict[Finding, None] = field(default_factory=dict)

    @property
    def damage(self) -> tuple[Finding, ...]:
        return tuple(self._damage)

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(self._notes)

    @property
    def sound(self) -> bool:
        return not self._damage

    @property
    def complete(self) -> bool:
        return all(step.complete for step in self.steps)

    def blame(self, file: Path | str, what: str) -> None:
        self._damage[Finding(self._shown(file), what)] = None

    def note(self, file: Path | str, what: str) -> None:
        self._notes[Finding(self._shown(file), what)] = None

    def blames(self, file: Path | str) -> bool:
        """Whether this file is known to be damaged, so that its consequences need not be reported."""
        return self._shown(file) in {each.file for each in self._damage}

    def withdraw(self, folder: str) -> None:
        """Forget the damage of a folder that was replaced while it was being read."""
        self._damage = {each: None for each in self._damage if not each.file.startswith(f"{folder}/")}

    def as_json(self) -> dict[str, Any]:
        """Everything but the facts, for scripts."""
        steps = [asdict(step) | {"complete": step.complete} for step in self.steps]
        found = {name: [asdict(each) for each in getattr(self, name)] for name in ("damage", "notes")}
        return {"sound": self.sound, "complete": self.complete, "deep": self.deep, "steps": steps, **found}

    def _shown(self, file: Path | str) -> str:
        path = Path(file)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(file)


class Unreadable(Exception):  # noqa: N818 - becomes a finding, never shown as an error
    """A file is missing, damaged or not what its name says; the text says how."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The `synth.*` key-values of a shard."""

    shard: int
    first: int
    rows_in: int
    rows_out: int
    rejected: int
    identity: str
    input: str
    rejects_file: str
    rejects_sha256: str


class ShardFile:
    """An open Parquet file, read with page checksums on. All methods raise Unreadable for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
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
        """Read the key-values of the footer."""
        keys = (self._parquet.metadata.metadata or {}).items()
        found = {key.decode(): value.decode() for key, value in keys if key.startswith(b"synth.")}
        absent = [name for name in _KEYS if f"synth.{name}" not in found]
        if absent:
            raise Unreadable(f"its metadata lack synth.{absent[0]}")
        try:
            version = int(found["synth.format"])
            shard, first, rows_in, rows_out, rejected = (int(found[f"synth.{name}"]) for name in _NUMBERS)
            json.loads(found["synth.models"])
        except ValueError as exc:
            raise Unreadable(f"its metadata cannot be parsed ({exc})") from exc
        if version > NEWEST_FORMAT:
            raise Unreadable(f"it was written by a newer synth ({found['synth.writer']})")
        if min(version, shard, first, rows_in, rows_out, rejected) < 0:
            raise Unreadable("its metadata contain a negative count")
        identity, source, file, sha256 = (found[f"synth.{name}"] for name in _TEXTS)
        return Stamp(shard, first, rows_in, rows_out, rejected, identity, source, file, sha256)

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

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)


@contextmanager
def _damage() -> Iterator[None]:
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


def sha256_of_json(value: object) -> str:
    """Hash over canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
    added: list[StepFiles] = field(default_factory=list)
    """`relabelled` and `mined`, where they exist."""
    others: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Files of `.rejects`, `rejected`, `wip` and `tmp`, listed before the shards."""

    def steps(self) -> Iterator[StepFiles]:
        yield from (self.passages, self.generated, *self.scores, *self.views, *self.added)

    def indexes(self) -> list[int]:
        return sorted(frozenset().union(*(step.shards for step in self.steps())))


def survey(report: Report) -> Layout:
    """List the folder; files that are not synth's are noted in the report."""
    root = report.root
    top = {entry.name for entry in _entries(root)}
    others = {name: files_below(root / name) for name in ("rejected", ".rejects", "wip", "tmp")}
    added = [_step(report, name) for name in ("relabelled", "mined") if name in top]
    views = [_step(report, "kept")]
    for name in sorted(top):
        if name in {"views", ".views"}:
            views += [_step(report, f"{name}/{each.name}") for each in _entries(root / name) if each.is_dir()]
        elif _hidden_view(name) and (root / name).is_dir():
            views.append(_step(report, name))
    scores = []
    for entry in _entries(root / "scores"):
        if entry.is_dir(follow_symlinks=False):
            scores.append(_step(report, f"scores/{entry.name}"))
        else:
            report.note(entry.path, FOREIGN)
    generated = _step(report, "generated")
    for name in sorted(top - _KNOWN):
        if not REVISION.fullmatch(name) and not name.startswith("prompts.") and not _hidden_view(name):
            report.note(root / name, FOREIGN)
    return Layout(root, _step(report, "passages"), generated, scores, views, added, others)


def files_below(folder: Path) -> list[Path]:
    """All files and links below a folder, in order; empty if the folder does not exist."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names)


def _hidden_view(name: str) -> bool:
    return name.startswith(".") and name != ".rejects"


def _step(report: Report, name: str) -> StepFiles:
    path = report.root / name
    inode = _inode(path)
    shards = set()
    if path.is_symlink():
        report.blame(path, "is a symbolic link; synth creates none")
        return StepFiles(name, path, frozenset(), inode)
    for entry in _entries(path):
        match = SHARD.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            shards.add(int(match[1]))
        elif match or entry.name.endswith(".parquet"):
            report.blame(path / entry.name, "is not a shard of synth, but a reader of *.parquet reads it")
        else:
            report.note(path / entry.name, FOREIGN)
    return StepFiles(name, path, frozenset(shards), inode)


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


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
        return list(self.table["id"].to_pylist())

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
