"""Whether a passage says the same as a positive, word by word."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from synth.shingles import Shingles, shingles

FLOOR = 0.5
"""Cosine with the positive below which words are not compared: no encoder puts a light edit so far away."""

_RUN = 3
_FEW = 0.3
"""Share of the pieces between spaces below which two texts cannot be near-equal, whatever their punctuation does."""
_SPACED = 20
"""Characters a piece up to which a text counts as written with spaces."""


def near_equal(passage: str, positive: str, threshold: float) -> bool:
    """Whether the words of one are those of the other to the extent `threshold`.

    Either their sets of words overlap so far (Jaccard), or that share of the word triples of the shorter one stands in
    the longer one, as of a chunk in its document. Where a script has no spaces between words, characters count.
    """
    if _strange(passage, positive):
        return False
    words, others = _set(passage, 1), _set(positive, 1)
    shared = _shared(words, others)
    if shared >= threshold * (words.size + others.size - shared):
        return True
    if shared < threshold * threshold * min(words.size, others.size):
        return False  # triples cannot be shared without their words; repeated words are what the square allows for
    runs, others = _set(passage, _RUN), _set(positive, _RUN)
    return _shared(runs, others) >= threshold * min(runs.size, others.size)


def _strange(passage: str, positive: str) -> bool:
    """Whether one look at the pieces between spaces shows that the texts differ."""
    pieces, others = _pieces(passage), _pieces(positive)
    least = min(len(pieces), len(others))
    if least * _SPACED < min(len(passage), len(positive)):
        return False
    return len(pieces & others) < _FEW * least


@lru_cache(maxsize=1 << 12)
def _pieces(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())


@lru_cache(maxsize=1 << 12)
def _set(text: str, size: int) -> Shingles:
    return shingles(text, size)


def _shared(a: Shingles, b: Shingles) -> int:
    return int(np.intersect1d(a, b, assume_unique=True).size)
