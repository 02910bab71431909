"""Which server a request goes to, and when to give up: affinity, down and trial, pauses, the outage clock."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from synth.errors import RequestRejected, ServerRefused, ServerUnavailable
from synth.servers.faults import Setback, shown
from synth.servers.pace import Clock, Line, Pace
from synth.stage import ClientSettings

DOWN_AFTER = 3
"""Failures in a row, none answered for `DOWN_SILENCE` seconds, after which a server counts as down."""
DOWN_SILENCE = 5.0
LONGEST_PAUSE = 30.0
DENIALS = 3
BAD_FROM_START = 20
"""Bad requests in a row, with none ever answered, that prove the job and not the rows wrong."""
_HOMES = 1 << 16
"""Positions whose server is remembered, more than are ever open at once."""
_TRIAL_WAIT = 2.0
_QUIET = 60.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server as we have seen it; times are the clock's seconds."""

    url: str
    pace: Pace
    answered: int = 0
    failures: int = 0
    """Calls in a row that failed."""
    rounds: int = 0
    """Pauses in a row."""
    open_at: float = -math.inf
    last_answer: float = -math.inf
    last_throttle: float = -math.inf
    down: bool = False
    on_trial: bool = False
    denials: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return shown(self.url)


class Pool:
    """Servers that answer alike.

    A position goes to the server with the least to do for its size, among equals by rendezvous hashing, or to the first
    that has room, and keeps it as long as that is up: prefix caches work, a slow server gets less, and only the
    positions of a dead one move. A server that is down is tried by one request at a time, at growing intervals up to
    30 s.
    """

    def __init__(
        self, urls: list[str], client: ClientSettings, clock: Clock, pace: Callable[[str], Pace] | None = None
    ) -> None:
        self.endpoints = [Endpoint(url, pace(url) if pace else Pace(None, clock)) for url in urls]
        self._line = Line()
        for endpoint in self.endpoints:
            endpoint.pace.gate.line = self._line
            endpoint.pace.gate.is_open = partial(self._admits, endpoint)
        self._homes: OrderedDict[int, Endpoint] = OrderedDict()
        self.succeeded = False
        self._client = client
        self._clock = clock
        self._trouble_since: float | None = None
        self._last_answer = -math.inf
        self._bad_in_row = 0

    def pick(self, affinity: int) -> tuple[Endpoint | None, bool]:
        """The server for this position, and whether the call is a trial of one that was down.

        None for a position that begins while no server has room: `wait` finds the first that has. Raises
        Setback("waiting") when none may be called now.
        """
        now = self._clock.now()
        for endpoint in self.endpoints:
            if endpoint.down and not endpoint.on_trial and endpoint.open_at <= now:
                endpoint.on_trial = True
                return endpoint, True
        ready = self._ready(now)
        if not ready:
            waits = [_TRIAL_WAIT if e.on_trial else e.open_at - now for e in self.endpoints]
            raise Setback("every server is down or pausing", "waiting", min(waits))
        return self._home(affinity, ready), False

    async def wait(self, affinity: int) -> Endpoint | None:
        """The first server with room for a position that begins, its room taken; None: pick again, things changed."""
        for endpoint in self._ready(self._clock.now()):
            endpoint.pace.tick()  # a server that could do more shall not wait for its first answer to be asked
        gate = await self._line.wait()
        home = next((each for each in self.endpoints if each.pace.gate is gate), None)
        if gate is None or home is None:
            return None
        if self._homes.get(affinity, home) is not home:  # another call of this position was let in elsewhere meanwhile
            gate.leave()
            return None
        self._settle(affinity, home)
        return home

    def _home(self, affinity: int, ready: list[Endpoint]) -> Endpoint | None:
        home = self._homes.get(affinity)
        if home is None:
            ready = [each for each in ready if not each.pace.gate.full]
        if (home is None or home not in ready) and ready:
            home = min(ready, key=lambda e: (e.pace.gate.load, _weight(affinity, e.url))) if ready[1:] else ready[0]
            self._settle(affinity, home)
        return home

    def _settle(self, affinity: int, home: Endpoint) -> None:
        self._homes[affinity] = home
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)

    def has_ready(self) -> bool:
        """True where some server may be called at once."""
        return bool(self._ready(self._clock.now()))

    def answered(self, endpoint: Endpoint, *, usable: bool = True) -> None:
        """A server answered, be it with a rejection of this one request (`usable` False)."""
        endpoint.answered += 1
        endpoint.failures = endpoint.rounds = endpoint.denials = 0
        endpoint.pace.answered()
        self._last_answer = endpoint.last_answer = self._clock.now()
        self._trouble_since = None
        self.succeeded = self.succeeded or usable
        if endpoint.down:
            endpoint.down = False
            self._client.notify(f"{endpoint.name} is back")

    def rejected(self, endpoint: Endpoint, rejection: RequestRejected) -> None:
        """A server rejected one request. Raises ServerRefused when it does so with every request from the start."""
        self.answered(endpoint, usable=False)
        self._bad_in_row = self._bad_in_row + 1 if rejection.reason == "bad_request" else 0
        if not self.succeeded and self._bad_in_row >= BAD_FROM_START:
            raise ServerRefused(
                f"{endpoint.name} rejected the first {BAD_FROM_START} requests: {rejection.detail}.",
                "The job asks for something that this server does not take.",
            )

    def failed(self, endpoint: Endpoint, setback: Setback, started: float, *, trial: bool) -> None:
        """A call begun at `started` came to nothing.

        Raises ServerRefused for a key that is not accepted and ServerUnavailable when the outage has lasted too long.
        """
        now = self._clock.now()
        endpoint.failures += 1
        if self._trouble_since is None:
            self._trouble_since = max(self._last_answer, started)
        if setback.kind == "denied":
            self._denied(endpoint, setback, trial=trial)
        if setback.kind in {"throttled", "overloaded"}:
            self._pause(endpoint, now, setback.pause)
            self._tell_throttle(endpoint, setback, now)
            endpoint.pace.refused()
        if not endpoint.down and self._is_down(endpoint, setback, now):
            endpoint.down = True
            endpoint.pace.gate.turn_away()
            self._pause(endpoint, now, setback.pause)
            self._tell_down(setback)
        elif trial:
            self._pause(endpoint, now, setback.pause)
        self.check_outage(setback)

    def check_outage(self, setback: Setback) -> None:
        """Raises ServerUnavailable once no server has answered for `outage` (before the first answer: `startup`).

        ServerRefused where nobody listens and nobody ever did: the address is wrong, or nothing was started.
        """
        if self.remaining() <= 0:
            names = ", ".join(e.name for e in self.endpoints)
            if not self.succeeded and all(e.down and e.last_answer == -math.inf for e in self.endpoints):
                raise ServerRefused(
                    f"nobody answers at {names}, for {self._limit():.0f} s (limits.startup); last: {setback.message}.",
                    "Start the server, or correct its URL in the job.",
                )
            limit = "outage" if self.succeeded else "startup"
            raise ServerUnavailable(
                f"no answer from {names} for {self._limit():.0f} s (limits.{limit}); last: {setback.message}.",
                "Everything finished so far is kept: run the same command again when the server is back.",
            )

    def remaining(self) -> float:
        """Seconds until this outage ends the run."""
        since = self._trouble_since
        return math.inf if since is None else self._limit() - (self._clock.now() - since)

    def _limit(self) -> float:
        return self._client.outage if self.succeeded else self._client.startup

    def _ready(self, now: float) -> list[Endpoint]:
        return [each for each in self.endpoints if not each.down and each.open_at <= now]

    def _admits(self, endpoint: Endpoint) -> bool:
        """Whether a server takes positions that begin: not while it pauses and another could take them.

        Where all pause they go in all the same, for nothing would call them when the pause is over.
        """
        ready = self._ready(self._clock.now())
        return endpoint in ready or not (endpoint.down or ready)

    def _is_down(self, endpoint: Endpoint, setback: Setback, now: float) -> bool:
        if setback.kind in {"unreachable", "denied"}:
            return True
        silent = now - endpoint.last_answer >= DOWN_SILENCE
        return setback.kind != "throttled" and silent and endpoint.failures >= DOWN_AFTER

    def _denied(self, endpoint: Endpoint, setback: Setback, *, trial: bool) -> None:
        endpoint.denials += trial
        if not self.succeeded or endpoint.denials >= DENIALS:
            raise ServerRefused(
                f"{setback.message}.", "Check the API key: the variable named in api_key_env, and what it may use."
            )

    def _pause(self, endpoint: Endpoint, now: float, asked: float | None) -> None:
        if now >= endpoint.open_at:  # the first failure of a round sets the pause; what was in flight does not add up
            endpoint.rounds += 1
            if asked is None or endpoint.rounds > 1:  # who is sent away again waits longer, whatever the server said
                endpoint.open_at = now + min(LONGEST_PAUSE, 0.25 * 2 ** min(endpoint.rounds, 10))
        if asked is not None:
            endpoint.open_at = max(endpoint.open_at, now + asked)

    def _tell_throttle(self, endpoint: Endpoint, setback: Setback, now: float) -> None:
        if not endpoint.down and now - endpoint.last_throttle > _QUIET:
            word = "limits the rate" if setback.kind == "throttled" else "is overloaded or still loading"
            self._client.notify(f"{endpoint.name} {word}, pausing {endpoint.open_at - now:.0f} s ({setback.message})")
        endpoint.last_throttle = now

    def _tell_down(self, setback: Setback) -> None:
        up = sum(not e.down for e in self.endpoints)
        rest = f"going on with {up} other{'s' * (up > 1)}" if up else f"waiting up to {max(self.remaining(), 0):.0f} s"
        self._client.notify(f"{setback.message}; {rest}")


