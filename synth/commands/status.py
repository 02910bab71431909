"""`synth status`: which steps are done, which shards are being worked on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from synth.results.summary import totals
from synth.run import run as runs
from synth.shards import OutputFolder
from synth.shards.journal import locked
from synth.steps import keep
from synth.terminal import say

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


def command_rows(folder: OutputFolder) -> tuple[list[StepStatus], list[OpenShard]]:
    """Everything `synth status` says, from one listing per step and the shards' footers."""
    record = runs.read_record(folder)
    done = runs.totals(folder)
    expected = done["shards"] if done else None
    existing = bool(record["job"].get("data"))
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


def status(out: Path, *, as_json: bool) -> None:
    """Print the state of a run's folder. Raises OutputError when it is none."""
    folder = OutputFolder.open(out)
    steps, working = command_rows(folder)
    if as_json:
        say(json.dumps({"steps": [asdict(s) for s in steps], "open": [asdict(o) for o in working]}))
        return
    width = max([28, *(len(step.step) + 2 for step in steps)])
    say(f"{'step':<{width}}{'shards':>12}{'in':>12}{'out':>12}{'rejected':>12}")
    for step in steps:
        of = f"{step.shards}/{step.of}" if step.of is not None else f"{step.shards}/?"
        say(f"{step.step:<{width}}{of:>12}{step.rows_in:>12,}{step.rows_out:>12,}{step.rejected:>12,}")
    for step in steps:
        if step.rules is not None:
            say(f"{step.step}: {step.rules}")
    for each in working:
        state = "being worked on" if each.held else "left over, taken up again by the next run"
        say(f"{each.step} {each.shard}: {state}, last reply {each.idle_seconds:,.0f} s ago")
    behind = {step.step for step in steps if step.of is None or step.shards < step.of}
    if any(name != _MINED and not name.startswith("views/") for name in behind):
        say(f"go on with: synth run {out}")
    elif _MINED in behind:
        say(f"go on with: synth mine {out}")
