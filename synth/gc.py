"""Removes files that a run's folder does not need any more.

A file is removed if no shard refers to it and no process can still need it. Three facts show that: a finished shard is
never made again, so its journal and the rejected rows that it does not name are unused; a temporary file that is older
than `age` and that no process has open will not be linked any more; and a folder to which nothing was written for
`age`, with no journal locked, has no writer in the middle of a commit. Files that readers see are only removed on
request.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from synth.errors import JobError, OutputError, SystemFault
from synth.names import path_of
from synth.runs.run import job_of
from synth.shards.journal import locked
from synth.steps import score
from synth.verify.files import BODY, JOURNAL, Report, ShardFile, StepFiles, Unreadable, files_below, survey
from synth.verify.walk import score_folders


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that was removed, or would be."""

    path: str
    bytes: int
    why: str


def collect(
    out: Path, *, view: str | None = None, scores: bool = False, age: float = 3600.0, dry_run: bool = False
) -> Collection:
    """Remove unneeded files from the folder of a run: leftovers older than `age` seconds, a `view`, unused `scores`.

    Raises JobError for an unknown view, OutputError for a folder that is not a run's, SystemFault.
    """
    root = path_of(out).resolve()
    if not (root / "job.json").is_file():
        raise OutputError(f"{out}: has no job.json, so it is not the folder of a run.")
    found = Collection(root, age, dry_run=dry_run)
    try:
        found.collect(view, scores=scores)
    except OSError as exc:
        what = f"{exc.filename or out}: {exc.strerror or exc}."
        raise SystemFault(what, "Fix that, then run the command again.") from exc
    return found


