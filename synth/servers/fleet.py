"""One model on interchangeable servers behind one call, with the one retry policy of all served models.

Transport failures cost time, never an item, unless the item itself is their cause: a server that fails on one item for
ever must not stop the run, and an outage must not cost items. The server's other work tells them apart. A failure
counts against an item only when the same server answered at least `OTHERS` other requests since that item's previous
failure, and `MAX_CHARGES` such failures reject it. At the end of a run no other work is left; then tiny requests of
our own (canaries) show whether the server is healthy.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import SecretStr

from synth.errors import RequestRejected, ServerRefused, Stopped, SynthError
from synth.servers.faults import (
    Answer,
    GarbledAnswerError,
    Kind,
    NotFoundError,
    Redactor,
    TransientError,
    is_loopback,
    named_field,
    parse_json,
    shown,
)
from synth.servers.limiter import AdaptiveLimit, Load
from synth.servers.pool import FINAL, MAX_GARBLED, MAX_PAUSE, Pool, Server
from synth.stage import ClientSettings, ProbeResult

T = TypeVar("T")

_RANK_HEADER = "X-data-parallel-rank"
_MOST_QUOTED = 2**16
_NUMBERS = re.compile(r"((?:-?\d[\d.e+-]*, ){3})(?:-?\d[\d.e+-]*(?:, )?)+")
"""A long list of numbers, of which a quote has three."""
_LOOK_SECONDS = 1.0
"""How often a call that waits looks whether the run is stopping."""
OTHERS = 20
MAX_CHARGES = 5
_CANARY_AFTER: dict[Kind, int] = {"failed": 2, "garbled": 2, "overloaded": 8}
"""Failures of one item on one server after which canaries show whether the item is at fault."""


class Transport(ABC):
    """Sends requests of one kind to a base URL, below which they go to `path`, over at most `connections`.

    `send` and `models` give the JSON of a 2xx answer. Raises TransientError, NotFoundError, RequestRejected,
    ServerRefused or SystemFault for every other outcome.
    """

    def __init__(self, path: str, key: SecretStr | None, client: ClientSettings, connections: int) -> None:
        self.path = path
        self._key = key
        self._redact = Redactor(key)
        self._timeout, self._clock = client.request_timeout, client.clock
        self._connections = connections

    @abstractmethod
    async def send(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any: ...

    @abstractmethod
    async def models(self, url: str) -> Any: ...

    async def version(self, url: str) -> str | None:  # noqa: ARG002 - for servers that report one
        return None

    @abstractmethod
    async def close(self) -> None: ...

    def quoted(self, answer: Any) -> str:
        """The beginning of an answer, safe to print."""
        return self._redact(_NUMBERS.sub(r"\1…", json.dumps(answer, ensure_ascii=False, default=str)[:_MOST_QUOTED]))

    def _parsed(self, answer: Answer, url: str) -> Any:
        return parse_json(answer, shown(url), self._clock.wall(), self._redact)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of `/v1/models`; `root` is the checkpoint behind the served name, where the server reports it."""

    id: str
    root: str | None = None
    max_model_len: int | None = None


@dataclass(slots=True)
class _History:
    """The failures of one request; `marks` and `tries` are by URL."""

    blame_job_first: bool
    marks: dict[str, int] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    kind: Kind = "waiting"
    charges: int = 0
    streak: int = 0
    healthy: bool = False


Canary = tuple[Mapping[str, Any], Callable[[Any], Any]]
"""The body of a tiny request, and what reads its answer as those of the run are read."""


