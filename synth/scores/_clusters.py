"""Clusters of near-duplicates: MinHash finds candidates, exact Jaccard decides, a forest of sets joins them.

Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4 (banding). Hashes are multiply-shift
(Dietzfelbinger et al. 1997) with constants that never change, so equal texts have equal signatures for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from synth.shingles import Shingles, jaccard, mix

HASHES = 128
MISSED = 1e-6
"""The most that two texts just at the threshold may go unnoticed with."""

_A = mix(np.arange(1, HASHES + 1, dtype=np.uint64)) | np.uint64(1)
_B = mix(np.arange(HASHES + 1, 2 * HASHES + 1, dtype=np.uint64))


def rows_per_band(threshold: float) -> int:
    """The most rows of a band with which a pair of that similarity is missed with a probability of `MISSED` at most."""
    fitting = (r for r in range(HASHES, 1, -1) if (1 - threshold**r) ** (HASHES // r) <= MISSED)
    return next(fitting, 1)


def band_keys(shingles: Shingles, rows: int) -> Shingles:
    """One key a band: uint64 (HASHES // rows,). Two texts share a key as often as `rows` of their minima agree."""
    minima = ((shingles[:, None] * _A + _B) >> np.uint64(32)).min(axis=0)
    bands = HASHES // rows
    keys = np.arange(bands, dtype=np.uint64)
    for row in range(rows):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) + minima[row : row + bands * rows : rows])
    return keys


class Forest:
    """Disjoint sets of 0..n-1; the root of a set is its smallest member, whatever the order of joining."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int64)

    def find(self, member: int) -> int:
        """The smallest member of its set."""
        parent = self._parent
        while (up := int(parent[member])) != member:
            parent[member] = parent[up]
            member = up
        return member

    def join(self, a: int, b: int) -> None:
        """Make two sets one."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def roots(self) -> NDArray[np.int64]:
        """The smallest member of everyone's set: int64 (n,)."""
        roots = self._parent
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        return roots


class ShingleSets:
    """The sets of many texts, back to back on disk, shard after shard: `values` and `ends` have one array a shard."""

    def __init__(self, values: Sequence[Shingles], ends: Sequence[NDArray[np.int64]]) -> None:
        self._values = values
        self._ends = ends
        self._firsts = np.cumsum([0, *map(len, ends)])

    def __getitem__(self, item: int) -> Shingles:
        shard = int(np.searchsorted(self._firsts, item, side="right")) - 1
        row = item - int(self._firsts[shard])
        ends = self._ends[shard]
        return self._values[shard][int(ends[row - 1]) if row else 0 : int(ends[row])]


def join_duplicates(
    sets: ShingleSets, digests: NDArray[np.uint64], bands: Iterator[NDArray[np.uint64]], threshold: float
) -> Forest:
    """Join every two items whose Jaccard similarity reaches `threshold`, and all that hangs together by such.

    `digests` names each item's set, `bands` yields one key an item, band after band. Equal sets are joined first, so
    that a text that occurs a hundred thousand times is compared once.
    """
    forest = Forest(len(digests))
    for group in groups(digests):
        for item in group[1:]:
            forest.join(int(group[0]), int(item))
    distinct = np.flatnonzero(forest.roots() == np.arange(len(digests)))
    for keys in bands:
        for bucket in groups(keys[distinct]):
            _join_bucket(forest, sets, distinct[bucket], threshold)
    return forest


def _join_bucket(forest: Forest, sets: ShingleSets, bucket: NDArray[np.int64], threshold: float) -> None:
    for n, item in enumerate(bucket.tolist()):
        for other in bucket[:n].tolist():
            if forest.find(item) != forest.find(other) and jaccard(sets[item], sets[other]) >= threshold:
                forest.join(item, other)


def groups(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Positions of every key that occurs more than once, ascending."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else np.zeros(0, int)
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
        yield order[start:end]
