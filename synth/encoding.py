"""Encoding many texts when the server refuses some: one text without a vector costs itself, never its shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from synth.errors import RequestRejected
from synth.stage import Encoded, Encoder

Refused = dict[int, RequestRejected]
"""By number of the text: why it has no vector."""


async def encode_all(
    encoder: Encoder, texts: Sequence[str], role: Literal["query", "document"]
) -> tuple[Encoded, Refused]:
    """Vectors of all texts, and which were refused; the rows of those are zero.

    As long as nothing is refused this is one call. Else halves are tried until the texts are found.
    """
    try:
        return await encoder.encode(texts, role), {}
    except RequestRejected as exc:
        if len(texts) == 1:
            return Encoded(np.zeros((1, 0), np.float32), np.zeros(1, np.bool_)), {0: exc}
    middle = len(texts) // 2
    left, refused = await encode_all(encoder, texts[:middle], role)
    right, others = await encode_all(encoder, texts[middle:], role)
    width = max(left.vectors.shape[1], right.vectors.shape[1])
    vectors = np.concatenate([_widened(left.vectors, width), _widened(right.vectors, width)])
    found = Encoded(vectors, np.concatenate([left.truncated, right.truncated]))
    return found, refused | {middle + n: exc for n, exc in others.items()}


def _widened(
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], width: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors as they are; rows of width 0, all refused, as zeros of that width."""
    return vectors if vectors.shape[1] == width else np.zeros((len(vectors), width), np.float32)
