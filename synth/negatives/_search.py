"""Exact nearest passages by dot product, in blocks over vectors on disk, whatever the order in which a BLAS adds up.

Blocks are multiplied in float32 and whatever rounding could still bring among the nearest is kept; those few products
are computed again in float64, one at a time. So ranks and scores are those of a plain loop in float64 over the vectors
as stored, and depend neither on block sizes and threads nor on which queries are searched together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

_TILE = 1024
_PAIRS = 4096


class Vectors(Protocol):
    """Unit vectors in half precision, zeros for a passage without one; a block is (first row, float16 (m, width))."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]: ...

    def gather(self, rows: Rows) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Hits:
    """What each of n queries found, best first: int64 rows (n, k) and float64 scores (n, k); -1 and -inf at the end."""

    rows: Rows
    scores: Scores


@dataclass(frozen=True, slots=True)
class Never:
    """Passages that a query must not find: int64 (m,) each, ascending by row."""

    query: Rows
    row: Rows

    @classmethod
    def of(cls, pairs: list[tuple[int, Rows]]) -> Never:
        """From (query, rows) pairs."""
        rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in pairs)])
        query = np.repeat(np.array([n for n, _ in pairs], np.int64), [len(rows) for _, rows in pairs])
        order = np.argsort(rows, kind="stable")
        return cls(query[order], rows[order])

    def within(self, first: int, count: int) -> Never:
        """Those of `count` rows from `first` on, counted from there."""
        low, high = np.searchsorted(self.row, (first, first + count))
        return Never(self.query[low:high], self.row[low:high] - first)

    def of_queries(self, start: int, stop: int) -> Never:
        """Those of the queries `start` to `stop`, counted from there."""
        mine = (self.query >= start) & (self.query < stop)
        return Never(self.query[mine] - start, self.row[mine])


def retrieve(queries: NDArray[np.float32], vectors: Vectors, depth: int, never: Never) -> Hits:
    """The `depth` nearest passages of each query, nearest first, of equal ones that of the lower row; (n, depth).

    A passage without a vector is never found. One pass over the vectors, whatever the number of queries.
    """
    tiles = [
        _Tile(queries[start : start + _TILE], depth, never.of_queries(start, start + _TILE))
        for start in range(0, len(queries), _TILE)
    ]
    room = np.empty(0, np.float32)  # for products; fresh memory for each block would cost as much as multiplying
    for first, stored in vectors.blocks():
        block = stored.astype(np.float32)
        absent = np.flatnonzero(~block.any(axis=1))
        if room.size < _TILE * len(block):
            room = np.empty(_TILE * len(block), np.float32)
        for tile in tiles:
            tile.see(first, block, absent, room)
    found = [tile.hits(vectors) for tile in tiles]
    empty = Hits(np.empty((0, depth), np.int64), np.empty((0, depth), np.float64))
    return Hits(
        np.concatenate([empty.rows, *(each.rows for each in found)]),
        np.concatenate([empty.scores, *(each.scores for each in found)]),
    )


class _Tile:
    """Some queries and the candidates they have met: flat arrays of query, row and rough product."""

    def __init__(self, queries: NDArray[np.float32], depth: int, never: Never) -> None:
        self._queries = queries
        self._depth = depth
        self._never = never
        self._query: list[Rows] = []
        self._row: list[Rows] = []
        self._rough: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._floor = np.full(len(queries), -np.inf, np.float32)
        # The error of a float32 product of unit vectors is below width * 2^-24 (Higham 2002, 3.1). Twice that, once
        # more for vectors that half precision made a little longer than 1, and twice because both sides may be off.
        self._slack = np.float32(queries.shape[1] * 2.0**-21)

    def see(self, first: int, block: NDArray[np.float32], absent: NDArray[np.intp], room: NDArray[np.float32]) -> None:
        shape = (len(self._queries), len(block))
        products = room[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self._queries, block.T, out=products)
        products[:, absent] = -np.inf
        never = self._never.within(first, len(block))
        products[never.query, never.row] = -np.inf
        if not self._query and len(block) > self._depth:
            bar = np.partition(products, len(block) - self._depth, axis=1)[:, len(block) - self._depth]
            self._floor = bar - self._slack
        found = np.flatnonzero(products > self._floor[:, None])
        query, passage = np.divmod(found, len(block))
        self._query.append(query)
        self._row.append(passage + first)
        self._rough.append(products.reshape(-1)[found])
        self._waiting += len(found)
        if self._waiting > len(self._queries) * self._depth:
            self._cut()

    def _cut(self) -> None:
        """Forget what can no longer be among the nearest."""
        query, row, rough = (np.concatenate(each) for each in (self._query, self._row, self._rough))
        order = np.lexsort((np.negative(rough), query))
        query, row, rough = query[order], row[order], rough[order]
        counts = np.bincount(query, minlength=len(self._queries))
        last = np.cumsum(counts) - counts + self._depth - 1
        full = counts >= self._depth
        self._floor[full] = rough[last[full]] - self._slack
        kept = rough > self._floor[query]
        self._query, self._row, self._rough = [query[kept]], [row[kept]], [rough[kept]]
        self._waiting = 0

    def hits(self, vectors: Vectors) -> Hits:
        rows = np.full((len(self._queries), self._depth), -1, np.int64)
        scores = np.full(rows.shape, -np.inf)
        if self._query:
            self._cut()
            query, row = self._query[0], self._row[0]
            score = products(self._queries, query, vectors, row)
            order = np.lexsort((row, -score, query))
            query, row, score = query[order], row[order], score[order]
            counts = np.bincount(query, minlength=len(self._queries))
            place = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
            near = place < self._depth
            rows[query[near], place[near]] = row[near]
            scores[query[near], place[near]] = score[near]
        return Hits(rows, scores)


def products(queries: NDArray[Any], query: Rows, vectors: Vectors, row: Rows) -> Scores:
    """Products of queries[query[n]] and stored vector row[n] in float64: each summed in the same way, whatever else."""
    found = np.empty(len(row))
    order = np.argsort(row, kind="stable")  # neighbours on disk are read together
    for start in range(0, len(row), _PAIRS):
        at = order[start : start + _PAIRS]
        passages = vectors.gather(row[at]).astype(np.float64)
        passages *= queries[query[at]]
        found[at] = passages.sum(axis=1)
    return found
