"""Exact rank of one row among many by dot product, in blocks, whatever the order in which a BLAS adds up.

Blocks are multiplied in float32; every value so close to a decision that rounding could tip it is computed again in
float64, one product at a time. So ranks and margins are those of a plain loop in float64 over the same vectors, and do
not depend on block sizes or threads.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BLOCK = 8192
"""Passages multiplied at once."""
_QUERIES = 1024
_PAIRS = 4096


class Search:
    """`queries` (n, width) float32 look for their own passages, given as float32 rows `own` of index rows `row`.

    Feed every block of the index to `see`; then `rank` is 1 + the number of others that are strictly nearer, and `best`
    the greatest product with any other, -inf where there is none. A vector of zeros stands for none: as a passage it is
    never found, and where a query or its own passage has none, the pair is `unknown`.
    """

    def __init__(self, queries: NDArray[np.float32], own: NDArray[np.float32], row: NDArray[np.int64]) -> None:
        self.own = _exact(queries, own)
        self.rank = np.ones(len(queries), np.int64)
        self.best = np.full(len(queries), -np.inf)
        self.unknown = ~(queries.any(axis=1) & own.any(axis=1))
        self._queries = queries
        self._row = row
        # The error of a float32 dot product of unit vectors is below width * 2^-24 (Higham 2002, 3.1); twice that, and
        # once more for vectors that rounding to half precision made a little longer than 1.
        self._doubt = queries.shape[1] * 2.0**-22

    def see(self, first: int, passages: NDArray[np.float16]) -> None:
        """Rows `first`… of the index, (m, width) as stored."""
        block = passages.astype(np.float32)
        for start in range(0, len(self._queries), _QUERIES):
            self._multiply(start, first, block)

    def _multiply(self, start: int, first: int, block: NDArray[np.float32]) -> None:
        rows = slice(start, start + _QUERIES)
        queries, own, best = self._queries[rows], self.own[rows, None], self.best[rows]
        products = queries @ block.T
        mine = self._row[rows] - first
        inside = np.flatnonzero((mine >= 0) & (mine < len(block)))
        products[inside, mine[inside]] = -np.inf
        products[:, ~block.any(axis=1)] = -np.inf
        self.rank[rows] += (products > own + self._doubt).sum(axis=1)
        ahead = np.maximum(products.max(axis=1), best) - self._doubt
        near = (np.abs(products - own) <= self._doubt) | (products >= ahead[:, None])
        query, passage = np.nonzero(near & np.isfinite(products))
        for part in _slices(len(query)):
            self._decide(start, query[part], block[passage[part]], products[query[part], passage[part]])

    def _decide(
        self, start: int, query: NDArray[np.intp], passages: NDArray[np.float32], rough: NDArray[np.float32]
    ) -> None:
        at = query + start
        exact = _exact(self._queries[at], passages)
        own = self.own[at]
        doubtful = np.abs(rough - own) <= self._doubt
        np.add.at(self.rank, at[doubtful & (exact > own)], 1)
        np.maximum.at(self.best, at, exact)


def _slices(count: int) -> Iterable[slice]:
    return (slice(start, start + _PAIRS) for start in range(0, count, _PAIRS))


def _exact(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products row by row in float64, each summed in the same way whatever else is in the arrays."""
    return np.concatenate(
        [np.empty(0), *((a[part].astype(np.float64) * b[part]).sum(axis=1) for part in _slices(len(a)))]
    )
