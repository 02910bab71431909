"""Does a reranker mean anything? The answer to a question must score higher than a text about something else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from synth.batching import Pairs
from synth.errors import SynthError
from synth.servers.faults import NotServed, Setback, is_loopback, shown
from synth.servers.fleet import Fleet
from synth.servers.probe import ANSWER, QUESTION, UNRELATED, ProbeResult, facts, unusable

PROBE_PAIRS = ((QUESTION, ANSWER), (QUESTION, UNRELATED))
_NOISE = (
    "the answer to a question scores {:.2f}, an unrelated text {:.2f}: is this a reranker, served with the overrides "
    "and the chat template that it needs?"
)

Ask = Callable[[str, Pairs], Awaitable[list[float]]]
"""Scores pairs on the server with this URL, without trying again."""


async def probe(fleet: Fleet, model: str, ask: Ask) -> list[ProbeResult]:
    """One result per server: reachable, what it serves, and whether its scores mean anything."""
    return list(await asyncio.gather(*(_one(fleet, url, model, ask) for url in fleet.urls)))


def problems(answer: float, unrelated: float) -> tuple[str, ...]:
    """What the scores of `PROBE_PAIRS` tell; NaN is a pair without a score."""
    if math.isnan(answer) or math.isnan(unrelated):
        return ("gives no score for a short question and a short text: is this a reranker?",)
    return () if answer > unrelated else (_NOISE.format(answer, unrelated),)


async def _one(fleet: Fleet, url: str, model: str, ask: Ask) -> ProbeResult:
    try:
        found = await facts(fleet, url, model)
        answer, unrelated = await ask(url, PROBE_PAIRS)
    except NotServed as exc:
        return unusable(url, NotServed(f"{exc.message} for the model {model!r}: is this the server of a reranker?"))
    except (Setback, SynthError) as exc:
        return unusable(url, exc)
    return ProbeResult(
        shown(url),
        reachable=True,
        problems=problems(answer, unrelated),
        models=found.models,
        max_model_len=found.max_model_len,
        version=found.version,
        paraphrase=answer,
        unrelated=unrelated,
        remote=not is_loopback(url),
    )
