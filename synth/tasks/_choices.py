"""What stage one of a slot is offered, and when there is nothing left to choose."""

from __future__ import annotations

import random

from synth.stage import ConfigInputs
from synth.types import Candidates, QueryConfig


def drawn(candidates: Candidates, count: int, rng: random.Random) -> Candidates:
    """`count` of the nearest personas, still nearest first; all of them where there are no more."""
    if len(candidates.personas) <= count:
        return candidates
    chosen = sorted(rng.sample(range(len(candidates.personas)), count))
    return Candidates(
        candidates.passage,
        tuple(candidates.personas[n] for n in chosen),
        tuple(candidates.similarities[n] for n in chosen),
    )


def possible(config: QueryConfig, personas: tuple[str, ...], types: tuple[str, ...], levels: tuple[str, ...]) -> bool:
    """Whether a slot that is offered these could choose the configuration at all."""
    return (
        (not personas or config.character in personas)
        and config.question_type in types
        and (not levels or config.difficulty in levels)
    )


def only_choice(inputs: ConfigInputs) -> QueryConfig | None:
    """The configuration when nothing is left to choose: then stage one costs no call."""
    personas = inputs.candidates.personas
    if len(personas) > 1 or len(inputs.question_types) > 1 or len(inputs.difficulties) > 1:
        return None
    return QueryConfig(
        personas[0] if personas else None,
        inputs.question_types[0],
        inputs.difficulties[0] if inputs.difficulties else None,
    )
