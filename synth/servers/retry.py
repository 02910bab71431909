"""The one retry policy: transport failures cost time, never an item, unless the item itself is their cause.

A server that fails on one item for ever must not stop the run, and an outage must not cost items. What tells them
apart is the server's other work: a failure is held against an item only when the same server answered at least
`OTHERS` other calls since that item's previous failure, and `CHARGES` such failures reject it. At the end of a run
there is no other work; then we send tiny calls of our own to see whether the server is well.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from synth.errors import RequestRejected
from synth.servers.faults import Kind, Setback
from synth.servers.pace import Clock
from synth.servers.pool import LONGEST_PAUSE, Endpoint, Pool

T = TypeVar("T")
Step = Callable[[str], Awaitable[None]]

OTHERS = 20
CHARGES = 5
_PATIENCE: dict[Kind, int] = {"failed": 2, "overloaded": 8}
"""Failures of one item on one server after which tiny calls look whether it is the item."""


@dataclass(slots=True)
class _History:
    """What one call has been through; `marks` and `tries` are by URL."""

    marks: dict[str, int] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    kind: Kind = "waiting"
    charges: int = 0
    streak: int = 0
    vouched: bool = False


class Retry:
    """Runs a call on some server of the pool until it is answered.

    `greet` is asked of a server before it gets work (again): the right model? `canary` is a tiny call of the same
    kind; both take a base URL and raise what any call raises. With `doubt` a bad request is asked again as long as
    nothing has ever succeeded: it may be the job that is wrong, and then no item shall pay for it.
    """

    def __init__(self, pool: Pool, clock: Clock, greet: Step, canary: Step, *, doubt: bool = False) -> None:
        self._pool = pool
        self._doubt = doubt
        self._clock = clock
        self._greet = greet
        self._canary = canary
        self._greeted: set[str] = set()
        self._jitter = random.Random()  # noqa: S311 - spreads load; decides nothing that is written

    async def __call__(self, send: Callable[[str], Awaitable[T]], affinity: int) -> T:
        """The value of `send(base_url)`. Raises RequestRejected, ServerRefused, ServerUnavailable, SystemFault."""
        history = _History()
        try:
            return await self._once(send, affinity, history)
        except Setback as setback:
            await self._clock.sleep(self._wait(setback, history))
        # entered only after a failure: setting tenacity up costs a third of a request
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Setback),
            wait=lambda state: self._wait(_setback(state), history),
            sleep=self._clock.sleep,
            reraise=True,
        )
        result: T = await retrying(self._once, send, affinity, history)
        return result

    async def _once(self, send: Callable[[str], Awaitable[T]], affinity: int, history: _History) -> T:
        endpoint, trial = await self._admitted(affinity)
        started = self._clock.now()
        sent = False
        try:
            await self._prepare(endpoint, history, trial=trial)
            sent = True
            result = await send(endpoint.url)
        except Setback as setback:
            self._pool.failed(endpoint, setback, started, trial=trial)
            if sent:
                _charge(history, endpoint, setback)
            raise
        except RequestRejected as rejection:
            self._pool.rejected(endpoint, rejection)
            if self._doubt and rejection.reason == "bad_request" and not self._pool.succeeded:
                raise Setback(str(rejection), "waiting") from None
            raise
        finally:
            endpoint.on_trial = endpoint.on_trial and not trial
            endpoint.pace.gate.leave()
        self._pool.answered(endpoint)
        return result

    async def _admitted(self, affinity: int) -> tuple[Endpoint, bool]:
        """A server with room for this call, and whether the call is a trial of it, which waits for no room."""
        while True:
            try:
                endpoint, trial = self._pool.pick(affinity)
            except Setback as setback:
                self._pool.check_outage(setback)
                raise
            if endpoint is None:
                endpoint = await self._pool.wait(affinity)
                if endpoint is None:
                    continue
                return endpoint, False
            endpoint.pace.tick()
            if trial:
                endpoint.pace.gate.busy += 1
                return endpoint, trial
            if await endpoint.pace.gate.enter():
                return endpoint, trial

    @property
    def troubled(self) -> bool:
        """Whether no server has answered since one failed: then `limits.outage` or `limits.startup` counts."""
        return self._pool.remaining() < math.inf

    def close(self) -> None:
        """End what looks at servers by itself."""
        for endpoint in self._pool.endpoints:
            endpoint.pace.close()

    async def _prepare(self, endpoint: Endpoint, history: _History, *, trial: bool) -> None:
        if trial or endpoint.url not in self._greeted:
            async with endpoint.lock:
                if trial or endpoint.url not in self._greeted:
                    await self._greet(endpoint.url)
                    self._greeted.add(endpoint.url)
        if trial:
            await self._sing(endpoint)
        history.vouched = False
        if history.tries.get(endpoint.url, 0) >= _PATIENCE.get(history.kind, math.inf):
            await self._vouch(endpoint, history)

    async def _vouch(self, endpoint: Endpoint, history: _History) -> None:
        async with endpoint.lock:
            start = endpoint.answered if history.kind == "overloaded" else history.marks[endpoint.url]
            while endpoint.answered - start < OTHERS:
                await self._sing(endpoint)
        history.vouched = True
        history.streak = 0

    async def _sing(self, endpoint: Endpoint) -> None:
        try:
            await self._canary(endpoint.url)
        except RequestRejected:  # a definite no is a sign of life as well
            self._pool.answered(endpoint, usable=False)
        else:
            self._pool.answered(endpoint)

    def _wait(self, setback: Setback, history: _History) -> float:
        asked = setback.pause or 0.0
        if setback.kind == "waiting":
            seconds = asked + self._jitter.random()
        elif setback.kind in {"unreachable", "denied"} and self._pool.has_ready():
            return 0.0  # that server is down now, another is not
        else:
            history.streak += 1
            most = min(LONGEST_PAUSE, 0.5 * 2 ** min(history.streak, 10))
            seconds = max(most * self._jitter.uniform(0.5, 1.0), asked)
        return max(0.0, min(seconds, self._pool.remaining()))


def _setback(state: RetryCallState) -> Setback:
    found = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(found, Setback):
        raise TypeError("only a Setback is asked again")
    return found


def _anywhere(setback: Setback, endpoint: Endpoint) -> str:
    """The message without the server's name: rejected rows do not depend on where a job runs."""
    return setback.message.removeprefix(f"{endpoint.name}: ")


def _charge(history: _History, endpoint: Endpoint, setback: Setback) -> None:
    url = endpoint.url
    others = endpoint.answered - history.marks.get(url, endpoint.answered)
    history.marks[url] = endpoint.answered
    history.tries[url] = history.tries.get(url, 0) + 1
    history.kind = setback.kind
    guilty = {"failed": others >= OTHERS, "overloaded": history.vouched}.get(setback.kind, False)
    history.charges += guilty
    if history.charges >= CHARGES:
        raise RequestRejected(
            "server_error", f"the server fails on this request while it answers others: {_anywhere(setback, endpoint)}"
        )
