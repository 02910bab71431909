"""What `synth check` learns of a server: facts, and problems in words that say how to mend them."""

from __future__ import annotations

from dataclasses import dataclass

from synth.errors import RequestRejected, SynthError
from synth.servers.faults import NotServed, Setback, is_loopback, shown
from synth.servers.fleet import Fleet

QUESTION = "How do I change a password that I have forgotten?"
ANSWER = "If you no longer know your password, choose “forgotten” on the login page and set a new one."
UNRELATED = "Spring tides follow the new and the full moon by about two days on this coast."


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One server, or one local model, as found; None where a fact does not apply or could not be learnt."""

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
    """The model's freedom was held to a schema that it would not meet by chance."""
    dimension: int | None = None
    norm: float | None = None
    """Length of a vector as it came, before we normalise."""
    paraphrase: float | None = None
    """How near an answer is to its question: the cosine of an embedder, P(yes) of a reranker."""
    unrelated: float | None = None
    """The same of a text that has nothing to do with the question; must be the lower one."""
    remote: bool = False
    """Passages leave this machine."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself."""

    models: tuple[str, ...]
    max_model_len: int | None
    version: str | None


async def facts(fleet: Fleet, url: str, model: str) -> Facts:
    """Models, context length and version of one server; raises Setback or ServerRefused when it cannot be reached."""
    cards = await fleet.models(url)
    mine = next((card for card in cards if card.id == model), None)
    try:
        told = await fleet.transport.get(url.removesuffix("/v1"), "/version")
        version = told.get("version") if isinstance(told, dict) else None
    except (NotServed, Setback, SynthError):
        version = None
    length = mine.max_model_len if mine is not None else None
    return Facts(tuple(card.id for card in cards), length, version if isinstance(version, str) else None)


def unusable(url: str, exc: Exception) -> ProbeResult:
    """The result for a server that could not be spoken to, or would not do this work at all."""
    answered = isinstance(exc, NotServed | RequestRejected)
    return ProbeResult(shown(url), reachable=answered, problems=(str(exc),), remote=not is_loopback(url))
