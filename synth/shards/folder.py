"""The shards of one step: which are done, reading them, claiming the next one, committing it.

A shard exists or it does not. Its name is eight digits and `.parquet`, given once and never rewritten.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import JobError, OutputError, SynthError
from synth.names import path_of
from synth.shards import disk
from synth.shards.journal import Journal, claim, records
from synth.shards.shard import Origin, Shard, ShardMeta, damaged, decode, encode, writer

_PART = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise JobError(f"{name!r} cannot be a name inside an output folder.", "Use letters, digits, '.', '_' and '-'.")
    return parts


_SHARD = re.compile(r"([0-9]{8})\.parquet")
_BODY = re.compile(r"([0-9]{8})-[0-9a-f]{16}\.parquet")
_MOST = 10**8


class StepFolder:
    """One step's folder, for instance `generated` or `scores/cosine-1a2b3c4d`; made on the first write.

    `hidden`: the folder that really holds the shards while a new version of a view is filled (see `swap_view`).
    """

    def __init__(self, folder: OutputFolder, name: str, *, hidden: str = "") -> None:
        self.name = name
        self.path = folder.locate(hidden or name)
        self._folder = folder
        self._place = hidden or name
        self._prefix = self._place.replace("/", "-") + "-"
        self._checksums = folder.checksums.setdefault(self._place, {})

    def file(self, index: int) -> Path:
        return self.path / f"{_digits(index)}.parquet"

    def done(self) -> set[int]:
        return set(_listed(self.path, _SHARD).values())

    def first(self) -> int | None:
        """The lowest finished shard, None when there is none; as a rule without a listing. Raises as `done`."""
        return 0 if disk.exists(self.file(0)) else min(self.done(), default=None)

    def made_by(self, identity: str) -> bool:
        """Whether its shards, where it has any, were made under this identity."""
        first = self.first()
        return first is None or self.meta(first).identity == identity

    def read(self, index: int) -> Shard:
        """A whole shard, every page checked. Raises OutputError naming the file when it is damaged or gone."""
        path = self.file(index)
        table = decode(disk.read_whole(path), path)
        meta = ShardMeta.from_keys(table.schema.metadata, path, index)
        return Shard(table.replace_schema_metadata(None), meta)

    def meta(self, index: int) -> ShardMeta:
        """What is recorded with a shard, from its footer alone. Raises OutputError, SystemFault."""
        path = self.file(index)
        with readable(path) as file:
            keys = pq.read_metadata(file).metadata
        return ShardMeta.from_keys(keys, path, index)

    def read_columns(self, index: int, names: Sequence[str]) -> pa.Table:
        """Some columns of a shard, their pages checked, the rest unread. Raises OutputError, SystemFault."""
        path = self.file(index)
        # Arrow opens it itself: its threads may outlive Python, and so must not hold what is Python's.
        with readable(path):
            file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
            table = file.read(list(names)).select(list(names))  # `a` also brings a column that is called `a.b`
        return table.replace_schema_metadata(None)

    def schema(self, index: int) -> pa.Schema:
        with readable(self.file(index)) as file:
            return pq.read_schema(file)

    def rejects(self, index: int) -> pa.Table | None:
        """The rejected rows of a shard, None when it has none. Raises OutputError when they are damaged or gone."""
        meta = self.meta(index)
        if not meta.rejects_file:
            return None
        path = self._body(meta)
        content = disk.read_whole(path)
        if hashlib.sha256(content).hexdigest() != meta.rejects_sha256:
            raise damaged(path, "its sha256 is not the one its shard names")
        return decode(content, path).replace_schema_metadata(None)

    def checksum(self, index: int) -> str:
        """The sha256 of a shard's bytes, which the next step records as its input; remembered while unchanged."""
        path = self.file(index)
        with disk.disk_errors(path), os.fdopen(disk.open_to_read(path), "rb") as file:
            status = os.fstat(file.fileno())
            size, mtime, digest = self._checksums.get(index, (-1, -1, ""))
            if (size, mtime) != (status.st_size, status.st_mtime_ns):
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._checksums[index] = (status.st_size, status.st_mtime_ns, digest)
        return digest

    def stale(self, index: int, input_checksum: str) -> bool:
        return self.meta(index).input != input_checksum

    def started(self) -> list[int]:
        return sorted(set(self._journals().values()))

    def journaled(self) -> Iterator[dict[str, Any]]:
        """The records of all open shards, which other processes may be writing. Raises SystemFault."""
        done = self.done()
        for name, index in sorted(self._journals().items()):
            if index not in done:
                yield from records(self._folder.path / "wip" / name)

    def claim(self, index: int, *, writer: str = "") -> Journal | None:
        """Take a shard for this process; None when another one has it or it is done. Raises SystemFault, OutputError.

        With `writer` no lock is taken: each writer keeps a journal of its own, and several may do the same shard.
        """
        suffix = f".{writer}" if writer else ""
        path = self._folder.make("wip") / f"{self._prefix}{_digits(index)}{suffix}.jnl"
        return claim(path, self.file(index), locked=not writer)

    def commit(self, index: int, table: pa.Table, origin: Origin, *, rejects: pa.Table | None = None) -> bool:
        """Make shard `index` exist, durable, with its rejected rows; True when this call created it.

        False: another worker did first and its copy stands (differing bytes are notified). Once this returns, power
        loss cannot take the shard back. Raises SynthError when the rows do not add up, SystemFault, OutputError.
        """
        rejected = 0 if rejects is None else rejects.num_rows
        if origin.rows_in != origin.rows_out + rejected:
            raise SynthError(
                f"{self.file(index)}: {origin.rows_in} rows in, but {origin.rows_out} out and {rejected} rejected."
            )
        meta = ShardMeta(**asdict(origin), shard=index, rejected=rejected, writer=writer())
        if rejects is not None and rejected:
            keys = {"synth.format": str(meta.format), "synth.shard": str(index), "synth.writer": meta.writer}
            body = encode(rejects, keys)
            digest = hashlib.sha256(body).hexdigest()
            meta = replace(meta, rejects_file=f"{_digits(index)}-{digest[:16]}.parquet", rejects_sha256=digest)
            self._folder.make(f".rejects/{self.name}")
            disk.create_once(self._folder.make("tmp"), self._body(meta), body)
        content = encode(table, meta.to_keys())
        self._folder.make(self._place)
        created = disk.create_once(self._folder.make("tmp"), self.file(index), content)
        if not created:
            if self.checksum(index) != hashlib.sha256(content).hexdigest():
                self._folder.notify(
                    f"{self.file(index)}: another worker finished it first with other bytes; its copy stands "
                    "(normal when the server does not answer the same question twice in the same way)."
                )
            meta = self.meta(index)
        if self._place == self.name:
            self._link_rejects(meta)
        return created

    def discard(self, index: int) -> None:
        """Remove a shard that was made from what is there no more, so that it can be made anew.

        The link of its rejected rows goes first: a crash in between leaves a shard without its link, which `settle`
        makes. Their body stays, for another version of a view may name it too. Raises OutputError, SystemFault.
        """
        if self._place == self.name:
            links = self._folder.locate(f"rejected/{self.name}")
            link = links / f"{_digits(index)}.parquet"
            if disk.exists(link):
                disk.remove(link)
                disk.sync_folder(links)
        disk.remove(self.file(index))
        disk.sync_folder(self.path)
        self._checksums.pop(index, None)

    def settle(self) -> None:
        """Finish what a crash cut off after a commit: sync names, link missing `rejected/` files, drop journals.

        To be called when a run starts and before it reports the step as done. Raises SystemFault, OutputError.
        """
        done = self.done()
        if not done:
            return
        # A worker that died between link and sync leaves a name that we see and power loss may still take.
        disk.sync_folder(self.path)
        bodies = _listed(self._folder.locate(f".rejects/{self.name}"), _BODY)
        linked = _listed(self._folder.locate(f"rejected/{self.name}"), _SHARD)
        for index in sorted(done.intersection(bodies.values()).difference(linked.values())):
            self._link_rejects(self.meta(index))
        for journal, index in self._journals().items():
            if index in done:
                disk.remove(self._folder.path / "wip" / journal)

    def _link_rejects(self, meta: ShardMeta) -> None:
        if meta.rejects_file:
            final = self._folder.make(f"rejected/{self.name}") / f"{_digits(meta.shard)}.parquet"
            source = self._body(meta)
            disk.link_once(self._folder.make("tmp"), source, final)

    def _body(self, meta: ShardMeta) -> Path:
        if not _BODY.fullmatch(meta.rejects_file):
            raise damaged(self.file(meta.shard), f"it names {meta.rejects_file!r} as its rejects")
        return self._folder.path / ".rejects" / self.name / meta.rejects_file

    def _journals(self) -> dict[str, int]:
        pattern = re.compile(re.escape(self._prefix) + r"([0-9]{8})(?:\.[A-Za-z0-9_-]+)?\.jnl")
        return _listed(self._folder.locate("wip"), pattern)


