"""Texts with precomputed vectors in clusters: a query, the passage that answers it, and similar passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from synth.stage import Encoded

CLUSTER = 100
"""Passages per cluster; the first is nearest to the centre and answers the queries there."""


def text(kind: str, number: int) -> str:
    """Forty words; passages of one cluster share few of them."""
    return f"{kind} {number} " + " ".join(f"word{(number * 31 + n * (n + 17)) % 5003}" for n in range(40))


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a run; `width` is the number of dimensions."""

    queries: int
    passages: int
    width: int = 384

    @property
    def centres(self) -> int:
        """The centre of passage or query n."""
        return max(1, self.passages // CLUSTER)

    def positive(self, query: int) -> int:
        """The passage nearest to the query's centre."""
        return query % self.centres

    def __str__(self) -> str:
        return f"{self.queries:,} queries, {self.passages:,} passages, {self.width} dimensions"


@lru_cache(maxsize=1)
def directions(count: int, width: int) -> Any:
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


def vectors(kind: str, first: int, count: int, size: Size) -> Any:
    """Unit vectors around centres, in half precision; a row is always the same."""
    centres, width = directions(size.centres, size.width), size.width
    out = np.empty((count, width), np.float16)
    for start in range(first - first % 1000, first + count, 1000):
        rng = np.random.default_rng((1 if kind == "query" else 2, start))
        rows = np.arange(start, start + 1000)
        place = rows // size.centres
        strength = np.where((place == 0) | (kind == "query"), 1.8, 0.2 + 0.012 * (place * 37 % CLUSTER))
        made = strength[:, None] * centres[rows % size.centres] + rng.normal(size=(1000, width))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        low, high = max(first, start), min(first + count, start + 1000)
        out[low - first : high - first] = made[low - start : high - start]
    return out


class Ready:
    """An Encoder that returns the precomputed vectors."""

    def __init__(self, size: Size) -> None:
        self.size = size

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        numbers = np.array([int(each.split(" ", 2)[1]) for each in texts])
        kind = "query" if role == "query" else "passage"
        found = vectors(kind, int(numbers.min()), int(numbers.max() - numbers.min()) + 1, self.size)
        return Encoded(found[numbers - numbers.min()].astype(np.float32), np.zeros(len(texts), np.bool_))

    async def close(self) -> None:
        """Do nothing."""
