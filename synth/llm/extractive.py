"""The embedded chat model that is none: `extractive` builds queries from a passage's own key phrases.

An honest baseline, so that a fresh machine without GPU, server or hub runs the whole pipeline for real. It reads the
structured inputs of a request, never the prompt, and answers in JSON as a model would.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from synth.llm._extractive.asking import ask
from synth.llm._extractive.choosing import choose
from synth.stage import (
    ChatModel,
    ChatReply,
    ChatRequest,
    ClientSettings,
    ConfigInputs,
    JudgeInputs,
    NegativeInputs,
    QueryInputs,
    Stage,
)

__all__ = ["Extractive"]


class Extractive(Stage):
    """No model: queries from the passage's own key phrases, to try the tool without a server. Same language only."""

    cross_lingual: ClassVar[bool] = False
    """A query can only be in the passage's own language; `synth check` refuses other jobs."""
    judges: ClassVar[bool] = False
    """It understands nothing, so a job that lets it grade pairs is refused."""

    model: Literal["extractive-baseline"] = "extractive-baseline"
    """What the `model` column of its pairs says."""

    def open(self, client: ClientSettings) -> ChatModel:  # noqa: ARG002 - every backend is opened alike; no server here
        """Ready at once: there is nothing to connect to."""
        return _Baseline(self.model)


@dataclass(frozen=True, slots=True)
class _Baseline:
    """Answers by rank: candidates are scored, seed and attempt choose among the best."""

    name: str
    slots: int = 8
    """Nothing is waited for, so a few passages at a time keep one core busy."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """A reply that depends on inputs, seed and attempt alone; a sentence of refusal where it cannot answer."""
        await asyncio.sleep(0)  # never waits for anything itself, so signals and writers get their turn here
        rng = random.Random(f"{request.seed}/{request.key.attempt}")  # noqa: S311 - sampling, not secrets
        return ChatReply(text=_answer(request.inputs, rng), finish_reason="stop", model=self.name)

    async def close(self) -> None:
        """Nothing is open."""


def _answer(inputs: ConfigInputs | QueryInputs | JudgeInputs | NegativeInputs | None, rng: random.Random) -> str:
    if isinstance(inputs, ConfigInputs):
        return _config(inputs, rng)
    if isinstance(inputs, QueryInputs):
        return _query(inputs, rng)
    if isinstance(inputs, NegativeInputs):
        return "Sorry, the extractive baseline writes no passages: it only takes phrases out of them."
    return "Sorry, the extractive baseline cannot judge: it compares words and understands none."


def _config(inputs: ConfigInputs, rng: random.Random) -> str:
    config = choose(inputs, rng)
    reply = {"Character": config.character, "Question_Type": config.question_type, "Difficulty": config.difficulty}
    return json.dumps({key: value for key, value in reply.items() if value is not None}, ensure_ascii=False)


def _query(inputs: QueryInputs, rng: random.Random) -> str:
    passage, asked = inputs.candidates.passage.language, inputs.requirement.language
    if passage not in {asked, "und"}:
        return f"Sorry, the extractive baseline cannot translate: the passage is in {passage}, the query in {asked}."
    query = ask(inputs, rng)
    if query is None:
        return "Sorry, the extractive baseline finds no further query in this passage."
    return json.dumps({"Query": query}, ensure_ascii=False)
