"""Progress of a run: plain numbers that the runner raises and a display reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from synth.run import history
from synth.run import run as runs
from synth.run.history import Parts
from synth.run.run import Run
from synth.types import Pair, Rejected


@dataclass(slots=True)
class Counters:
    """Counts of one process. `*_before` were on disk when it started and do not count towards the rate."""

    items_total: int = 0
    items_before: int = 0
    passages_total: int = 0
    pairs: int = 0
    unusable: int = 0
    kept: int = 0
    dropped: int = 0
    replies: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    phase: str = "reading"
    notice: Callable[[str], None] = print
    at: Callable[[int, bool], None] = lambda _index, _begun: None
    """Called when work on a shard begins and when it has ended well, so a supervisor knows what a dead worker did."""
    avoid: set[int] = field(default_factory=set)
    """Shards to leave alone, because processes died on them."""
    started: float = field(default_factory=time.monotonic)

    @property
    def items_done(self) -> int:
        """Items with an outcome, in this run and before."""
        return self.items_before + self.pairs + self.unusable

    @property
    def seconds(self) -> float:
        """Since generation began in this process."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Items per second of this process, 0.0 before the first."""
        done = self.pairs + self.unusable
        return done / self.seconds if done else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the rate so far; None before there is one."""
        return (self.items_total - self.items_done) / self.rate if self.rate else None

    def passage_done(self, outcomes: Sequence[Pair | Rejected]) -> None:
        """One passage has an outcome for each of its slots."""
        made = sum(isinstance(outcome, Pair) for outcome in outcomes)
        self.pairs += made
        self.unusable += len(outcomes) - made

    def shard_done(self, kept: int, dropped: int) -> None:
        """One shard was scored and sorted by the rules."""
        self.kept += kept
        self.dropped += dropped


@dataclass(frozen=True, slots=True)
class Share:
    """Which shards a process takes first. It takes the others afterwards; the first to commit a shard wins.

    Of `of` runs of the same command this is number `index`: u ≡ index (mod of) is its own. Of the `workers` processes
    of that run it is number `worker` and begins that far into them. `only` names the shards to do and no others.
    """

    index: int = 0
    of: int = 1
    worker: int = 0
    workers: int = 1
    only: tuple[int, ...] | None = None

    def order(self, shards: Sequence[int], started: Collection[int] = ()) -> list[int]:
        """`shards` in the order in which to take them; begun ones come first, because they hold paid work."""
        if self.only is not None:
            return [index for index in shards if index in self.only]
        own = [index for index in shards if index % self.of == self.index % self.of]
        others = [index for index in shards if index % self.of != self.index % self.of]
        ordered = [*_from(own, self.worker, self.workers), *_from(others, self.index, self.of)]
        return sorted(ordered, key=lambda index: index not in started)


def _from(shards: list[int], place: int, of: int) -> list[int]:
    """The list begun `place` / `of` of the way through."""
    start = len(shards) * place // of
    return shards[start:] + shards[:start]


def count_items(run: Run, counters: Counters, done: Collection[int]) -> None:
    """Set how many items there are and how many had an outcome before, in the shards `done`; from names if possible."""
    found, generated = history.read_parts(run.folder), run.folder.step("generated")
    slots = 1 if run.pairs else run.task.items_per_passage
    alike = run.revision == 1 or bool(run.pairs)
    due = {index: _due(found, index, slots) for index in range(found.shards)}
    had = {index: due[index] if alike else generated.meta(index).rows_in for index in due.keys() & set(done)}
    counters.items_total = sum((due | had).values())
    counters.items_before = sum(had.values())


def _due(found: Parts, index: int, slots: int) -> int:
    """Items of a shard that is to be made now."""
    part = found.of_shard(index)
    return part.rows(index) * (1 if part.retry else slots)


def shards(run: Run) -> int:
    """How many shards the run is to have; 0 while step 0 is unfinished."""
    return (runs.totals(run.folder) or {"shards": 0})["shards"]
