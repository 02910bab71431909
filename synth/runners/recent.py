"""An encoder that remembers the passages of the last few shards.

Personas are found by passage vectors and the cosine needs the same ones a moment later; a shard's distinct passages
always go in as one call, so giving back the earlier result changes no bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from synth.stage import Encoded, Encoder


class RecentVectors:
    """Wraps an Encoder; keeps the document vectors of the last `shards` calls, a few MB each."""

    def __init__(self, encoder: Encoder, shards: int) -> None:
        self._encoder = encoder
        self._shards = shards
        self._kept: OrderedDict[tuple[str, ...], Encoded] = OrderedDict()

    async def encode(self, texts: Sequence[str], role: Literal["query", "document"]) -> Encoded:
        """As the wrapped encoder; a repeated batch of documents costs nothing."""
        if role == "query":
            return await self._encoder.encode(texts, role)
        key = tuple(texts)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        encoded = await self._encoder.encode(texts, role)
        self._kept[key] = encoded
        while len(self._kept) > self._shards:
            self._kept.popitem(last=False)
        return encoded

    async def close(self) -> None:
        """Close the wrapped encoder."""
        await self._encoder.close()
