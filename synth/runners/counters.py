"""What a run has done so far, for whoever shows it: plain numbers that the runner raises and a display reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """Called when work on a shard begins, and when it has ended well: whoever watches knows what a death hit."""
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
