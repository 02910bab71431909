"""Vectors that scorers ask an encoder for: one a text, or none where the server refuses that text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synth.encoding import encode_all
from synth.errors import ServerRefused
from synth.stage import Encoder


async def unit_vectors(
    encoder: Encoder, texts: Sequence[str], role: Literal["query", "document"]
) -> NDArray[np.float64]:
    """Vectors of length 1, and zeros for the texts that cannot be embedded: float64 (n, width).

    Raises ServerRefused for another number of vectors than texts, and for NaN, infinity or zeros as a vector.
    """
    encoded, refused = await encode_all(encoder, texts, role)
    vectors = np.asarray(encoded.vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):  # noqa: PLR2004 - (n, width)
        raise ServerRefused(
            f"embed: {len(texts)} texts went in, an array of shape {vectors.shape} came back.",
            "Each text needs exactly one vector.",
        )
    without = np.zeros(len(texts), np.bool_)
    without[list(refused)] = True
    unusable = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)) & ~without)
    if len(unusable):
        text = texts[int(unusable[0])]
        raise ServerRefused(
            f"embed: the vector of {len(unusable)} of {len(texts)} texts ({role}) holds NaN, infinity or only zeros; "
            f"the first is {text[:60]!r}.",
            "Check the model's dtype on the server; such vectors have no cosine.",
        )
    vectors = np.where(without[:, None], 0.0, vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float64)


def dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products row by row: (n, width) and (n, width) to (n,)."""
    return np.asarray(np.einsum("ij,ij->i", left, right))