class Collection:
    """What `collect` removed, or would remove; `left` names what it did not remove, and why."""

    def __init__(self, root: Path, age: float, *, dry_run: bool) -> None:
        self.removed: list[Removed] = []
        self.left: list[str] = []
        self._root, self._age, self._dry_run = root, age, dry_run
        self._layout = survey(Report(root))
        self._busy = _busy(root, age)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.removed)

    def collect(self, view: str | None, *, scores: bool) -> None:
        """Remove everything, once."""
        if view is not None:
            self._view(view)
        self._journals()
        if self._busy:
            self.left.append(f"rejected rows, hidden views and scores: {self._busy}")
        else:
            self._bodies(list(self._hidden_views()))
            if scores:
                self._scores()
        self._temporary()  # last, because removing them looks like writing

    def _view(self, name: str) -> None:
        found = (each for each in self._layout.views if each.name == f"views/{name}")
        step = next((each for each in self._layout.added if each.name == name), None) or next(found, None)
        if step is None or "/" in name or step.hidden:
            names = ", ".join(each.path.name for each in self._layout.views if each.name.startswith("views/"))
            cure = f"Views: {names}." if names else "This run has no named views."
            raise JobError(f"--view {name}: unknown view.", cure)
        if self._busy:
            raise OutputError(f"{step.path}: not removed, because {self._busy}.", "Try again later, or use --age 0s.")
        why = f"view {name}, as asked"
        # Links first, so that a crash leaves none without its shard.
        self._remove(self._root / "rejected" / step.name, f"rejected rows of {why}")
        self._remove(step.path, why)
        self._remove(self._root / ".rejects" / step.name, f"rejected rows of {why}")
        (self._layout.views if step in self._layout.views else self._layout.added).remove(step)

    def _journals(self) -> None:
        done = {step.name.replace("/", "-"): step.shards for step in self._layout.steps()}
        for path in files_below(self._root / "wip"):
            match = JOURNAL.fullmatch(path.name)
            if match is None or int(match[2]) not in done.get(match[1], frozenset()):
                continue
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    self.left.append(f"{self._name(path)}: a process has locked it")
                    continue
                self._remove(path, "the journal of a finished shard")

    def _hidden_views(self) -> Iterator[StepFiles]:
        for step in [each for each in self._layout.views if each.hidden]:
            if not (self._root / step.visible_name).is_dir():
                what = f"{step.visible_name}/ is missing, so this may be its content; run the job again"
                self.left.append(f"{step.name}: {what}")
            elif step.visible_name in {"mined", "relabelled"} and _being_filled(step):
                verb = "mine" if step.visible_name == "mined" else "relabel"
                self.left.append(f"{step.name}: unfinished; `synth {verb}` continues with it")
            else:
                self._remove(step.path, "a hidden view")
                yield step

    def _bodies(self, gone: list[StepFiles]) -> None:
        named: set[str] = set()
        for step in self._layout.steps():
            if step in gone:
                continue
            for index in step.shards:
                try:
                    with ShardFile(step.file(index)) as file:
                        named.add(file.stamp().rejects_file)
                except Unreadable as exc:
                    self.left.append(f"rejected rows: {self._name(step.file(index))} cannot be read ({exc})")
                    return
        done = {step.name: step.shards for step in self._layout.steps()}
        for path in files_below(self._root / ".rejects"):
            match = BODY.fullmatch(path.name)
            step_name = path.parent.relative_to(self._root / ".rejects").as_posix()
            finished = match is not None and int(match[1]) in done.get(step_name, frozenset())
            if finished and path.name not in named and not _younger(path, self._age):
                self._remove(path, "rejected rows that no shard names")

    def _scores(self) -> None:
        job, history = job_of(self._root)
        found = history.parts()
        kept = {step.name for step in score.steps(job, job.instruction, found.shards if found.several else None)}
        for view in [each for each in self._layout.views if not each.hidden and each.shards]:
            sources = score_folders(self._layout, view)
            if sources is None:
                self.left.append(f"scores: cannot find out which of them {view.name} was made from")
                return
            kept |= sources
        for step in self._layout.scores:
            if step.name not in kept:
                self._remove(step.path, "scores that neither the job nor a view uses")

    def _temporary(self) -> None:
        in_use = set()  # by processes of this machine, as far as the system shows them to us
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):
                in_use.add(link.readlink())
        for path in sorted((self._root / "tmp").glob("*")):
            if _younger(path, self._age):
                self.left.append(f"{self._name(path)}: written less than {self._age:g} s ago")
            elif path in in_use:
                self.left.append(f"{self._name(path)}: a process has it open")
            else:
                self._remove(path, "a temporary file")

    def _remove(self, path: Path, why: str) -> None:
        """Remove a file or folder; a folder moves to `tmp/` first, so that no reader and no crash sees half of it."""
        if not os.path.lexists(path):
            return
        files = files_below(path) if path.is_dir() and not path.is_symlink() else [path]
        self.removed.append(Removed(self._name(path), sum(each.lstat().st_size for each in files), why))
        if self._dry_run:
            return
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        if path.parent != self._root / "tmp":
            (self._root / "tmp").mkdir(exist_ok=True)
            path = path.rename(self._root / "tmp" / f"gc-{secrets.token_hex(8)}")
        shutil.rmtree(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _being_filled(step: StepFiles) -> bool:
    """Whether the folder holds the shards that its name announces: a replaced one has the name of its successor.

    Unlike the rows of a view, negatives may have cost model calls.
    """
    for index in sorted(step.shards):
        with suppress(Unreadable), ShardFile(step.file(index)) as file:
            return file.stamp().identity[:8] in step.name
    return False


def _busy(root: Path, age: float) -> str:
    """Why a process may be working in the folder; empty if none is."""
    for path in files_below(root / "wip"):
        if locked(path):
            return f"a process has locked {path.relative_to(root)}"
    # Every commit makes a name in tmp/ and removes it, every finished call writes to a journal.
    for path in (root / "tmp", *files_below(root / "wip")):
        if path.exists() and _younger(path, age):
            return f"something was written to {path.relative_to(root)} less than {age:g} s ago"
    return ""


def _younger(path: Path, age: float) -> bool:
    try:
        return age > 0 and path.lstat().st_mtime > time.time() - age
    except FileNotFoundError:
        return False
