"""Which search results of a query may be its negatives: rank window and score rules, as pure functions.

With `window="after"` the outcome is that of `mine_hard_negatives` of sentence-transformers 6.2 over the same vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synth.search import Hits, Scores

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ScoreRules:
    """Thresholds on cosines; None for a rule that is off."""

    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def refusals(self, scores: Scores, lowest: Scores) -> list[tuple[str, Mask]]:
        """For each rule, the scores that break it; `lowest` is the least cosine of a positive, (n,) or (n, 1).

        Strict as in sentence-transformers: a score exactly at a threshold passes.
        """
        found: list[tuple[str, Mask]] = []
        if self.absolute_margin is not None:
            found.append(("absolute_margin", scores + self.absolute_margin > lowest))
        if self.relative_margin is not None:
            found.append(("relative_margin", scores > lowest - np.abs(lowest) * self.relative_margin))
        if self.max_score is not None:
            found.append(("max_score", scores > self.max_score))
        if self.min_score is not None:
            found.append(("min_score", scores < self.min_score))
        return found

    @property
    def need_more(self) -> bool:
        """Whether a rule may refuse many of the nearest passages."""
        return any(each is not None for each in (self.max_score, self.absolute_margin, self.relative_margin))


@dataclass(frozen=True, slots=True)
class Window:
    """The ranks `low` to `high` (exclusive, from 0), counted before the score rules or among what they leave."""

    low: int
    high: int
    when: Literal["before", "after"]

    @classmethod
    def of(cls, bounds: tuple[int, int | None], when: Literal["before", "after"], room: int) -> Window:
        """Without an upper bound the window has `room` ranks."""
        low, high = bounds
        return cls(low, low + room if high is None else high, when)


def band(left: Mask, window: Window) -> Mask:
    """Which of the remaining hits of each query, in rank order, are in the window: bool (n, k)."""
    place = left.cumsum(axis=1)
    return np.asarray(left & (place > window.low) & (place <= window.high))


def margin(hits: Hits, left: Mask, lowest: Scores, rules: ScoreRules) -> tuple[Mask, dict[str, NDArray[np.int64]]]:
    """Which hits pass the score rules, and per query how many each rule was the first to refuse: (n, k) and (n,)."""
    refused = {}
    for reason, broken in rules.refusals(hits.scores, lowest[:, None]):
        refused[reason] = np.asarray((left & broken).sum(axis=1), np.int64)
        left = left & ~broken
    return left, refused


def candidates(
    hits: Hits, positive: Mask, lowest: Scores, rules: ScoreRules, window: Window
) -> tuple[Mask, dict[str, NDArray[np.int64]]]:
    """The possible negatives, and how many hits were refused, by reason; `positive` marks known positives."""
    found = hits.rows >= 0
    refused = {"positive": np.asarray((found & positive).sum(axis=1), np.int64)}
    left = found & ~positive
    if window.when == "before":
        left = band(left, window)
    left, broken = margin(hits, left, lowest, rules)
    if window.when == "after":
        left = band(left, window)
    return left, refused | broken