class Fleet:
    """Sends requests to the servers at `urls`, all of which serve `model`, until they are answered.

    `slots` requests are worth having in flight. `check_models` looks into `/v1/models` before a server gets work, as is
    right for vLLM, which lists exactly what it serves. `most` is the most requests for one server at once, when the
    right number is to be found; None means unlimited. `load` asks a server for its load, where it reports any.
    `cures` are what a job writes to leave out a field of a request.
    """

    def __init__(
        self,
        urls: list[str],
        transport: Transport,
        client: ClientSettings,
        *,
        model: str,
        slots: int,
        check_models: bool = False,
        most: int | None = None,
        load: Callable[[str], Awaitable[Load | None]] | None = None,
        cures: Mapping[str, str] | None = None,
    ) -> None:
        self.urls = urls
        self.transport = transport
        self.client = client
        self.model = model
        self.slots = slots
        self._check_models = check_models
        self._load = load
        self._cures = cures or {}
        self._clock = clock = client.clock
        self._pool = Pool(urls, client, lambda url: AdaptiveLimit(most, clock, load and partial(load, url)))
        self._card: ModelCard | None = None
        self._admitted_urls: set[str] = set()
        self.canary: Canary = ({}, lambda _: None)
        """A tiny request that shows whether a server works; the model behind the fleet sets it."""
        self._jitter = random.Random()  # noqa: S311 - spreads load, decides nothing that is written

    @property
    def troubled(self) -> bool:
        return self._pool.remaining() < math.inf

    async def call(
        self, body: Mapping[str, Any], affinity: int, read: Callable[[Any], T], *, blame_job_first: bool = False
    ) -> T:
        """What `read` makes of the JSON of the answer; `read` raises TransientError for a garbled one.

        Requests of one `affinity` go to the same server while it is up. `blame_job_first` retries a rejected request as
        long as none has succeeded: the job itself may be at fault, so do not charge the item. Raises RequestRejected,
        ServerRefused, ServerUnavailable, SystemFault.
        """
        history = _History(blame_job_first)
        try:
            return await self._attempt(body, affinity, read, history)
        except TransientError as error:
            first_wait = self._wait(error, history)
        # Entered only after a failure: tenacity costs a third of a request.
        from tenacity import AsyncRetrying, retry_if_exception_type  # noqa: PLC0415 - as above

        await self._sleep(first_wait)
        policy = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=lambda state: self._wait(state.outcome.exception() if state.outcome else None, history),
            sleep=self._sleep,
            reraise=True,
        )
        result: T = await policy(self._attempt, body, affinity, read, history)
        return result

    async def _sleep(self, seconds: float) -> None:
        """Sleep before a request is sent again. Raises Stopped as soon as the run is stopping."""
        while not self.client.stopping():
            if seconds <= 0:
                return
            step = min(seconds, _LOOK_SECONDS)
            await self._clock.sleep(step)
            seconds -= step
        raise Stopped("stopping: no request is sent again")

    async def require_answer(self, canary: Canary) -> None:
        """Raises ServerRefused when the canary is rejected: then the job is at fault, not an item."""
        body, read = canary
        try:
            await self.call(body, 0, read)
        except RequestRejected as rejection:
            names = ", ".join(map(shown, self.urls))
            what = f"{names} rejects the simplest request: {rejection.detail or rejection.reason}"
            cure = f"{self.cure(rejection, body)} Run the edited job with --continue."
            raise ServerRefused(f"{what.rstrip('.')}.", cure) from None

    def cure(self, rejection: RequestRejected, body: Mapping[str, Any]) -> str:
        """What to do where a server rejects every request: by the field of `body` that its words name."""
        name = named_field(rejection.detail, body)
        if name is None:
            return "Correct the model's section of the job, or add what is missing as extra_body."
        key = self._cures.get(name) or f"extra_body: {{{name}: null}}"
        return f"To leave {name} out, write `{key}` in the model's section of the job."

    async def models(self, url: str) -> list[ModelCard]:
        """The models that a server lists, empty when it has no list."""
        try:
            listed = await self.transport.models(url)
        except (NotFoundError, RequestRejected, GarbledAnswerError):
            return []
        cards = []
        entries = listed.get("data") if isinstance(listed, dict) else listed
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                root, length = entry.get("root"), entry.get("max_model_len")
                root, length = root if isinstance(root, str) else None, length if isinstance(length, int) else None
                cards.append(ModelCard(str(entry.get("id")), root, length))
        return cards

    async def engines(self, url: str) -> int | None:
        load = await self._load(url) if self._load is not None else None
        return load.engines if load is not None else None

    async def close(self) -> None:
        for server in self._pool.servers:
            server.limiter.close()
        await self.transport.close()

    async def _attempt(self, body: Mapping[str, Any], affinity: int, read: Callable[[Any], T], history: _History) -> T:
        server, trial = await self._acquire(affinity)
        started = self._clock.now()
        sent, engine = False, None
        try:
            await self._prepare(server, history, trial=trial)
            sent = True
            engine = self._pool.engine(server, affinity)
            headers = {_RANK_HEADER: str(engine)} if engine is not None else None
            result = await self.ask(server.url, body, read, headers)
        except NotFoundError as exc:
            raise await self._not_found(server.url, str(exc)) from None
        except TransientError as error:
            self._pool.failed(server, error, started, trial=trial)
            if sent:
                _charge(history, server, error)
            raise
        except RequestRejected as rejection:
            self._pool.rejected(server, rejection, self.cure(rejection, body))
            if history.blame_job_first and rejection.reason == "bad_request" and not self._pool.succeeded:
                raise TransientError(str(rejection), "waiting") from None
            raise
        finally:
            server.on_trial = server.on_trial and not trial
            self._pool.released(server, engine)
        self._pool.answered(server)
        return result

    async def _acquire(self, affinity: int) -> tuple[Server, bool]:
        """A server with room for this request, and whether the request is a trial, which waits for no room."""
        while True:
            try:
                server, trial = self._pool.pick(affinity)
            except TransientError as error:
                self._pool.check_outage(error)
                raise
            if server is None:
                if (server := await self._pool.wait(affinity)) is not None:
                    return server, False
                continue
            server.limiter.poll()
            if trial:
                server.limiter.in_flight += 1
            if trial or await server.limiter.acquire():
                return server, trial

    async def _prepare(self, server: Server, history: _History, *, trial: bool) -> None:
        """Check the model of a server that is new or was down, and the health of one that failed on this request."""
        if trial or server.url not in self._admitted_urls:
            async with server.lock:
                if trial or server.url not in self._admitted_urls:
                    if self._check_models:
                        await self._check_model(server.url)
                    server.engines = [0] * (await self.engines(server.url) or 1)
                    self._admitted_urls.add(server.url)
        if trial and (server.proven or server.garbled == MAX_GARBLED - 1):
            await self._run_canary(server)
        history.healthy = False
        if history.tries.get(server.url, 0) >= _CANARY_AFTER.get(history.kind, math.inf):
            async with server.lock:
                start = server.answered if history.kind == "overloaded" else history.marks[server.url]
                while server.answered - start < OTHERS:
                    await self._run_canary(server)
            history.healthy = True
            history.streak = 0

    async def _run_canary(self, server: Server) -> None:
        try:
            await self.ask(server.url, *self.canary)
        except RequestRejected:  # a clear no is a sign of life as well
            self._pool.answered(server, usable=False)
        else:
            self._pool.answered(server)

    def _wait(self, error: BaseException | None, history: _History) -> float:
        assert isinstance(error, TransientError)  # noqa: S101 - nothing else is retried
        if error.kind in {"unreachable", *FINAL} and self._pool.ready():
            return 0.0  # that server is down now, another is not
        requested = error.pause or 0.0
        if error.kind == "waiting":
            seconds = requested + self._jitter.random()
        else:
            history.streak += 1
            longest = min(MAX_PAUSE, 0.5 * 2 ** min(history.streak, 10))
            seconds = max(longest * self._jitter.uniform(0.5, 1.0), requested)
        return max(0.0, min(seconds, self._pool.remaining()))

    async def ask(
        self, url: str, body: Mapping[str, Any], read: Callable[[Any], T], headers: Mapping[str, str] | None = None
    ) -> T:
        """What `read` makes of the answer to one request, which is not tried again.

        Raises GarbledAnswerError where `read` raises TransientError, and what `Transport.send` raises.
        """
        answer = await self.transport.send(url, body, headers)
        try:
            return read(answer)
        except TransientError as error:
            raise GarbledAnswerError(f"{shown(url)}: {error}", self.transport.quoted(answer)) from None

    async def _check_model(self, url: str) -> None:
        cards = await self.models(url)
        if not cards:
            return
        card = next((card for card in cards if card.id == self.model), None)
        if card is None:
            raise _other_models(url, self.model, cards)
        if self._card is not None and card.root != self._card.root:
            what = f"{shown(url)} serves {card.root} as {card.id!r}, before it was {self._card.root}."
            raise ServerRefused(what, "All servers of a run must serve one checkpoint, also after a restart.")
        self._card = card

    async def _not_found(self, url: str, message: str) -> ServerRefused:
        try:
            cards = await self.models(url)
        except (TransientError, ServerRefused):
            cards = []
        if any(card.id == self.model for card in cards) or not cards:
            hint = "Check the base URL, and that the server was started for this kind of model."
            return ServerRefused(f"{message} (POST {self.transport.path}).", hint)
        return _other_models(url, self.model, cards)