_MARK = "job.json"
_BEFORE_MARK = frozenset({"tmp", "wip", "logs", "prompts", "lost+found"})
"""What may lie in a folder whose run died before it could write its `job.json`."""
_WRITTEN = ("tmp", "wip", "passages", "generated", "scores", "kept")


class OutputFolder:
    """One run's folder; `path` is absolute with links resolved, everything below it is real folders and files.

    `notify` is called with one line about rare events that change nothing in the output. Where the folder is `missing`,
    the first write makes it; one that goes missing later is not made again.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] = print, *, missing: bool = False) -> None:
        self.path, self.notify, self._missing = path, notify, missing
        self._made: set[str] = set()
        """Folders that exist; one that is moved must leave it."""
        self.checksums: dict[str, dict[int, tuple[int, int, str]]] = {}
        """What `StepFolder.checksum` found, by folder: all steps that read a shard hash it once."""

    @classmethod
    def open(cls, path: Path, *, write: bool = False, notify: Callable[[str], None] = print) -> OutputFolder:
        """Open a run's folder; with `write` it must be writable, and the first write creates it when it is missing.

        Opening writes nothing. Raises JobError when there is none to read, OutputError for a folder
        that holds something else, SystemFault when it cannot be written to.
        """
        with disk.disk_errors(path):
            real = path_of(path).resolve()
        missing = not disk.exists(real)
        if missing and not write:
            raise JobError(f"{path}: this output folder does not exist.")
        listed = {entry.name for entry in disk.entries(real)}
        if _MARK not in listed and (strange := sorted(listed - _BEFORE_MARK)):
            if runs := ", ".join(str(path / name) for name in strange if (real / name / _MARK).is_file()):
                raise OutputError(f"{path}: is not the folder of a run, but has runs in it.", f"Name one: {runs}.")
            raise OutputError(
                f"{path}: is not an output folder of synth: {_MARK} is missing, {strange[0]!r} is there.",
                "Choose an empty or a new folder with -o.",
            )
        if write:
            disk.require_writable(next(each for each in (real, *real.parents) if disk.exists(each)))
            for name in _WRITTEN:
                if name in listed and disk.is_folder(real / name):
                    disk.require_writable(real / name)
        return cls(real, notify, missing=missing)

    def step(self, name: str, *, hidden: str = "") -> StepFolder:
        """The folder of a step or view: `generated`, `scores/cosine-1a2b3c4d`, `views/strict`.

        `hidden` (a name beginning with a dot) holds its shards until `swap_view`. Raises JobError for a name that
        cannot be one, OutputError when it is a link or no folder.
        """
        return StepFolder(self, name, hidden=hidden)

    def aside(self, name: str, identity: str) -> str:
        """The hidden folder in which to build the view `name` of that identity; empty where its own folder will do.

        After a swap the hidden name holds the view of before, so coming back to an earlier identity takes another one.
        """
        names = ("" if n < 0 else f".{name}-{identity[:8]}-{n}" for n in itertools.count(-1))
        return next(hidden for hidden in names if self.step(name, hidden=hidden).made_by(identity))

    def locate(self, name: str) -> Path:
        """Path of the folder `name`, such as `scores/cosine-1a2b3c4d`, which need not exist.

        Raises JobError for a name that is not made of plain parts, OutputError when a part is a link or no folder.
        """
        path = self.path
        for part in _parts(name):
            path /= part
            if not disk.is_folder(path):
                break
        return self.path / name

    def make(self, name: str) -> Path:
        """The same, created where missing and safe from power loss; touches the disk once per name and process."""
        path = self.path
        if name not in self._made:
            if self._missing:
                above = [path, *path.parents]
                missing = above[: next(n for n, each in enumerate(above) if disk.exists(each))]
                for folder in reversed(missing):
                    disk.make_folder(folder)
                self._missing = False
            for part in _parts(name):
                path /= part
                disk.make_folder(path)
            self._made.add(name)
        return self.path / name

    def file(self, path: PurePath | str) -> Path:
        """Path of a file in a folder that exists afterwards; `path` is relative to this folder or lies below it.

        Raises JobError when it leads outside, OutputError, SystemFault.
        """
        whole = self.path / path
        *folders, name = _parts(str(whole.relative_to(self.path) if whole.is_relative_to(self.path) else whole))
        if folders:
            self.make("/".join(folders))
        return self.path.joinpath(*folders, name)

    def put_if_absent(self, path: PurePath | str, content: bytes) -> bool:
        """Create a small file such as `job.json` whole and durable; False when it exists, which stays as it is.

        `path` is relative to the folder or lies in it. Raises JobError, OutputError, SystemFault.
        """
        final = self.file(path)
        return disk.create_once(self.make("tmp"), final, content)

    def replace_atomically(self, path: PurePath | str, content: bytes) -> None:
        """Write a small file that may change, such as `README.md`; a reader sees the old or the new one.

        Raises JobError, OutputError, SystemFault.
        """
        final = self.file(path)
        disk.replace(self.make("tmp"), final, content)

    def swap_view(self, hidden: str, name: str) -> None:
        """Exchange the filled folder `hidden` with the view `name` in one rename; `hidden` then holds the old view.

        Both lie directly in this folder. A reader that opened the old one keeps it. Links of rejected rows go first
        and come back last, so a crash leaves them missing, never wrong; `settle` makes them.
        Raises JobError, OutputError, SystemFault.
        """
        new = self.locate(hidden)
        disk.sync_folder(new)
        links = self.locate(f"rejected/{name}")
        for entry in disk.entries(links):
            disk.remove(links / entry.name)
        if disk.is_folder(links):
            disk.sync_folder(links)
        disk.swap_folders(new, self.locate(name))
        self._made.discard(hidden)
        self.step(name).settle()


@contextmanager
def readable(path: Path) -> Iterator[BinaryIO]:
    with disk.disk_errors(path), os.fdopen(disk.open_to_read(path), "rb") as file:
        try:
            yield file
        except (pa.ArrowException, OSError, ValueError) as exc:
            if getattr(exc, "errno", None):  # the disk's own; Arrow reports damage as an OSError without a number
                raise
            raise damaged(path, exc) from exc


def _listed(folder: Path, pattern: re.Pattern[str]) -> dict[str, int]:
    found = {}
    fits = pattern.fullmatch
    for entry in disk.entries(folder):
        name = entry.name
        if match := fits(name):
            if not entry.is_file(follow_symlinks=False):
                raise disk.foreign(folder / name)
            found[name] = int(match[1])
    return found


def _digits(index: int) -> str:
    if not 0 <= index < _MOST:
        raise ValueError(f"shard {index} is outside 0..{_MOST - 1}")
    return f"{index:08d}"
