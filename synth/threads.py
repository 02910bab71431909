"""A thread for a model that computes in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class OneThread:
    """Runs calls one at a time, always in the same thread.

    PyTorch keeps a team of helpers for every thread that it was called from, and several teams get in each other's way:
    with the threads of the event loop the small embedder ran at 0.87 of its rate on two cores.
    """

    def __init__(self, name: str) -> None:
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """What `work` returns. A thread of the event loop waits for it, so that who leaves sees whether it is busy."""
        async with self._lock:
            return await asyncio.to_thread(lambda: self._thread.submit(work, *arguments).result())

    def close(self) -> None:
        """End the thread after what it is at."""
        self._thread.shutdown(wait=False)
