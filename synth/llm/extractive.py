"""A test double for a language model: `extractive` puts words of the passage side by side and calls that a query.

It reads the structured inputs of a request, never the prompt, and answers in JSON as a model would. It knows no
language: long words stand for rare ones. For a task that is not retrieval it fills in the schema, choices by lot and
texts with words of the text asked about. Good for tests and for trying a job file; its queries train nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import exp
from typing import Any, ClassVar, Literal

from synth.languages.words import count_characters, count_words
from synth.stage import (
    ChatModel,
    ChatReply,
    ChatRequest,
    ClientSettings,
    ConfigInputs,
    JsonSchema,
    LlmStage,
    NegativeInputs,
    QueryInputs,
    TextInputs,
)
from synth.types import QueryConfig, Requirement

__all__ = ["Extractive"]

_QUOTE = 120
"""Characters of the passage that are quoted as the answer."""
_DRAFTS = 16
"""Tries for a query that the passage does not have yet."""
_PIECE = 3
"""Characters that make a word where a script writes no spaces."""
_LONG = 12
"""A word of more characters counts no more than this."""
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_ITEMS = 3
"""Items of a list whose schema asks for no number."""
_NEAR = 8.0
"""How much nearer personas are preferred."""
_STATEMENTS = frozenset({"keywords", "summary"})


class Extractive(LlmStage):
    """No model: words of the passage as a query, to try a job without a server. In the passage's language only."""

    judges: ClassVar[bool] = False

    model: Literal["extractive-baseline"] = "extractive-baseline"
    """What the `model` column of its pairs says."""

    def writes(self, query: str, passage: str) -> bool:
        return passage in {query, "und"}

    def open(self, client: ClientSettings) -> ChatModel:  # noqa: ARG002 - every backend is opened alike; no server here
        return _Baseline(self.model)


@dataclass(frozen=True, slots=True)
class _Baseline:
    name: str
    slots: int = 8
    """Nothing is waited for, so a few passages at a time keep one core busy."""
    troubled: bool = False

    async def complete(self, request: ChatRequest) -> ChatReply:
        await asyncio.sleep(0)  # never waits for anything itself, so signals and writers get their turn here
        rng = random.Random(f"{request.seed}/{request.key.attempt}")  # noqa: S311 - sampling, not secrets
        return ChatReply(text=_answer(request, rng), finish_reason="stop", model=self.name)

    async def close(self) -> None:
        """Nothing is open."""


def _answer(request: ChatRequest, rng: random.Random) -> str:
    inputs = request.inputs
    if inputs is None or isinstance(inputs, TextInputs):
        words = _words(inputs.text if inputs else request.messages[-1][1])
        return json.dumps(_filled(request.schema, [*words], rng), ensure_ascii=False)
    if isinstance(inputs, ConfigInputs):
        return _config(inputs, rng)
    if isinstance(inputs, QueryInputs):
        return _query(inputs, rng)
    if isinstance(inputs, NegativeInputs):
        return "Sorry, the extractive baseline writes no passages: it only takes phrases out of them."
    return "Sorry, the extractive baseline cannot judge: it compares words and understands none."


def _filled(schema: JsonSchema, words: list[str], rng: random.Random) -> Any:
    """A value of the schema; a text takes three in four of the words that are left, in their order."""
    kind = schema.get("type")
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if kind == "object":
        return {name: _filled(part, words, rng) for name, part in schema["properties"].items()}
    if kind == "array":
        count, each = schema.get("minItems", _ITEMS), schema["items"]
        if "enum" in each:
            return rng.sample(each["enum"], min(count, len(each["enum"])))
        return [_filled(each, words[n::count] or words[:], rng) for n in range(count)]
    if kind != "string":
        low = schema.get("minimum", 0)
        return rng.random() < 1 / 2 if kind == "boolean" else rng.randint(low, max(low, schema.get("maximum", low)))
    taken = sorted(rng.sample(range(len(words)), len(words) - len(words) // 4))
    text = _joined(words, taken)[: schema.get("maxLength")].rstrip()
    words[:] = [word for n, word in enumerate(words) if n not in taken] or words
    return text


def _config(inputs: ConfigInputs, rng: random.Random) -> str:
    found = inputs.candidates
    best = max(found.similarities, default=0.0)
    weights = {who: exp(_NEAR * (near - best)) for who, near in zip(found.personas, found.similarities, strict=True)}
    kinds, levels = inputs.question_types, inputs.difficulties or (None,)
    every = [QueryConfig(*each) for each in product(found.personas or (None,), kinds, levels)]
    free = [config for config in every if config not in set(inputs.used)] or every
    (config,) = rng.choices(free, [weights.get(each.character or "", 1.0) for each in free])
    reply = {"Character": config.character, "Question_Type": config.question_type, "Difficulty": config.difficulty}
    return json.dumps({key: value for key, value in reply.items() if value is not None}, ensure_ascii=False)


def _query(inputs: QueryInputs, rng: random.Random) -> str:
    passage, asked = inputs.candidates.passage, inputs.requirement
    if passage.language not in {asked.language, "und"}:
        return f"Sorry, this baseline cannot translate: the passage is in {passage.language}, not in {asked.language}."
    end = "" if inputs.config.question_type in _STATEMENTS else "?"
    written = {_folded(query) for query in inputs.written}
    for _ in range(_DRAFTS):
        query = _draft(_words(passage.text), asked, end, rng)
        if _folded(query) not in written:
            quote = {"Answer": passage.text.strip()[:_QUOTE]} if inputs.answer else {}
            return json.dumps({"Query": query} | quote, ensure_ascii=False)
    return "Sorry, this baseline finds no further query in this passage."


def _folded(query: str) -> str:
    return query.rstrip("?").casefold()


@lru_cache(maxsize=256)
def _words(text: str) -> tuple[str, ...]:
    text = "".join(each if each.isprintable() else " " for each in text)
    words: list[str] = []
    for run in re.findall(r"\w(?:\S*\w)?", text) or text.split():
        if _UNSPACED.search(run):
            parts = re.findall(r"\w+", run) or [run]
            words += [part[n : n + _PIECE] for part in parts for n in range(0, len(part), _PIECE)]
        else:
            words.append(run)
    return tuple(dict.fromkeys(words))


def _draft(words: Sequence[str], asked: Requirement, end: str, rng: random.Random) -> str:
    aim = rng.randint(asked.length_min, asked.length_max)
    order = sorted(range(len(words)), key=lambda n: -(rng.random() ** (1 / min(len(words[n]), _LONG))))
    chosen: list[int] = []
    for n in order:
        longer = sorted([*chosen, n])
        if _size(_joined(words, longer) + end, asked) <= aim:
            chosen = longer
        elif _size(_joined(words, chosen) + end, asked) >= asked.length_min:
            break
    query = _joined(words, chosen) or words[order[0]]
    while _size(query + end, asked) > asked.length_max and len(query) > 1:
        query = query[:-1].rstrip()
    return query + end


def _joined(words: Sequence[str], chosen: Sequence[int]) -> str:
    text = ""
    for word in (words[n] for n in chosen):
        glued = text and _UNSPACED.match(text[-1]) and _UNSPACED.match(word)
        text += word if glued or not text else f" {word}"
    return text


def _size(text: str, asked: Requirement) -> int:
    return count_characters(text) if asked.length_unit == "characters" else count_words(text, asked.language)