def _weight(position: int, url: str) -> bytes:
    return hashlib.blake2b(f"{position} {url}".encode(), digest_size=8).digest()


HEADER = "X-data-parallel-rank"
_ENGINE_HOMES = 1 << 16
_NONE: Mapping[str, str] = {}


class Engines:
    """Which engine of which server a passage goes to: the one with the fewest calls, and then always that one."""

    def __init__(self) -> None:
        self._busy: dict[str, list[int]] = {}
        self._homes: OrderedDict[int, tuple[str, int]] = OrderedDict()

    def learn(self, url: str, count: int) -> None:
        """A server has so many engines (now)."""
        self._busy[url] = [0] * count

    @contextmanager
    def headers(self, url: str, affinity: int) -> Iterator[Mapping[str, str]]:
        """The headers of a call, counted as long as it takes; none where there is nothing to choose."""
        busy = self._busy.get(url)
        if busy is None or len(busy) < 2:  # noqa: PLR2004 - to choose from
            yield _NONE
            return
        engine = self._home(url, affinity, busy)
        busy[engine] += 1
        try:
            yield {HEADER: str(engine)}
        finally:
            busy[engine] -= 1

    def _home(self, url: str, affinity: int, busy: list[int]) -> int:
        home, engine = self._homes.get(affinity, ("", 0))
        if home != url or engine >= len(busy):
            engine = busy.index(min(busy))
            self._homes[affinity] = url, engine
            if len(self._homes) > _ENGINE_HOMES:
                self._homes.popitem(last=False)
        return engine