class Served(ABC):
    """Base of the models behind a fleet."""

    def __init__(self, fleet: Fleet, canary: Canary) -> None:
        self.slots = fleet.slots
        self._fleet = fleet
        fleet.canary = canary

    async def probe(self) -> list[ProbeResult]:
        """One result per server: what it serves, and what `_examine` finds."""
        return await asyncio.gather(*map(self._probe, self._fleet.urls))

    async def close(self) -> None:
        await self._fleet.close()

    @abstractmethod
    async def _examine(self, url: str) -> ProbeResult: ...

    async def _probe(self, url: str) -> ProbeResult:
        fleet, remote, cards = self._fleet, not is_loopback(url), list[ModelCard]()
        try:
            cards = await fleet.models(url)
            found = await self._examine(url)
        except (NotFoundError, TransientError, SynthError) as exc:
            found = _unanswered(shown(url), exc, fleet)
        models, problems = tuple(card.id for card in cards), found.problems
        if models and fleet.model not in models:
            problems += (f"does not list the model {fleet.model!r}; it lists {', '.join(models[:10])}.",)
        return replace(
            found,
            problems=problems,
            models=models,
            max_model_len=next((card.max_model_len for card in cards if card.id == fleet.model), None),
            version=await fleet.transport.version(url) if found.reachable else None,
            remote=remote,
        )


