"""The pairs that want negatives, and which passages answer which queries."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Item:
    """One pair. `known` are the rows of all passages known to answer its query, its own among them; ascending.

    `vector` is the query's, float32 (width,); `bar` the least cosine of a positive of its query; `chunks` are rows of
    the same documents, which the query must not find; `brought` are negatives that the data has of its own.
    """

    id: str
    position: int
    slot: int
    shard: int
    query: str
    passage: str
    vector: NDArray[np.float32]
    known: Rows
    bar: float
    chunks: Rows
    brought: tuple[str, ...] = ()


class Positives:
    """The rows of each query's passages, queries compared without case, white space and form: 16 bytes a pair."""

    def __init__(self, pairs: Iterable[tuple[NDArray[np.uint64], Rows]]) -> None:
        parts = list(pairs)
        queries = np.concatenate([np.empty(0, np.uint64), *(each for each, _ in parts)])
        rows = np.concatenate([np.empty(0, np.int64), *(each for _, each in parts)])
        order = np.lexsort((rows, queries))
        self._queries, self._rows = queries[order], rows[order]

    def of(self, key: int) -> Rows:
        """The distinct rows of a query, ascending."""
        wanted = np.uint64(key)
        low, high = np.searchsorted(self._queries, wanted), np.searchsorted(self._queries, wanted, side="right")
        rows = self._rows[low:high]
        return rows if len(rows) == 1 else np.unique(rows)

    @property
    def most(self) -> int:
        """The greatest number of pairs of one query."""
        return int(np.unique(self._queries, return_counts=True)[1].max(initial=0))


def query_keys(queries: Iterable[str]) -> NDArray[np.uint64]:
    """What queries are compared by; two that differ share a key once in 10^19 pairs."""
    return np.array([query_key(query) for query in queries], np.uint64)


def query_key(query: str) -> int:
    """One of them."""
    folded = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    return int.from_bytes(blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
