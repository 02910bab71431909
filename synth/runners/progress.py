"""Progress of a run: plain numbers that the runner raises and a display reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synth.runs.run import OpenRun
from synth.stage import ChatModel
from synth.steps import keep, score
from synth.terminal import tell
from synth.types import Notify, Pair, Rejected

if TYPE_CHECKING:
    from synth.runners.budget import Meter

_PLAIN_PHASES = ("reading", "generating", "scoring")
"""Phases that have a bar, so that no words are needed."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of work and how much of it is done; `before` of that was done when this process started."""

    name: str
    unit: str
    done: int = 0
    total: int | None = None
    before: int = 0
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def share(self) -> float | None:
        return self.done / self.total if self.total else None

    @property
    def rate(self) -> float:
        """Per second, in this process; 0.0 before the first."""
        return max(0, self.done - self.before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the rate so far; None before there is one."""
        return (self.total - self.done) / self.rate if self.total and self.rate and not self.finished else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a process is at one moment: its phases, and figures that belong to none of them."""

    phases: tuple[Phase, ...] = ()
    figures: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> dict[str, float]:
        """Of the first phase that is not finished; the ones after it wait for its shards, so their rates say little."""
        for phase in self.phases:
            if not phase.finished:
                return {phase.name: phase.seconds_left} if phase.seconds_left else {}
        return {}

    def counts(self) -> list[tuple[str, int]]:
        return [(phase.name, phase.done) for phase in self.phases]


@dataclass(slots=True)
class Counters:
    """Counts of one process. `*_before` were on disk when it started and do not count towards the rate."""

    existing: bool = False
    """Whether the pairs were there before, so that nothing is generated."""
    slots: int = 1
    """Items per passage."""
    rows_read: int = 0
    reading: bool = False
    items_total: int = 0
    items_before: int = 0
    pairs: int = 0
    unusable: int = 0
    scored: int = 0
    """Pairs with all scores that one shard is enough for."""
    scored_before: int = 0
    kept: int = 0
    dropped: int = 0
    replies: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    phase: str = "reading"
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Shards done, and of how many, by each scorer that looks at the whole pass."""
    chats: list[ChatModel] = field(default_factory=list)
    """The language models in use that have servers, and know whether these answer."""
    server: str = ""
    """What workers say of that."""
    notice: Notify = tell
    at: Callable[[int, bool], None] = lambda _index, _begun: None
    """Called when work on a shard begins and when it has ended well, so a supervisor knows what a dead worker did."""
    avoid: set[int] = field(default_factory=set)
    """Shards to leave alone, because processes died on them."""
    started: float = field(default_factory=time.monotonic)
    budget: Meter | None = None
    goal: tuple[int, int, int] | None = None
    """Of a target: the round, how many there are at most, and the pairs to keep."""
    kept_before: int = 0
    """Pairs kept when this process started; only with a target."""

    @property
    def items_done(self) -> int:
        return self.items_before + self.pairs + self.unusable

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def snapshot(self) -> Snapshot:
        """For a display."""
        phases = []
        if self.reading:
            phases.append(Phase("read", "rows", self.rows_read, seconds=self.seconds))
        elif self.items_total:
            if not self.existing:
                done = self.items_done
                phases.append(Phase("generate", "items", done, self.items_total, self.items_before, self.seconds))
            scored = self.scored_before + self.scored
            total = max(scored, self.items_total - self.unusable)
            phases.append(Phase("score", "pairs", scored, total, self.scored_before, self.seconds))
            phases += [Phase(name, "shards", done, of, 0, self.seconds) for name, (done, of) in self.passes.items()]
        return Snapshot(tuple(phases), tuple(self._figures()))

    def _figures(self) -> list[str]:
        figures = []
        if self.goal is not None:
            number, most, wanted = self.goal
            figures += [f"round {number} of at most {most}", f"{self.kept_before + self.kept:,} of {wanted:,} kept"]
        figures += [self.phase] if not (self.reading or self.phase in _PLAIN_PHASES) else []
        if self.kept + self.dropped:
            figures.append(f"{self.kept / (self.kept + self.dropped):.0%} kept")
        made = self.pairs + self.unusable
        if made and not self.existing:
            figures.append(f"{made / self.slots / self.seconds:,.1f} passages/s")
        if self.completion_tokens:
            figures.append(f"{(self.prompt_tokens + self.completion_tokens) / self.seconds:,.0f} tokens/s")
        if self.budget is not None:
            figures.append(f"{self.budget.share:.0%} of the budget")
        if self.in_flight:
            figures.append(f"{self.in_flight:,} in flight")
        if server := self.server_state():
            figures.append(f"server {server}")
        if self.unusable:
            figures.append(f"{self.unusable:,} unusable")
        return figures

    def server_state(self) -> str:
        """Whether the language model's servers answer; empty without a server."""
        known = [each.troubled for each in self.chats]
        return "not answering" if any(known) else "answering" if known else self.server

    def passage_done(self, outcomes: Sequence[Pair | Rejected]) -> None:
        """One passage has an outcome for each of its slots."""
        made = sum(isinstance(outcome, Pair) for outcome in outcomes)
        self.pairs += made
        self.unusable += len(outcomes) - made

    def shard_done(self, kept: int, dropped: int) -> None:
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
        ordered = []
        for each, place, of in ((own, self.worker, self.workers), (others, self.index, self.of)):
            start = len(each) * place // of  # begun so far into the list
            ordered += each[start:] + each[:start]
        return sorted(ordered, key=lambda index: index not in started)


def count_items(run: OpenRun, counters: Counters, done: Collection[int], scored: Collection[int] = ()) -> None:
    """Set how many items there are and how many had an outcome before, in the shards `done`; from names if possible.

    Of those the shards `scored` are also scored.
    """
    found, generated = run.history.parts(), run.folder.step("generated")
    counters.existing, counters.slots = bool(run.pairs), 1 if run.pairs else run.task.items_per_passage
    alike = run.revision == 1 or bool(run.pairs)
    due = {}
    for index in range(found.shards):
        part = found.of_shard(index)
        due[index] = part.items(index, 0 if run.job.file.target else counters.slots)
    had = {index: due[index] if alike else generated.meta(index).rows_in for index in due.keys() & set(done)}
    if run.job.file.target is not None and run.record.round is not None:
        target = run.job.file.target
        counters.goal = (run.record.round.number, target.stop.rounds, target.kept)
        view = keep.default_view(run, score.steps_of(run)).folder(run.folder)
        counters.kept_before = sum(view.meta(index).rows_out for index in view.done())
    counters.items_total = sum((due | had).values())
    counters.items_before = sum(had.values())
    counters.scored_before = sum(had[index] for index in had.keys() & set(scored))
