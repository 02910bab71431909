"""Answers of models, remembered until the shard is done: asked once, whatever crashes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from synth.errors import RequestRejected, SynthError
from synth.stage import Encoded, Encoder

Answer = TypeVar("Answer")


class Memory(Protocol):
    """Answers that cost a model call, kept until the shard is done, so that a crash costs none twice.

    `synth.shards.Journal` is one. A record stays what it was; keys are of the asker's own making.
    """

    def get(self, key: str) -> dict[str, Any] | None: ...

    def append(self, key: str, value: dict[str, Any]) -> None: ...


def key_of(kind: str, *texts: str) -> str:
    """Names a question by its kind and everything that was asked."""
    digest = sha256(b"\0".join(text.encode("utf-8", "surrogatepass") for text in texts))
    return f"{kind}/{digest.hexdigest()[:32]}"


async def gathered(tasks: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """All results in order; the first SynthError ends the others and is raised."""

    async def one(task: Awaitable[Answer]) -> Answer:
        return await task

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except* SynthError as failures:
        raise _first(failures) from None
    return [task.result() for task in running]


def _first(failures: BaseExceptionGroup[SynthError]) -> SynthError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


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


Pairs = Sequence[tuple[str, str]]
Ask = Callable[[Pairs], Awaitable[list[float]]]


class Batches:
    """Calls `ask` with at most `size` pairs, `slots` times at once over all callers.

    A batch that is refused is halved until the one pair is found that the server will not take: it scores NaN, and
    `notify` hears of the first.
    """

    def __init__(self, ask: Ask, size: int, slots: int, notify: Callable[[str], None]) -> None:
        self._ask = ask
        self._size = size
        self._slots = slots
        self._room: asyncio.Semaphore | None = None
        self._notify = notify
        self._refused = False

    async def score(self, pairs: Pairs) -> NDArray[np.float64]:
        """One value a pair, NaN where it is refused: float64 (n,)."""
        batches = [pairs[start : start + self._size] for start in range(0, len(pairs), self._size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(batch)) for batch in batches]
        except* SynthError as failures:
            raise _first_of_batch(failures) from None
        return np.array([value for task in tasks for value in task.result()], np.float64)

    async def _one(self, pairs: Pairs) -> list[float]:
        if self._room is None:
            self._room = asyncio.Semaphore(self._slots)
        async with self._room:
            return await self._halved(pairs)

    async def _halved(self, pairs: Pairs) -> list[float]:
        try:
            return await self._ask(pairs)
        except RequestRejected as rejection:
            if len(pairs) > 1:
                middle = len(pairs) // 2
                return await self._halved(pairs[:middle]) + await self._halved(pairs[middle:])
            if not self._refused:
                self._refused = True
                self._notify(f"reranker: a pair gets no score ({rejection}); further ones are not announced")
            return [math.nan]


def _first_of_batch(failures: BaseExceptionGroup[SynthError]) -> SynthError:
    first = failures.exceptions[0]
    return _first_of_batch(first) if isinstance(first, BaseExceptionGroup) else first
