"""How many calls one server gets at once, found while working.

vLLM tells on `/metrics` how many requests run and wait and how full its cache is: more are sent while none waits, fewer
when many do, so that a short queue keeps every slot busy and the cache holds what is open. Other servers tell by
refusing: one more with every round of answers, a third less after a refusal (AIMD, Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class Line:
    """Calls that begin a passage: each goes to whichever server has room first.

    Had they a server each beforehand, a slow one would still have its queue when the others have nothing left to do.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Gate | None]] = deque()

    async def wait(self) -> Gate | None:
        """The gate that let this call in, to be left later; None when `turn_away` was called meanwhile."""
        waiting: asyncio.Future[Gate | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and (gate := waiting.result()) is not None:
                gate.leave()  # room was given in the same moment
            raise

    def turn_away(self) -> None:
        """Send off all who wait: whom they wait for has changed."""
        while (waiting := self.first()) is not None:
            waiting.set_result(None)

    def first(self) -> asyncio.Future[Gate | None] | None:
        """Take out who has waited longest, None when nobody waits."""
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                return waiting
        return None


class Gate:
    """At most `limit` calls at once; who continues a passage goes before who begins one in the `line`.

    Without that rule a passage's later calls would queue behind the first calls of many others, and its prefix would be
    gone from the server's cache by then. None is no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.line = Line()
        """Servers that answer alike share one."""
        self.is_open: Callable[[], bool] = lambda: True
        """Whether the server may be given calls that begin a passage now."""
        self.busy = 0
        self.filled = False
        """Whether the limit was reached since somebody set this to False."""
        self._ahead: deque[asyncio.Future[bool]] = deque()

    @property
    def load(self) -> float:
        """Calls under way and waiting, as a share of the limit where there is one."""
        return (self.busy + len(self._ahead)) / (self.limit or 1)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.busy >= self.limit

    async def enter(self) -> bool:
        """Wait for room at this very server; False when `turn_away` was called meanwhile.

        Who gets True calls `leave` later.
        """
        if not self.full:
            self._take()
            return True
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ahead.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.result():
                self.leave()  # room was given in the same moment
            raise

    def leave(self) -> None:
        """Give room back."""
        self.busy -= 1
        self._let_in()

    def move(self, limit: int) -> None:
        """Set the limit; calls under way go on when it falls below them."""
        self.limit = limit
        self._let_in()

    def turn_away(self) -> None:
        """Send off all who wait: the server is down, and another may have room."""
        while self._ahead:
            if not (waiting := self._ahead.popleft()).done():
                waiting.set_result(False)
        self.line.turn_away()

    def _take(self) -> None:
        self.busy += 1
        self.filled = self.filled or self.full

    def _let_in(self) -> None:
        while not self.full and self._ahead:
            if not (waiting := self._ahead.popleft()).done():
                self._take()
                waiting.set_result(True)
        while not self.full and self.is_open() and (beginning := self.line.first()) is not None:
            self._take()
            beginning.set_result(self)


class Clock(Protocol):
    """`now` is monotonic seconds, `wall` seconds since 1970 (only to read HTTP dates), `sleep` waits."""

    def now(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clocks; jumps of the wall clock cannot shorten or lengthen a wait."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        await asyncio.sleep(seconds)


START = 16
"""Calls at first; doubled with every look until the server is full."""
FEWEST = 4
_LOOK_SECONDS = 0.5
_CUT_SECONDS = 1.0
_CUT = 0.7
_FULL_CACHE = 0.9
_QUEUE = 0.05
"""Waiting requests for each running one that are aimed at: what starts when one ends."""
_LONG_QUEUE = 0.1
_LINE = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+)$", re.MULTILINE)
_ENGINE = re.compile(r'^vllm:num_requests_running\{(?:[^}]*,)?engine="(\d+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What a server says of itself; `cache` is the fullest of its engines, from 0 to 1, the rest are sums."""

    running: float
    waiting: float
    cache: float = 0.0
    preemptions: float = 0.0
    engines: int = 1
    """Data-parallel replicas of the model behind the URL."""


Look = Callable[[], Awaitable[Load | None]]


def read_load(text: str) -> Load | None:
    """The load in a page of `/metrics`, None where it is not vLLM's."""
    found: dict[str, list[float]] = {}
    for name, value in _LINE.findall(text):
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


class Pace:
    """Moves the limit of one server's gate; `most` None leaves it open. `look` asks the server for its load."""

    def __init__(self, most: int | None, clock: Clock, look: Look | None = None) -> None:
        self.gate = Gate(None if most is None else min(START, most))
        self._most = most
        self._clock = clock
        self._look = look
        self._looking: asyncio.Task[None] | None = None
        self._looked = -math.inf
        self._tells = False
        self._found = False
        """Whether the server has been full: from then on the limit grows slowly."""
        self._crowded = 0
        self._preemptions = math.inf
        self._cut_at = -math.inf
        self._limit = float(self.gate.limit or 0)

    def tick(self) -> None:
        """To be called with every call: looks at the server when the limit is in the way and it is time."""
        now = self._clock.now()
        if self._most is not None and self._look and self.gate.filled and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            if self._looking is None or self._looking.done():
                self._looking = asyncio.get_running_loop().create_task(self._see(self._look))

    def answered(self) -> None:
        """A call succeeded; where nothing else tells, that is a reason for more."""
        self.tick()
        if self._most is not None and not self._tells and self.gate.filled:
            self._move(self._limit + (1 / self._limit if self._found else 1.0))

    def refused(self) -> None:
        """The server sent a call away because it has too many."""
        now = self._clock.now()
        if self._most is not None and now - self._cut_at >= _CUT_SECONDS:
            self._cut_at, self._found = now, True
            self._move(self._limit * _CUT)

    def see(self, load: Load) -> None:
        """Move the limit by what the server says."""
        if self._most is None:
            return
        self._tells = True
        preempted, self._preemptions = load.preemptions > self._preemptions, load.preemptions
        surplus = load.waiting - math.ceil(load.running * _QUEUE)
        self._crowded = self._crowded + 1 if load.waiting > max(1.0, load.running * _LONG_QUEUE) else 0
        if preempted:
            self._found = True
            self._move(min(self._limit, load.running + load.waiting) * _CUT)
        elif load.waiting > load.running or self._crowded > 1:
            self._found = True
            self._move(self.gate.busy - surplus)  # not from the limit: what is too much takes a while to end
        elif load.waiting == 0 and load.cache < _FULL_CACHE and self.gate.filled:
            self._move(self._limit * (1 + _QUEUE) + 1 if self._found else self._limit * 2)
        self.gate.filled = self.gate.full

    def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()

    async def _see(self, look: Look) -> None:
        load = await look()
        if load is None:
            self._look, self._tells = None, False
        else:
            self.see(load)

    def _move(self, limit: float) -> None:
        self._limit = max(float(min(FEWEST, self._most or FEWEST)), min(float(self._most or 0), limit))
        self.gate.move(int(self._limit))
