"""How many requests one server gets at once, adjusted while working.

vLLM reports on `/metrics` how many requests run and wait and how full its cache is: the limit rises while none waits
and falls when many do, so that a short queue keeps every slot busy. Other servers only refuse: one request more with
every round of answers, a third fewer after a refusal (AIMD, Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from synth.stage import Clock


class WaitingQueue:
    """Requests in order of arrival, each waiting until a limiter admits it."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Limiter | None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self) -> Limiter | None:
        """The limiter that admitted this request, to be released later; None after `dismiss`."""
        waiting: asyncio.Future[Limiter | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and (limiter := waiting.result()) is not None:
                limiter.release()  # admitted in the same moment
            raise

    def admit(self, limiter: Limiter | None) -> bool:
        """Give the request that has waited longest its limiter; False when nothing waits."""
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                waiting.set_result(limiter)
                return True
        return False


class Limiter:
    """At most `limit` requests at once (None means unlimited); a passage's later requests go before new passages.

    Otherwise they would queue behind the first requests of many others, and the passage's prefix would be gone from the
    server's cache by then.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.new_passages = WaitingQueue()
        """Shared by the servers of one model: each new passage goes to the first server with room. Assigned to a server
        beforehand, it would still wait for a slow one when the others have nothing left to do."""
        self.is_open: Callable[[], bool] = lambda: True
        """Whether the server may be given new passages now."""
        self.in_flight = 0
        self.was_full = False
        """Whether the limit was reached since somebody set this to False."""
        self._continued = WaitingQueue()

    @property
    def load(self) -> float:
        return (self.in_flight + len(self._continued)) / (self.limit or 1)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit

    async def acquire(self) -> bool:
        """Wait for room at this server; True requires a `release` later, False comes after `dismiss`."""
        if self.full:
            return await self._continued.wait() is not None
        self._count()
        return True

    def release(self) -> None:
        self.in_flight -= 1
        self._admit()

    def set_limit(self, limit: int) -> None:
        self.limit = limit
        self._admit()

    def dismiss(self) -> None:
        """Let all waiting requests choose another server, because this one is down."""
        for queue in (self._continued, self.new_passages):
            while queue.admit(None):
                pass

    def _count(self) -> None:
        self.in_flight += 1
        self.was_full = self.was_full or self.full

    def _admit(self) -> None:
        while not self.full and self._continued.admit(self):
            self._count()
        while not self.full and self.is_open() and self.new_passages.admit(self):
            self._count()


START = 16
"""The first limit; doubled with every reading until the server is full."""
MIN_LIMIT = 4
_READ_SECONDS = 0.5
_CUT_SECONDS = 1.0
_CUT = 0.7
_FULL_CACHE = 0.9
_QUEUE = 0.05
"""Desired number of waiting requests for each running one: they start as soon as others end."""
_LONG_QUEUE = 0.1
_GAUGE = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+)$", re.MULTILINE)
_ENGINE = re.compile(r'^vllm:num_requests_running\{(?:[^}]*,)?engine="(\d+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What a server reports; `cache` is the fullest of its engines, from 0 to 1, the rest are sums."""

    running: float
    waiting: float
    cache: float = 0.0
    preemptions: float = 0.0
    engines: int = 1
    """Data-parallel replicas of the model behind the URL."""


def read_load(text: str) -> Load | None:
    """The load on a page of `/metrics`, None when the page is not vLLM's."""
    found: dict[str, list[float]] = {}
    for name, value in _GAUGE.findall(text):
        found.setdefault(name, []).append(float(value))
    if not {"num_requests_running", "num_requests_waiting"} <= found.keys():
        return None
    return Load(
        sum(found["num_requests_running"]),
        sum(found["num_requests_waiting"]),
        max(found.get("kv_cache_usage_perc", [0.0])),
        sum(found.get("num_preemptions_total", [0.0])),
        len(set(_ENGINE.findall(text))) or 1,
    )


class AdaptiveLimit(Limiter):
    """A limiter that adjusts itself, up to `most`; None for `most` means unlimited.

    `fetch_load` asks the server for its load, and is dropped when the server reports none.
    """

    def __init__(
        self, most: int | None, clock: Clock, fetch_load: Callable[[], Awaitable[Load | None]] | None = None
    ) -> None:
        super().__init__(None if most is None else min(START, most))
        self._most = most
        self._clock = clock
        self._fetch_load = fetch_load
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_at = -math.inf
        self._reports_load = False
        self._was_saturated = False
        """Whether the server has ever been full: from then on the limit grows slowly."""
        self._long_queues = 0
        self._preemptions = math.inf
        self._cut_at = -math.inf
        self._exact = float(self.limit or 0)
        """The limit before it is rounded down."""

    def poll(self) -> None:
        """Fetch the server's load when the limit holds requests back and the last reading is old; call this often."""
        if self._most is None or self._fetch_load is None or not self.was_full:
            return
        now = self._clock.now()
        if now - self._fetched_at >= _READ_SECONDS:
            self._fetched_at = now
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.get_running_loop().create_task(self._fetch(self._fetch_load))

    def answered(self) -> None:
        self.poll()
        if self._most is not None and not self._reports_load and self.was_full:
            self._adjust(self._exact + (1 / self._exact if self._was_saturated else 1.0))

    def refused(self) -> None:
        now = self._clock.now()
        if self._most is not None and now - self._cut_at >= _CUT_SECONDS:
            self._cut_at, self._was_saturated = now, True
            self._adjust(self._exact * _CUT)

    def update(self, load: Load) -> None:
        """Adjust the limit to the load that the server reports."""
        if self._most is None:
            return
        self._reports_load = True
        preempted, self._preemptions = load.preemptions > self._preemptions, load.preemptions
        surplus = load.waiting - math.ceil(load.running * _QUEUE)
        self._long_queues = self._long_queues + 1 if load.waiting > max(1.0, load.running * _LONG_QUEUE) else 0
        if preempted:
            self._was_saturated = True
            self._adjust(min(self._exact, load.running + load.waiting) * _CUT)
        elif load.waiting > load.running or self._long_queues > 1:
            self._was_saturated = True
            self._adjust(self.in_flight - surplus)  # not from the limit: a surplus takes a while to drain
        elif load.waiting == 0 and load.cache < _FULL_CACHE and self.was_full:
            self._adjust(self._exact * (1 + _QUEUE) + 1 if self._was_saturated else self._exact * 2)
        self.was_full = self.full

    def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()

    async def _fetch(self, fetch_load: Callable[[], Awaitable[Load | None]]) -> None:
        if (load := await fetch_load()) is not None:
            self.update(load)
        else:
            self._fetch_load, self._reports_load = None, False

    def _adjust(self, limit: float) -> None:
        most = self._most or 0
        self._exact = max(float(min(MIN_LIMIT, most)), min(float(most), limit))
        self.set_limit(int(self._exact))
