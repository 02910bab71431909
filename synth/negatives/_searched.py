"""What sources that search the corpus share: the passages nearest to the query by cosine, BM25 or both.

With `window="after"` they are those of `mine_hard_negatives` of sentence-transformers 6.2 over the same vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from synth.hashing import item_random
from synth.negatives._choosing import Selector
from synth.negatives._negatives import Candidate, Item, Negatives, Pool
from synth.negatives._ranking import fused, lexical
from synth.search import Corpus, Excluded, retrieve

_ROOM = 10
"""Ranks per negative, for a window without an upper end and rules that may refuse many passages."""
_MOST_HITS = 1 << 22
"""Of one pass over the corpus, which keeps them in memory: 16 bytes each, twice that while sorting."""


def _range(value: object) -> object:
    """`20:50` as [20, 50], `20:` without an upper end."""
    if not isinstance(value, str):
        return value
    low, colon, high = value.partition(":")
    if not (colon and low.strip().isdigit() and (high.strip().isdigit() or not high.strip())):
        raise ValueError("is not a range of ranks such as 20:50")
    return (int(low), int(high) if high.strip() else None)


class Searched(Negatives):
    """Base of sources that take passages of the corpus, by rank."""

    advice: ClassVar[str] = "lower --range, raise --max-score, or lower --absolute-margin"

    by: Literal["bm25", "dense", "hybrid"] = "dense"
    """The ranking: BM25 (needs the extra `mine`), dense (cosine), or hybrid, both by reciprocal rank fusion."""
    range: Annotated[tuple[Annotated[int, Field(ge=0)], int | None], BeforeValidator(_range), Field(strict=False)] = (
        20,
        50,
    )
    """`20:50` skips the 20 nearest and draws from the next 30; `20:` ends where enough should be found."""
    window: Literal["before", "after"] = "after"
    """Whether ranks count before the score rules or among what they leave, as sentence-transformers does."""
    sample: Literal["top", "random", "quantiles"] = "top"
    """The nearest in the window, a random draw with the pair's own seed, or `quantiles`: the reranker scores the whole
    window, and those taken are spread evenly over its scores, for training on a teacher's scores."""

    @model_validator(mode="after")
    def _fits(self) -> Searched:
        low, high = self.range
        if high is not None and high - low < self.num_negatives:
            ranks = max(high - low, 0)
            raise ValueError(f"range {low}:{high} has {ranks} ranks, num_negatives is {self.num_negatives}")
        if self.sample == "quantiles" and self.reranker is None:
            raise ValueError("sample: quantiles needs a reranker, whose scores the negatives are spread over")
        return self

    @property
    def tried(self) -> int | None:
        """Of a sample over the teacher's scores, all are scored before any is chosen."""
        return None if self.sample == "quantiles" else self.num_negatives

    def corpus_problem(self, passages: int) -> tuple[str, str] | None:
        """The corpus must reach beyond the start of the window."""
        if passages - 1 > self.range[0] or (self.on_short == "fill" and passages > 1):
            return None
        what = f"the corpus has {passages} passages, and the window begins after {self.range[0]} of them"
        lower = f"0:{max(passages, self.num_negatives)}"
        return what, f"Lower it, for example --range {lower}, or give a larger one with --corpus."

    def search(self, items: Sequence[Item], corpus: Corpus, most: int) -> Sequence[Pool]:
        """The candidates of each item by rank; items of one query share them."""
        asked = list(dict.fromkeys((item.shard, item.query) for item in items))
        first = {(item.shard, item.query): item for item in reversed(items)}
        distinct = [first[key] for key in asked]
        rules = (self.max_score, self.absolute_margin, self.relative_margin)  # which may refuse many of the nearest
        room = (1 if rules == (None, None, None) else _ROOM) * self.num_negatives + most
        low, high = self.range
        high = low + room if high is None else high
        depth = min(high + most, corpus.count)
        step = max(1, _MOST_HITS // max(depth, 1))
        found: dict[tuple[int, str], Pool] = {}
        for start in range(0, len(distinct), step):
            part = distinct[start : start + step]
            found |= zip(asked[start : start + step], self._pools(part, corpus, (low, high), depth), strict=True)
        return [found[item.shard, item.query] for item in items]

    async def candidates(self, items: Sequence[Item], found: Sequence[Pool], selector: Selector) -> Sequence[Pool]:
        return [self._ordered(item, pool, selector.seed) for item, pool in zip(items, found, strict=True)]

    def _pools(self, items: Sequence[Item], corpus: Corpus, window: tuple[int, int], depth: int) -> list[Pool]:
        """The hits that may be negatives, and how many were refused, by the first rule that refused each."""
        queries = np.array([item.vector for item in items], np.float32)
        excluded = Excluded.of([(n, item.never) for n, item in enumerate(items)])
        rankings = []
        if self.by != "bm25":
            rankings.append(retrieve(queries, corpus, depth, excluded))
        if self.by != "dense":
            rankings.append(lexical(corpus, [item.query for item in items], queries, depth, excluded))
        hits = fused(rankings) if len(rankings) > 1 else rankings[0]
        positive = hits.rows == np.array([item.known[0] for item in items])[:, None]
        for n in (n for n, item in enumerate(items) if len(item.known) > 1):
            positive[n] = np.isin(hits.rows[n], items[n].known)
        lowest = np.array([item.min_positive_score for item in items])
        hit = hits.rows >= 0
        refused = {"positive": (hit & positive).sum(axis=1)}
        left = hit & ~positive
        ranks = left.cumsum(axis=1)
        if self.window == "before":
            left = _within(left, window)
        for reason, broken in self.refusals(hits.scores, lowest[:, None]):
            refused[reason] = (left & broken).sum(axis=1)
            left = left & ~broken
        if self.window == "after":
            left = _within(left, window)
        pools = []
        for n in range(len(items)):
            places = np.flatnonzero(left[n])
            columns = (each[n, places].tolist() for each in (ranks, hits.scores, hits.rows))
            drawn = [Candidate(rank, score, "mined", row) for rank, score, row in zip(*columns, strict=True)]
            counts = Counter({reason: int(each[n]) for reason, each in refused.items() if each[n]})
            pools.append(Pool(drawn, counts))
        return pools

    def _ordered(self, item: Item, pool: Pool, seed: int) -> Pool:
        """The same candidates in the order in which this pair tries them."""
        drawn = list(pool.candidates)
        if self.sample == "random":
            item_random(seed, "negatives", item.position, item.slot).shuffle(drawn)
        return Pool(drawn, pool.refused)


def _within(left: NDArray[np.bool_], window: tuple[int, int]) -> NDArray[np.bool_]:
    """Which of the remaining hits of each query, in rank order, have a rank in the window: bool (n, k)."""
    place = left.cumsum(axis=1)
    return np.asarray(left & (place > window[0]) & (place <= window[1]))
