"""The state of a run's folder: which steps are done, which shards are being worked on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from synth.results.summary import totals
from synth.runs.history import History
from synth.shards import OutputFolder
from synth.shards.journal import locked
from synth.steps import keep


@dataclass(frozen=True, slots=True)
class StepStatus:
    """One step: finished and expected shards (None while step 0 is unfinished), and what its rows came to."""

    step: str
    shards: int
    of: int | None
    rows_in: int
    rows_out: int
    rejected: int
    rules: str | None = None
    """What the rows of a view passed."""


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard with a journal: finished calls in it, seconds since the last one, whether a process holds it."""

    step: str
    shard: str
    journal_bytes: int
    idle_seconds: float
    held: bool


def read_status(folder: OutputFolder) -> tuple[list[StepStatus], list[OpenShard]]:
    """Every step and every open shard, from one listing per step and the shards' footers."""
    history = History.read(folder)
    done = history.totals()
    scores = sorted(f"scores/{each.name}" for each in (folder.path / "scores").glob("*") if each.is_dir())
    views = [keep.DEFAULT, *keep.names(folder)]
    names = ["generated", *scores, *views]
    if not history.last.existing:
        names.insert(0, "passages")
    if (folder.path / "mined").is_dir():
        names.append("mined")
    steps = []
    for name in names:
        step, record = folder.step(name), keep.record_of(folder, name) if name in views else None
        rules = record.rules.describe() if record else None
        steps.append(StepStatus(name, len(step.done()), done["shards"] if done else None, *totals(step), rules=rules))
    return steps, list(_open(folder.path / "wip"))


def _open(wip: Path) -> Iterator[OpenShard]:
    for path in sorted(wip.glob("*.jnl")):
        step, _, shard = path.name.removesuffix(".jnl").rpartition("-")
        try:
            size = path.stat()
            held = locked(path) is True
        except FileNotFoundError:  # committed a moment ago
            continue
        yield OpenShard(step, shard, size.st_size, max(0.0, time.time() - size.st_mtime), held)
