"""Texts that must not turn up in training data, and how much of a text is theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from synth.shingles import shingles, tokens, windows

_SHINGLE = 3


class Overlap(NamedTuple):
    """`hit`: an n-gram in common, or as near as the threshold; `share` in 0..1; `by` is `file:row`, None for none."""

    hit: bool
    share: float
    by: str | None


class Protected:
    """(`file:row`, text) rows, found again by n-grams of `ngram` tokens and by Jaccard over triples of tokens."""

    def __init__(self, rows: Iterable[tuple[str, str]], ngram: int, threshold: float) -> None:
        self._ngram = ngram
        self._threshold = threshold
        self._places: list[str] = []
        self._sizes: list[int] = []
        self._grams: dict[int, list[int]] = {}
        self._shingles: dict[int, list[int]] = {}
        for place, text in rows:
            number = len(self._places)
            self._places.append(place)
            if len(tokens(text)) >= ngram:
                for gram in set(windows(text, ngram).tolist()):
                    self._grams.setdefault(gram, []).append(number)
            triples = shingles(text, _SHINGLE)
            self._sizes.append(triples.size)
            for triple in triples.tolist():
                self._shingles.setdefault(triple, []).append(number)

    def overlap(self, text: str) -> Overlap:
        """Share of the text's n-grams that are theirs, or its similarity to the nearest of them, whichever is more."""
        grams = windows(text, self._ngram).tolist() if len(tokens(text)) >= self._ngram else []
        found = [gram for gram in grams if gram in self._grams]
        share = len(found) / len(grams) if grams else 0.0
        hits = Counter(number for gram in found for number in self._grams[gram])
        similarity, nearest = self._nearest(text)
        culprit = max(hits, key=lambda number: (hits[number], -number)) if hits else nearest
        if similarity > share:
            culprit = nearest
        hit = bool(found) or similarity >= self._threshold
        place = self._places[culprit] if culprit is not None and hit else None
        return Overlap(hit, max(share, similarity), place)

    def _nearest(self, text: str) -> tuple[float, int | None]:
        own = shingles(text, _SHINGLE)
        shared = Counter(number for triple in own.tolist() for number in self._shingles.get(triple, ()))
        best, which = 0.0, None
        for number, count in sorted(shared.items()):
            similarity = count / (own.size + self._sizes[number] - count)
            if similarity > best:
                best, which = similarity, number
        return best, which
