"""Which server a request goes to, and when to give up: affinity, servers that are down, pauses, the outage clock."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from synth.errors import RequestRejected, ServerRefused, ServerUnavailable
from synth.servers.faults import GarbledAnswerError, Kind, TransientError, shown
from synth.servers.limiter import AdaptiveLimit, WaitingQueue
from synth.stage import ClientSettings

DOWN_AFTER = 3
"""Failures in a row, with no answer for `DOWN_SILENCE` seconds, after which a server counts as down."""
DOWN_SILENCE = 5.0
MAX_PAUSE = 30.0
MAX_DENIALS = 3
MAX_GARBLED = 3
"""Answers that cannot be read, one after the other and with none before that could be, after which the job is at fault:
the server is of another kind, or answers in another format."""
BAD_FROM_START = 20
"""Rejections in a row, with no success before, after which the job is at fault and not its passages."""
FINAL: dict[Kind, str] = {
    "denied": "Name the variable of the API key in api_key_env, and check the key and its permissions.",
    "spent": "The quota or credit with the provider is used up, and waiting does not bring it back.",
}
"""Failures that end a run from the start, and after `MAX_DENIALS` in a row later, with what to do."""
_MAX_REMEMBERED = 1 << 16
"""Passages whose server is remembered, more than are ever open at once."""
_TRIAL_WAIT = 2.0
_NOTIFY_AGAIN = 60.0


@dataclass(slots=True, eq=False)
class Server:
    """One server and its recent history; times are the clock's seconds."""

    url: str
    limiter: AdaptiveLimit
    answered: int = 0
    failures: int = 0
    """Failed requests in a row."""
    pauses: int = 0
    """Pauses in a row."""
    open_at: float = -math.inf
    last_answer: float = -math.inf
    last_throttle: float = -math.inf
    proven: bool = False
    """Whether an answer could be read."""
    garbled: int = 0
    """Answers before that."""
    down: bool = False
    on_trial: bool = False
    denials: int = 0
    engines: list[int] = field(default_factory=lambda: [0])
    """Requests at each of vLLM's data-parallel engines behind the URL."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return shown(self.url)


class Pool:
    """Interchangeable servers of one model.

    A passage goes to the server with the lowest load, among equals by rendezvous hashing, or to the first with room,
    and stays there while that server is up: prefix caches work, slow servers get less, and only the passages of a dead
    server move. A server that is down gets one request at a time, at intervals that grow to 30 s.
    """

    def __init__(self, urls: list[str], client: ClientSettings, limit: Callable[[str], AdaptiveLimit]) -> None:
        self.servers = [Server(url, limit(url)) for url in urls]
        self._new_passages = WaitingQueue()
        for server in self.servers:
            server.limiter.new_passages = self._new_passages
            server.limiter.is_open = partial(self._takes_new_passages, server)
        self._homes: OrderedDict[int, tuple[Server, int | None]] = OrderedDict()
        """The server of each passage, and its engine there once it was sent to one."""
        self.succeeded = False
        self._client = client
        self._clock = client.clock
        self._failing_since: float | None = None
        self._last_failure: TransientError | None = None
        self._last_answer = -math.inf
        self._rejections_in_row = 0

    def pick(self, affinity: int) -> tuple[Server | None, bool]:
        """The server for a passage, and whether the request is a trial of a server that was down.

        None when the passage is new and no server has room: `wait` finds the first that has. Raises
        TransientError("waiting") when no server may be called now.
        """
        now = self._clock.now()
        for server in self.servers:
            if server.down and not server.on_trial and server.open_at <= now:
                server.on_trial = True
                return server, True
        ready = self.ready()
        if not ready:
            waits = [_TRIAL_WAIT if server.on_trial else server.open_at - now for server in self.servers]
            raise TransientError("every server is down or pausing", "waiting", min(waits))
        home, _ = self._homes.get(affinity, (None, None))
        if home is None:
            ready = [server for server in ready if not server.limiter.full]
        if ready and home not in ready:
            weight = {s: hashlib.blake2b(f"{affinity} {s.url}".encode(), digest_size=8).digest() for s in ready}
            home = min(ready, key=lambda s: (s.limiter.load, weight[s]))
            self._remember(affinity, home)
        return home, False

    async def wait(self, affinity: int) -> Server | None:
        """The first server with room for a new passage, which it has taken up; None: pick again, servers changed."""
        for server in self.ready():
            server.limiter.poll()  # a server that could do more must not wait for its first answer to be polled
        limiter = await self._new_passages.wait()
        if limiter is None:
            return None
        home = next(server for server in self.servers if server.limiter is limiter)
        if self._homes.get(affinity, (home,))[0] is not home:  # another request of this passage was admitted elsewhere
            limiter.release()
            return None
        self._remember(affinity, home)
        return home

    def engine(self, server: Server, affinity: int) -> int | None:
        """The engine for a request: the least busy one, then always that; None when the server has only one.

        It counts as busy until `released`.
        """
        if len(server.engines) == 1:
            return None
        home, engine = self._homes.get(affinity, (None, None))
        if home is not server or engine is None or engine >= len(server.engines):
            engine = server.engines.index(min(server.engines))
            if home is server:
                self._homes[affinity] = server, engine
        server.engines[engine] += 1
        return engine

    def released(self, server: Server, engine: int | None) -> None:
        if engine is not None and engine < len(server.engines):  # fewer engines after a restart
            server.engines[engine] = max(0, server.engines[engine] - 1)
        server.limiter.release()

    def _remember(self, affinity: int, home: Server) -> None:
        self._homes[affinity] = home, None
        if len(self._homes) > _MAX_REMEMBERED:
            self._homes.popitem(last=False)

    def ready(self) -> list[Server]:
        now = self._clock.now()
        return [server for server in self.servers if not server.down and server.open_at <= now]

    def answered(self, server: Server, *, usable: bool = True) -> None:
        """Record an answer; `usable` is False for a rejection of this one request."""
        server.answered += 1
        server.failures = server.pauses = server.denials = 0
        server.limiter.answered()
        self._last_answer = server.last_answer = self._clock.now()
        self._failing_since = None
        self.succeeded = self.succeeded or usable
        server.proven = server.proven or usable
        if server.down:
            server.down = False
            self._client.notify(f"{server.name} is back")

    def rejected(self, server: Server, rejection: RequestRejected, cure: str) -> None:
        """Record a rejection. Raises ServerRefused when the server rejects every request from the start."""
        self.answered(server, usable=False)
        self._rejections_in_row = self._rejections_in_row + 1 if rejection.reason == "bad_request" else 0
        if not self.succeeded and self._rejections_in_row >= BAD_FROM_START:
            what = f"{server.name} rejected the first {BAD_FROM_START} requests: {rejection.detail}"
            raise ServerRefused(f"{what.rstrip('.')}.", f"{cure} Run the edited job with --continue.")

    def failed(self, server: Server, error: TransientError, started: float, *, trial: bool) -> None:
        """Record the failure of a request sent at `started`.

        Raises ServerRefused for a key that is not accepted and for first answers that cannot be read, and
        ServerUnavailable when the outage has lasted too long.
        """
        now = self._clock.now()
        server.failures += 1
        self._last_failure = error
        unreadable = isinstance(error, GarbledAnswerError) and not server.proven
        if unreadable and (trial or not server.down):  # requests that were in flight together count once
            server.garbled += 1
            if server.garbled >= MAX_GARBLED:
                raise _unusable(error)
        if self._failing_since is None:
            self._failing_since = max(self._last_answer, started)
        if error.kind in FINAL:
            server.denials += trial
            if not self.succeeded or server.denials >= MAX_DENIALS:
                raise ServerRefused(f"{str(error).rstrip('.')}.", FINAL[error.kind])
        if error.kind in {"throttled", "overloaded"}:
            self._pause(server, now, error.pause)
            self._notify_throttle(server, error, now)
            server.limiter.refused()
        silent = now - server.last_answer >= DOWN_SILENCE and server.failures >= DOWN_AFTER
        gone = unreadable or error.kind in {"unreachable", *FINAL} or (silent and error.kind != "throttled")
        if gone and not server.down:
            server.down = True
            server.limiter.dismiss()
            self._pause(server, now, error.pause)
            up = sum(not each.down for each in self.servers)
            others = f"continuing with {up} other{'s' * (up > 1)}"
            self._client.notify(f"{error}; {others if up else f'waiting up to {max(self.remaining(), 0):.0f} s'}")
        elif trial:
            self._pause(server, now, error.pause)
        self.check_outage(error)

    def check_outage(self, error: TransientError) -> None:
        """Raises ServerUnavailable once no server has answered for `outage` (before the first answer: `startup`).

        Raises ServerRefused when no server ever answered: the URL is wrong, or no server was started.
        """
        if self.remaining() > 0:
            return
        error = self._last_failure if error.kind == "waiting" and self._last_failure else error
        if not self.succeeded and isinstance(error, GarbledAnswerError):
            raise _unusable(error)
        names, limit = ", ".join(server.name for server in self.servers), "outage" if self.succeeded else "startup"
        since = f"for {self._limit():.0f} s (limits.{limit}); last: {str(error).rstrip('.')}."
        if not self.succeeded and all(s.down and s.last_answer == -math.inf for s in self.servers):
            hint = "Start the server, or correct its URL in the job."
            raise ServerRefused(f"no server answers at {names}, {since}", hint)
        hint = "All finished work is kept: run the same command again when the server is back."
        raise ServerUnavailable(f"no answer from {names} {since}", hint)

    def remaining(self) -> float:
        since = self._failing_since
        return math.inf if since is None else self._limit() - (self._clock.now() - since)

    def _limit(self) -> float:
        return self._client.outage if self.succeeded else self._client.startup

    def _takes_new_passages(self, server: Server) -> bool:
        """A pausing server takes none while another could; where all pause it does, because no call would wake it."""
        ready = self.ready()
        return server in ready or not (server.down or ready)

    def _pause(self, server: Server, now: float, requested: float | None) -> None:
        if now >= server.open_at:  # the first failure sets the pause; requests already in flight do not add to it
            server.pauses += 1
            if requested is None or server.pauses > 1:  # a second refusal in a row waits longer than requested
                server.open_at = now + min(MAX_PAUSE, 0.25 * 2 ** min(server.pauses, 10))
        if requested is not None:
            server.open_at = max(server.open_at, now + requested)

    def _notify_throttle(self, server: Server, error: TransientError, now: float) -> None:
        if not server.down and now - server.last_throttle > _NOTIFY_AGAIN:
            state = "limits the rate" if error.kind == "throttled" else "is overloaded or still loading"
            self._client.notify(f"{server.name} {state}, pausing {server.open_at - now:.0f} s ({error})")
        server.last_throttle = now


def _unusable(error: TransientError) -> ServerRefused:
    quote = f": {error.quote}" if isinstance(error, GarbledAnswerError) else ""
    hint = "No answer could be read. Check base_url and model: does the server serve this kind of model?"
    return ServerRefused(f"{error}{quote}".rstrip(".") + ".", hint)
