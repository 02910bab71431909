"""From candidates to negatives: each is compared with the positives and checked by the reranker."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synth.batching import AnswerCache, encode_all, rerank_all
from synth.hashing import Shingles, item_random, shingles
from synth.languages.words import fold
from synth.negatives._negatives import Candidate, Item, Negatives, Pool
from synth.search import Corpus, products, usable
from synth.stage import ChatModel, Encoder, Reranker
from synth.types import MinedPair, Negative

FLOOR = 0.5
"""Words are only compared above this cosine with the positive: no encoder puts a lightly edited copy below it."""

_RUN = 3
_FEW = 0.3
"""Share of common space-separated pieces below which two texts cannot be near-equal, whatever their punctuation."""
_SPACED = 20
"""Average length of pieces, in characters, up to which a text counts as written with spaces."""


def near_equal(passage: str, positive: str, threshold: float) -> bool:
    """Whether two texts share their words to the extent `threshold`.

    Either their sets of words overlap that much (Jaccard), or the longer text contains that share of the word triples
    of the shorter one, as a document contains a chunk. In scripts without spaces between words, characters count.
    """
    pieces, known = _pieces(passage), _pieces(positive)
    least = min(len(pieces), len(known))
    spaced = least * _SPACED >= min(len(passage), len(positive))
    if spaced and len(pieces & known) < _FEW * least:
        return False  # a cheap check, which decides most
    words, others = _set(passage, 1), _set(positive, 1)
    shared = _shared(words, others)
    if shared >= threshold * (words.size + others.size - shared):
        return True
    if shared < threshold * threshold * min(words.size, others.size):
        return False  # shared triples need shared words; the square allows for repeated ones
    runs, others = _set(passage, _RUN), _set(positive, _RUN)
    return _shared(runs, others) >= threshold * min(runs.size, others.size)


@lru_cache(maxsize=1 << 12)
def _pieces(text: str) -> frozenset[str]:
    return frozenset(fold(text).split())


_set = lru_cache(maxsize=1 << 12)(shingles)


def _shared(a: Shingles, b: Shingles) -> int:
    return int(np.intersect1d(a, b, assume_unique=True).size)


_DRAWS = 20
"""Random passages to try for each missing negative."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects negatives from candidates. `memory` keeps the answers of models until the shard is done."""

    options: Negatives
    corpus: Corpus
    seed: int
    encoder: Encoder
    chat: ChatModel | None = None
    reranker: Reranker | None = None
    memory: AnswerCache | None = None

    async def choose(self, items: Sequence[Item], pools: Sequence[Pool]) -> list[MinedPair]:
        """Go through each pool until its item has enough, all items in parallel; fill up if `on_short` says so."""
        found = [MinedPair(refused=Counter(pool.refused)) for pool in pools]
        await self._rounds(items, pools, found, self.options.tried)
        for each in found:
            each.negatives = self._spread(each.negatives)
        if self.options.on_short == "fill":
            random = [self._random(item, each) for item, each in zip(items, found, strict=True)]
            await self._rounds(items, random, found, self.options.num_negatives)
        for each in found:
            each.negatives.sort(key=lambda negative: math.inf if negative.rank is None else negative.rank)
        return found

    async def judged(
        self, items: Sequence[Item], texts: Sequence[Sequence[str]], source: Literal["written", "given"]
    ) -> list[Pool]:
        """Candidates from texts that are not search results: those that pass the score rules; embedded in one call."""
        distinct = list(dict.fromkeys(text for each in texts for text in each))
        vectors = {}
        if distinct:
            encoded, _ = await encode_all(self.encoder, distinct, "document")
            vectors = dict(zip(distinct, usable(encoded.vectors, self.corpus.width), strict=True))
        pools = []
        for item, mine in zip(items, texts, strict=True):
            pool = Pool(refused=Counter() if mine else Counter({f"not_{source}": 1}))
            answers = {self.corpus.text(row) for row in item.known.tolist()}
            doubtful = {self.corpus.text(row) for row in item.doubtful.tolist()}
            kept: list[Candidate] = []
            for n, text in enumerate(mine):
                vector = vectors[text]
                score = float((vector.astype(np.float64) * item.vector).sum())
                rules = self.options.refusals(np.array([score]), np.array([item.min_positive_score]))
                broken = next((name for name, hit in rules if hit[0]), None) if vector.any() else "no_vector"
                broken = "positive" if text in answers else "ambiguous" if text in doubtful else broken
                if broken is not None:
                    pool.refused[broken] += 1
                else:
                    kept.append(Candidate(None, score, source, text=text, id=f"{source}:{item.id}:{n}", vector=vector))
            pool.candidates = kept
            pools.append(pool)
        return pools

    async def _rounds(
        self, items: Sequence[Item], pools: Sequence[Pool], found: list[MinedPair], tried: int | None
    ) -> None:
        while taken := [
            (n, candidate)
            for n, pool in enumerate(pools)
            for candidate in pool.take((len(pool.candidates) if tried is None else tried) - len(found[n].negatives))
        ]:
            alike = self._cosines(items, taken)
            asked = []
            for (n, candidate), cosines in zip(taken, alike, strict=True):
                text = candidate.text or self.corpus.text(candidate.row)
                if self._near(items[n], text, cosines):
                    found[n].refused["near_positive"] += 1
                else:
                    asked.append((n, candidate, text))
            pairs = [(items[n].query, text) for n, _, text in asked]
            verdicts: dict[tuple[str, str], float | None] = {}
            if self.reranker is not None:
                verdicts = await rerank_all(self.reranker, pairs, self.memory)
            for (n, candidate, text), pair in zip(asked, pairs, strict=True):
                passage_id = candidate.id or self.corpus.id(candidate.row)
                margin = items[n].min_positive_score - candidate.score
                values = (passage_id, candidate.rank, candidate.score, margin, verdicts.get(pair), candidate.source)
                self._place(found[n], Negative(text, *values, candidate.facet, candidate.facet_type))

    def _spread(self, negatives: list[Negative]) -> list[Negative]:
        """As many as wanted, at even distances in the order of the reranker's scores; all where there are not more."""
        wanted = self.options.num_negatives
        if len(negatives) <= wanted:
            return negatives
        ordered = sorted(negatives, key=lambda each: -(each.reranker or 0.0))
        return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, wanted)]

    def _place(self, found: MinedPair, each: Negative) -> None:
        """Decide by the reranker's score, if there is a reranker; without a score, refuse."""
        verdict, promote = each.reranker, self.options.promote_above
        if self.reranker is None:
            found.negatives.append(each)
        elif verdict is None:
            found.refused["no_verdict"] += 1
        elif promote is not None and verdict > promote:
            found.refused["promoted"] += 1
            found.extra_positives.append(each)
        elif verdict > self.options.reject_above:
            found.refused["reranker"] += 1
        else:
            found.negatives.append(each)

    def _cosines(self, items: Sequence[Item], taken: Sequence[tuple[int, Candidate]]) -> list[NDArray[np.float64]]:
        """Cosines of each candidate with every known positive of its item."""
        if self.options.near is None and self.options.near_cosine is None:
            return [np.empty(0)] * len(taken)
        rows = np.array([max(each.row, 0) for _, each in taken], np.int64)
        vectors = self.corpus.gather(rows).astype(np.float32)
        for place, (_, each) in enumerate(taken):
            if each.vector is not None:
                vectors[place] = each.vector
        counts = [len(items[n].known) for n, _ in taken]
        which = np.repeat(np.arange(len(taken)), counts)
        known = np.concatenate([np.empty(0, np.int64), *(items[n].known for n, _ in taken)])
        return np.split(products(vectors, which, self.corpus, known), np.cumsum(counts)[:-1])

    def _near(self, item: Item, text: str, cosines: NDArray[np.float64]) -> bool:
        options = self.options
        if options.near_cosine is not None and (cosines >= options.near_cosine).any():
            return True
        if options.near is None:
            return False
        close = item.known[cosines >= FLOOR].tolist()
        return any(near_equal(text, self.corpus.text(row), options.near) for row in close)

    def _random(self, item: Item, found: MinedPair) -> Pool:
        """Random passages of the corpus that pass the score rules, for an item that has too few negatives."""
        missing = self.options.num_negatives - len(found.negatives)
        if missing <= 0:
            return Pool()
        draw = item_random(self.seed, "negatives/fill", item.position, item.slot)
        drawn = draw.sample(range(self.corpus.count), min(self.corpus.count, _DRAWS * missing))
        taken = {each.passage_id for each in (*found.negatives, *found.extra_positives)}
        never = {*item.known.tolist(), *item.never.tolist()}
        rows = np.array([row for row in drawn if row not in never and self.corpus.id(row) not in taken], np.int64)
        scores = products(item.vector[None], np.zeros(len(rows), np.int64), self.corpus, rows)
        passing = self.corpus.gather(rows).any(axis=1)
        for _, broken in self.options.refusals(scores, np.full(1, item.min_positive_score)):
            passing &= ~broken
        chosen = zip(rows[passing].tolist(), scores[passing].tolist(), strict=True)
        return Pool([Candidate(None, score, "random", row) for row, score in chosen])
