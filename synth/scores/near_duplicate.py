"""Clusters of near-duplicate queries and of near-duplicate passages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from synth.hashing import Shingles, jaccard, mix, shingles
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.search import Index, part
from synth.stage import Services

__all__ = ["NearDuplicate"]

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
    """Join every two items whose Jaccard similarity reaches `threshold`, and with them whole connected components.

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
            for item, other in itertools.combinations(distinct[bucket].tolist(), 2):
                if forest.find(item) != forest.find(other) and jaccard(sets[item], sets[other]) >= threshold:
                    forest.join(item, other)
    return forest


def groups(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Positions of every key that occurs more than once, ascending."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else np.zeros(0, int)
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
        yield order[start:end]


_SIDES = ("query", "passage")
_PARTS = ("sets", "ends", "keys", "item")
_PAIR_BYTES = 5000


class NearDuplicate(Scorer):
    """Clusters of near-duplicate queries and of near-duplicate passages over all shards of the pass.

    Two texts are near-duplicates when their sets of word triples overlap by `threshold` or more (Jaccard); where a
    script has no spaces between words, triples of characters count. Clusters are the connected components of these
    pairs. A cluster's id is the ordinal of its first pair in the pass, counted from 0, so it does not depend on the
    order of work, and a pair that resembles no other is its own cluster. MinHash finds the candidates (a pair at the
    threshold is missed once in a million), the exact overlap decides. The index takes about 1 kB a query and 2 to 4 kB
    a passage.

    The rule `unique: {by: query_cluster, best: cosine}` keeps one of each.
    """

    scope: ClassVar[Literal["shard", "pass"]] = "pass"
    stem: ClassVar[str | None] = "near_duplicate"
    outputs = (
        ScoreColumn("query_cluster", pa.int64(), low=0, missing="keep", better=None),
        ScoreColumn("passage_cluster", pa.int64(), low=0, missing="keep", better=None),
    )

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Overlap from which two texts are near-duplicates."""
    window: Annotated[int, Field(ge=1, le=16)] = 3
    """Words, or characters, that are compared as one."""

    def index_bytes(self, pairs: int, dimensions: int) -> int:  # noqa: ARG002 - has no vectors
        return pairs * _PAIR_BYTES

    async def build(self, shards: Iterator[PairBatch], folder: Path, services: Services) -> None:  # noqa: ARG002 - needs no service
        await asyncio.to_thread(self._build, shards, Index(folder))

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """The clusters of the batch's pairs. Raises OutputError where the index is unfinished."""
        assert batch.index is not None  # noqa: S101 - a pass has one
        index = Index(batch.index)
        index.complete()
        rows = slice(batch.first, batch.first + batch.pairs.num_rows)
        return self.table(*(index.get(f"{side}.clusters", "<i8")[rows] for side in _SIDES))

    def _build(self, batches: Iterator[PairBatch], index: Index) -> None:
        if index.manifest() is not None:
            return
        index.open_for_build()
        shards = [self._hash_shard(index, batch) for batch in batches]
        pairs = sum(count for _, count in shards)
        for side in _SIDES:
            index.put(f"{side}.clusters", self._clusters(index, side, shards))
        index.finish({"pairs": pairs, "shards": len(shards), "threshold": self.threshold, "window": self.window})

    def _hash_shard(self, index: Index, batch: PairBatch) -> tuple[int, int]:
        for side in _SIDES:
            if all(index.has(part(f"{side}.{name}", batch.shard)) for name in _PARTS):
                continue
            texts = batch.texts(side)
            place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
            sets = [shingles(text, self.window) for text in place]
            rows = rows_per_band(self.threshold)
            keys = [np.append(band_keys(each, rows), _digest(each)) for each in sets]
            made = (
                np.concatenate([*sets, np.empty(0, np.uint64)]).astype("<u8"),
                np.cumsum([each.size for each in sets], dtype="<i8"),
                np.array(keys, "<u8").reshape(len(keys), HASHES // rows + 1).T,
                np.fromiter((place[text] for text in texts), "<i8", len(texts)),
            )
            for name, array in zip(_PARTS, made, strict=True):
                index.put(part(f"{side}.{name}", batch.shard), array)
        return batch.shard, batch.pairs.num_rows

    def _clusters(self, index: Index, side: str, shards: list[tuple[int, int]]) -> NDArray[np.int64]:
        def arrays(name: str, kind: str) -> list[NDArray[np.generic]]:
            return [index.get(part(f"{side}.{name}", number), kind) for number, _ in shards]

        sets = ShingleSets(arrays("sets", "<u8"), arrays("ends", "<i8"))  # type: ignore[arg-type] # typed by `kind`
        counts = [len(ends) for ends in arrays("ends", "<i8")]
        bands = HASHES // rows_per_band(self.threshold)

        def column(band: int) -> NDArray[np.uint64]:
            rows = [
                index.get(part(f"{side}.keys", number), "<u8").reshape(bands + 1, -1)[band]
                for (number, _), count in zip(shards, counts, strict=True)
                if count
            ]
            return np.concatenate([*rows, np.empty(0, np.uint64)])

        roots = join_duplicates(sets, column(bands), map(column, range(bands)), self.threshold).roots()
        firsts = np.cumsum([0, *counts])
        items = [np.asarray(rows) + firsts[n] for n, rows in enumerate(arrays("item", "<i8"))]
        of_pair = roots[np.concatenate([*items, np.empty(0, np.int64)])]
        _, first, cluster = np.unique(of_pair, return_index=True, return_inverse=True)
        return np.asarray(first[cluster], "<i8")


def _digest(values: NDArray[np.uint64]) -> np.uint64:
    return np.uint64(mix(mix(values).sum(dtype=np.uint64, keepdims=True) + np.uint64(values.size))[0])
