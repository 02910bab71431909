"""What is left of a run, and in which order one process of several goes through it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from synth import parts, run_folder
from synth.parts import Parts
from synth.run_folder import Run
from synth.runners.counters import Counters


@dataclass(frozen=True, slots=True)
class Share:
    """Which shards a process takes first; the others it takes afterwards, for whoever commits first wins.

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
    found, generated = parts.read(run.folder), run.folder.step("generated")
    slots = 1 if run.pairs else run.task.queries_per_passage
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
    return (run_folder.totals(run.folder) or {"shards": 0})["shards"]
