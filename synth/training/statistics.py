"""Whether a difference between two models on the same queries is more than chance, and how many queries would tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
DRAWS = 10_000
_AT_ONCE = 4_000_000
"""Random numbers in memory."""
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Change:
    """The mean difference over queries, with its 95 % interval and a two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float
    better: float
    """Share of the queries with a higher value than before."""
    worse: float
    queries: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def queries_for(self, half_width: float = 0.02) -> int:
        """About how many such queries an interval of this half-width takes: it shrinks with their root."""
        return math.ceil(self.queries * (self.half_width / half_width) ** 2)


def change(before: Values, after: Values, *, draws: int = DRAWS, seed: int = 0) -> Change:
    """Compare two values of each query: float64 (n,) and (n,).

    The interval is the percentile bootstrap of the mean over queries (Efron 1979; Sakai 2006 for retrieval). The
    p-value is that of the paired permutation test, which flips the sign of each difference (Fisher 1935), with one
    added to both counts (Phipson and Smyth 2010).
    """
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    count, random = len(difference), np.random.default_rng(seed)
    rows = max(1, min(draws, _AT_ONCE // count))
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    means = np.concatenate([difference[random.integers(0, count, (size, count))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, (0.025, 0.975))
    signs = (random.integers(0, 2, (size, count), dtype=np.int8) * 2 - 1 for size in sizes)
    flipped = np.concatenate([each @ difference for each in signs]) / count
    mean = float(difference.mean())
    extreme = int((np.abs(flipped) >= abs(mean) - 1e-12).sum())
    return Change(
        mean=mean,
        low=float(low),
        high=float(high),
        p=(extreme + 1) / (draws + 1),
        better=float((difference > _EQUAL).mean()),
        worse=float((difference < -_EQUAL).mean()),
        queries=count,
    )


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: all below 0.05 are real with 95 % confidence together (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    raised = [min(1.0, values[place] * (len(values) - rank)) for rank, place in enumerate(order)]
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(raised) if raised else []
    return [float(each) for each in adjusted]
