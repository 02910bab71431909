"""Rerankers, one module each; the module's name is what a job writes after `model: {use: …` of the score `reranker`.

Those on servers share `ServedReranker`: what they add is how to ask for the scores of some pairs.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.batching import Pairs, gathered, halved
from synth.errors import RequestRejected
from synth.servers.faults import shown
from synth.servers.fleet import Canary, Fleet, Served
from synth.servers.probe import PROBE_PAIRS, judge
from synth.stage import ProbeResult

Send = Callable[[Mapping[str, Any], Callable[[Any], Any]], Awaitable[Any]]
"""Sends one request; gives what the second argument makes of the JSON of the answer."""
Ask = Callable[[Pairs, Send], Awaitable[list[float]]]


class ServedReranker(Served):
    """A Reranker over a fleet: it calls `ask` with up to `batch_size` pairs.

    A rejected batch is halved until the one pair is found that the server does not accept: its score is NaN, and the
    first such rejection is reported.
    """

    def __init__(self, fleet: Fleet, canary: Canary, batch_size: int, ask: Ask) -> None:
        super().__init__(fleet, canary)
        self.batch_size = batch_size
        self._ask = ask
        self._room = asyncio.Semaphore(self.slots)
        self._notified = self._proven = False

    async def score(self, pairs: Pairs) -> NDArray[np.float64]:
        """One value for each pair, NaN for a rejected one: float64 (n,)."""
        starts = range(0, len(pairs), self.batch_size)
        found = await gathered(self._batch(pairs[start : start + self.batch_size]) for start in starts)
        return np.array([value for values in found for value in values], np.float64)

    async def _batch(self, pairs: Pairs) -> list[float]:
        async def ask(some: Pairs) -> list[float]:
            affinity = zlib.crc32(some[0][1].encode("utf-8", "replace"))
            scores = await self._ask(some, lambda body, read: self._fleet.call(body, affinity, read))
            self._proven = True
            return scores

        async def refused(_pair: tuple[str, str], rejection: RequestRejected) -> float:
            if not self._proven and rejection.reason in {"bad_request", "score"}:
                await self._fleet.require_answer(self._fleet.canary)
                self._proven = True
            if not self._notified:
                self._notified = True
                self._fleet.client.notify(f"reranker: a pair gets no score ({rejection}); later ones are not reported")
            return math.nan

        async with self._room:
            return await halved(pairs, ask, refused)

    async def _examine(self, url: str) -> ProbeResult:
        async def send(body: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
            return await self._fleet.ask(url, body, read)

        return judge(shown(url), await self._ask(PROBE_PAIRS, send))
