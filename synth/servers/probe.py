"""What `synth check` finds out about a server: facts, and problems with their cure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from synth.errors import RequestRejected, SynthError
from synth.servers.faults import NotFoundError, TransientError, is_loopback, shown
from synth.servers.fleet import Fleet
from synth.stage import ProbeResult

QUESTION = "How do I change a password that I have forgotten?"
ANSWER = "If you no longer know your password, choose “forgotten” on the login page and set a new one."
UNRELATED = "Spring tides follow the new and the full moon by about two days on this coast."


class Probing(Protocol):
    """An open model that can be probed."""

    async def probe(self) -> list[ProbeResult]: ...

    async def close(self) -> None: ...


async def probed(model: Probing) -> list[ProbeResult]:
    """Probe a model and close it."""
    try:
        return await model.probe()
    finally:
        await model.close()


async def probe_servers(fleet: Fleet, examine: Callable[[str], Awaitable[ProbeResult]]) -> list[ProbeResult]:
    """One result per server: what it serves, and what `examine` finds when it sends requests to a base URL."""

    async def probe(url: str) -> ProbeResult:
        try:
            cards = await fleet.models(url)
            found = await examine(url)
        except (NotFoundError, TransientError, SynthError) as exc:
            problem = str(exc)
            if isinstance(exc, NotFoundError):
                asked = f"(POST {fleet.transport.path}) for the model {fleet.model!r}"
                problem += f" {asked}: was the server started for this kind of model?"
            answered = isinstance(exc, NotFoundError | RequestRejected)
            return ProbeResult(shown(url), reachable=answered, problems=(problem,), remote=not is_loopback(url))
        return replace(
            found,
            models=tuple(card.id for card in cards),
            max_model_len=next((card.max_model_len for card in cards if card.id == fleet.model), None),
            version=await fleet.transport.version(url),
            remote=not is_loopback(url),
        )

    return list(await asyncio.gather(*(probe(url) for url in fleet.urls)))