def _unanswered(server: str, exc: Exception, fleet: Fleet) -> ProbeResult:
    """What a failed probe shows. A server that says no, or something else than an answer, is there."""
    problem = str(exc)
    if isinstance(exc, NotFoundError):
        asked = f" (POST {fleet.transport.path}) for the model {fleet.model!r}"
        problem = f"{exc}{asked}: was the server started for this kind of model?"
    elif isinstance(exc, GarbledAnswerError):
        problem = f"{exc}: {exc.quote}"
    elif isinstance(exc, RequestRejected):
        problem = f"{str(exc).rstrip('.')}. {fleet.cure(exc, fleet.canary[0])}"
    elif isinstance(exc, TransientError) and exc.kind in FINAL:
        problem = f"{str(exc).rstrip('.')}. {FINAL[exc.kind]}"
    absent = isinstance(exc, ServerRefused) or (isinstance(exc, TransientError) and exc.kind in _ABSENT)
    return ProbeResult(server, reachable=not absent, problems=(problem,))


_ABSENT: frozenset[Kind] = frozenset({"unreachable", "failed", "overloaded"})


def _charge(history: _History, server: Server, error: TransientError) -> None:
    """Count a failure against the request when its server is healthy. Raises RequestRejected for the last one."""
    url = server.url
    others = server.answered - history.marks.get(url, server.answered)
    history.marks[url] = server.answered
    history.tries[url] = history.tries.get(url, 0) + 1
    history.kind = error.kind
    working = others >= OTHERS
    history.charges += {"failed": working, "garbled": working, "overloaded": history.healthy}.get(error.kind, False)
    if history.charges >= MAX_CHARGES:
        # without the server's name: rejected rows must not depend on where a job runs
        message = str(error).removeprefix(f"{server.name}: ")
        raise RequestRejected("server_error", f"the server fails on this request while it answers others: {message}")


def _other_models(url: str, model: str, cards: list[ModelCard]) -> ServerRefused:
    names = ", ".join(repr(card.id) for card in cards[:10])
    return ServerRefused(f"{shown(url)} does not serve {model!r}.", f"It serves: {names}.")
