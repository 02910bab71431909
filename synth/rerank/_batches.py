"""Many pairs through a model that takes some at a time and may refuse one of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from synth.errors import RequestRejected, SynthError

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
            raise _first(failures) from None
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


def _first(failures: BaseExceptionGroup[SynthError]) -> SynthError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
