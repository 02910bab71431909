"""A set of equal servers behind one call: transport, pool and retry policy put together, and what they serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from synth.errors import RequestRejected, ServerRefused
from synth.servers.faults import NotServed, Setback, shown
from synth.servers.pace import Clock, Load, Pace
from synth.servers.pool import Engines, Pool
from synth.servers.retry import Retry
from synth.stage import ClientSettings

T = TypeVar("T")


class Transport(Protocol):
    """JSON over HTTP: `post` and `get` return the parsed body of a 2xx answer.

    For everything else they raise Setback, NotServed, RequestRejected, ServerRefused or SystemFault.
    """

    async def post(
        self, url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Any: ...

    async def get(self, url: str, path: str) -> Any: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One line of `/v1/models`; `root` is the checkpoint behind the served name, where the server tells."""

    id: str
    root: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What a fleet is for: the model it must serve, and a tiny call that shows whether it works."""

    model: str
    path: str
    canary: Mapping[str, Any]
    compare: bool
    """Look into `/v1/models` before a server gets work: right for vLLM, where the list is the truth."""
    most: int | None = None
    """Calls that a server gets at once at the most, where the right number is to be found; None: as many as come."""
    load: Callable[[str], Awaitable[Load | None]] | None = None
    """Asks a server for its load, where it tells."""
    doubt: bool = False
    """Believe no bad request before something has succeeded; not for callers who try a refused batch in halves."""


class Fleet:
    """Calls one of several equal servers; see `synth.servers.retry` for what happens when they fail."""

    def __init__(self, urls: list[str], transport: Transport, work: Work, client: ClientSettings, clock: Clock) -> None:
        self.urls = urls
        self.transport = transport
        self._work = work
        self._clock = clock
        self._retry = Retry(Pool(urls, client, clock, self._pace), clock, self._greet, self._canary, doubt=work.doubt)
        self._card: ModelCard | None = None
        self._engines = Engines()

    @property
    def troubled(self) -> bool:
        """Whether no server has answered since one failed."""
        return self._retry.troubled

    async def call(self, body: Mapping[str, Any], affinity: int, read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON that `work.path` answers; it raises Setback where that is garbled.

        Calls of one `affinity` meet the same server while it is up. Raises RequestRejected, ServerRefused,
        ServerUnavailable, SystemFault.
        """

        async def send(url: str) -> T:
            with self._engines.headers(url, affinity) as headers:
                answer = await self._post(url, body, headers)
            try:
                return read(answer)
            except Setback as setback:
                raise Setback(f"{shown(url)}: {setback.message}", setback.kind) from None

        return await self._retry(send, affinity)

    async def models(self, url: str) -> list[ModelCard]:
        """What a server lists, empty where it has no such list."""
        try:
            listed = await self.transport.get(url, "/models")
        except (NotServed, RequestRejected):
            return []
        data = listed.get("data") if isinstance(listed, dict) else None
        return [_card(entry) for entry in data or [] if isinstance(entry, dict)]

    async def engines(self, url: str) -> int | None:
        """Data-parallel engines behind a URL, None where it does not say."""
        load = await self._work.load(url) if self._work.load is not None else None
        return load.engines if load is not None else None

    async def close(self) -> None:
        """Close every connection."""
        self._retry.close()
        await self.transport.close()

    def _pace(self, url: str) -> Pace:
        load = self._work.load
        return Pace(self._work.most, self._clock, partial(load, url) if load else None)

    async def _post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        try:
            answer = await self.transport.post(url, self._work.path, body, headers)
        except NotServed as exc:
            raise await self._not_served(url, exc.message) from None
        if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
            raise Setback(f"{shown(url)}: HTTP 200 with an error in it")
        return answer

    async def _canary(self, url: str) -> None:
        await self._post(url, self._work.canary)

    async def _greet(self, url: str) -> None:
        if self._work.compare:
            await self._recognise(url)
        self._engines.learn(url, await self.engines(url) or 1)

    async def _recognise(self, url: str) -> None:
        cards = await self.models(url)
        if not cards:
            return
        card = next((c for c in cards if c.id == self._work.model), None)
        if card is None:
            raise _other_models(url, self._work.model, cards)
        if self._card is not None and card.root != self._card.root:
            raise ServerRefused(
                f"{shown(url)} serves {card.root} as {card.id!r}, before it was {self._card.root}.",
                "All servers of a run must serve one checkpoint, also after a restart.",
            )
        self._card = card

    async def _not_served(self, url: str, message: str) -> ServerRefused:
        try:
            cards = await self.models(url)
        except (Setback, ServerRefused):
            cards = []
        if any(card.id == self._work.model for card in cards) or not cards:
            return ServerRefused(
                f"{message} (POST {self._work.path}).", "Check the base URL and what the server is for."
            )
        return _other_models(url, self._work.model, cards)


def _other_models(url: str, model: str, cards: list[ModelCard]) -> ServerRefused:
    names = ", ".join(repr(card.id) for card in cards[:10])
    return ServerRefused(f"{shown(url)} does not serve {model!r}.", f"It serves: {names}.")


def _card(entry: Mapping[str, Any]) -> ModelCard:
    root, length = entry.get("root"), entry.get("max_model_len")
    return ModelCard(
        str(entry.get("id")), root if isinstance(root, str) else None, length if isinstance(length, int) else None
    )
