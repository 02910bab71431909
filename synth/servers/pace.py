"""How many calls one server gets at once, found while working.

vLLM tells on `/metrics` how many requests run and wait and how full its cache is: more are sent while none waits, fewer
when many do, so that a short queue keeps every slot busy and the cache holds what is open. Other servers tell by
refusing: one more with every round of answers, a third less after a refusal (AIMD, Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from synth.servers.clock import Clock
from synth.servers.gate import Gate

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
