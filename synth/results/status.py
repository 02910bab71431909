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

_MINED = "mined"


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
    done, existing = history.totals(), history.last.existing
    expected = done["shards"] if done else None
    names = [*_names(folder, existing=existing), *([_MINED] if (folder.path / _MINED).is_dir() else [])]
    steps = [_step(folder, name, expected) for name in names]
    return steps, list(_open(folder.path / "wip"))


def _names(folder: OutputFolder, *, existing: bool) -> list[str]:
    """The steps there are; a pass over existing data has no passages."""
    scores = sorted(each.name for each in (folder.path / "scores").glob("*") if each.is_dir())
    first = ["generated"] if existing else ["passages", "generated"]
    return [*first, *(f"scores/{n}" for n in scores), keep.DEFAULT, *keep.names(folder)]


def _step(folder: OutputFolder, name: str, expected: int | None) -> StepStatus:
    step = folder.step(name)
    record = keep.record_of(folder, name) if name == keep.DEFAULT or name.startswith("views/") else None
    rules = record.rules.describe() if record else None
    return StepStatus(name, len(step.done()), expected, *totals(step), rules=rules)


def _open(wip: Path) -> Iterator[OpenShard]:
    for path in sorted(wip.glob("*.jnl")):
        step, _, shard = path.name.removesuffix(".jnl").rpartition("-")
        try:
            size = path.stat()
            held = locked(path) is True
        except FileNotFoundError:  # committed a moment ago
            continue
        yield OpenShard(step, shard, size.st_size, max(0.0, time.time() - size.st_mtime), held)
