"""Measures of sets of texts and of sets of vectors. Vectors are of unit length: float32 (n, width)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.errors import JobError
from synth.hashing import tokens
from synth.languages import language

Vectors = NDArray[np.float32]


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, by their bytes compressed by zlib (Shaib et al. 2024, arXiv 2403.00553)."""
    raw = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw, 9))


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct runs of `n` words by all runs (Li et al. 2016, arXiv 1510.03055); None where no text has so many."""
    found = [tuple(words[at : at + n]) for words in map(tokens, texts) for at in range(len(words) - n + 1)]
    return len(set(found)) / len(found) if found else None


def vendi(vectors: Vectors) -> float:
    """The effective number of different texts, 1..n: exp of the entropy of the eigenvalues of K/n, K the cosines.

    Friedman and Dieng 2023, arXiv 2210.02410. X Xᵀ and Xᵀ X have the same eigenvalues, so the smaller one is taken.
    """
    rows = vectors.astype(np.float64)
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    shares = np.linalg.eigvalsh(gram / len(rows))
    shares = shares[shares > 1e-12]  # noqa: PLR2004 - what rounding leaves of 0
    return float(np.exp(-(shares * np.log(shares)).sum()))


def facility_location(vectors: Vectors, chosen: NDArray[np.bool_]) -> float:
    """The mean over all rows of the highest cosine with a chosen one, 0 where none is chosen."""
    return float((vectors @ vectors[chosen].T).max(axis=1).mean()) if chosen.any() else 0.0


def in_the_plane(vectors: Vectors) -> tuple[NDArray[Any], float]:
    """The rows as points, (n, 2), along the two directions in which they differ most (PCA); their share of variance."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    largest = directions[:, :-3:-1]
    largest = largest * np.sign(largest[np.abs(largest).argmax(axis=0), [0, 1]])  # a direction has no sign of its own
    return centred @ largest, float(values[-2:].sum() / (values.sum() or 1.0))


def content_words(texts: Sequence[str], languages: Sequence[str | None]) -> list[int]:
    """Words that are not stop words, for each text in a language that the lists of bm25s know.

    Raises JobError without the package.
    """
    try:
        from bm25s import stopwords  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise JobError(f"stop words need a package that is missing: {exc}.", "pip install 'synth[report]'") from exc

    def listed(code: str | None) -> frozenset[str] | None:
        try:
            name = language(code).name.upper() if code else ""
        except JobError:
            name = ""
        name = {"ENGLISH": "EN_PLUS"}.get(name, name)
        return frozenset(getattr(stopwords, f"STOPWORDS_{name}", ())) or None

    known = {code: listed(code) for code in set(languages)}
    pairs = ((text, known[code]) for text, code in zip(texts, languages, strict=True))
    return [sum(word not in stops for word in tokens(text)) for text, stops in pairs if stops is not None]
