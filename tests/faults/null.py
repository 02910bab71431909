"""Models that cost next to nothing, in the process: for runs whose own memory and time are measured.

Named in a job as `use: "tests.faults.null:NullChat"` and `use: "tests.faults.null:NullEncoder"`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from synth.stage import ChatReply, ChatRequest, ClientSettings, EmbedStage, Encoded, LlmStage

WIDTH = 64


class _Chat:
    slots = 64
    troubled = False

    async def complete(self, request: ChatRequest) -> ChatReply:
        await asyncio.sleep(0)
        parts = request.schema["properties"]
        value = {name: part.get("enum", [f"what is said of {request.seed % 9973}"])[0] for name, part in parts.items()}
        return ChatReply(json.dumps(value), "stop", "null")

    async def close(self) -> None:
        pass


class _Encoder:
    async def encode(self, texts: Sequence[str], role: Literal["query", "document"]) -> Encoded:  # noqa: ARG002 - the seam's
        await asyncio.sleep(0)
        vectors = np.full((len(texts), WIDTH), 0.1, np.float32)
        vectors[:, 0] += np.fromiter((len(text) % 17 for text in texts), np.float32, len(texts))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoded(vectors, np.zeros(len(texts), np.bool_))

    async def close(self) -> None:
        pass


class NullChat(LlmStage):
    """Gives the first thing that the schema allows."""

    model: str = "null"

    def open(self, client: ClientSettings) -> _Chat:  # noqa: ARG002 - the seam's
        return _Chat()


class NullEncoder(EmbedStage):
    """Gives vectors that depend on the length of the text."""

    model: str = "null"

    def open(self, client: ClientSettings, instruction: str) -> _Encoder:  # noqa: ARG002 - the seam's
        return _Encoder()
