"""What `synth check` finds out about a server: facts, and problems with their cure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from synth.errors import RequestRejected, SynthError
from synth.servers.faults import NotFoundError, TransientError, is_loopback, shown
from synth.servers.fleet import Fleet

QUESTION = "How do I change a password that I have forgotten?"
ANSWER = "If you no longer know your password, choose “forgotten” on the login page and set a new one."
UNRELATED = "Spring tides follow the new and the full moon by about two days on this coast."


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One server, or one local model; None where a fact does not apply or is unknown."""

    server: str
    """URL without secrets, or the path of a local model."""
    reachable: bool
    problems: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    max_model_len: int | None = None
    version: str | None = None
    engines: int | None = None
    """Data-parallel engines behind the URL."""
    constrained: bool | None = None
    """Whether a reply followed a schema that no model follows by chance."""
    dimension: int | None = None
    norm: float | None = None
    """Length of a vector before normalisation."""
    paraphrase: float | None = None
    """Similarity of a question and its answer: the cosine of an embedder, P(yes) of a reranker."""
    unrelated: float | None = None
    """The same for a question and an unrelated text; must be lower."""
    remote: bool = False
    """Passages leave this machine."""


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
