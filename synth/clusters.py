"""Clusters of texts by their vectors, which are of unit length: float32 (n, width)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_ROUNDS = 25


def clusters(vectors: Vectors, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], Vectors]:
    """The cluster of each row and the centres, unit vectors: k-means by cosine, first centres by k-means++."""
    nearest = np.full(len(vectors), -1.0)
    centres = [vectors[int(rng.integers(len(vectors)))]]
    for _ in range(count - 1):
        nearest = np.maximum(nearest, vectors @ centres[-1])
        far = np.clip(1 - nearest, 0, None).astype(np.float64)
        centres.append(vectors[int(rng.choice(len(vectors), p=far / far.sum() if far.sum() else None))])
    found, of = np.stack(centres), np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        before, of = of, (vectors @ found.T).argmax(axis=1)
        if np.array_equal(before, of):
            break
        for number in np.unique(of):
            total = vectors[of == number].sum(axis=0)
            found[number] = total / max(float(np.linalg.norm(total)), 1e-12)
    return of, found
