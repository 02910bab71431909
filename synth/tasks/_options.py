"""The option shapes of a task: weights, languages, lengths and parts of a passage, as a job file writes them.

Each shape accepts its short forms and is validated on sight; drawing happens in `retrieval`, from a generator that the
item's position seeds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

from synth.errors import JobError
from synth.languages import count_words, language
from synth.sources import sentences
from synth.tasks._task import Draw
from synth.types import Passage

SAME = "same"
OTHER = "other"


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Weight = Annotated[float, Field(ge=0)]


def draw(weights: Mapping[str, float], rng: random.Random) -> str:
    """One key with probability proportional to its weight; order of the mapping does not matter."""
    keys = sorted(key for key, weight in weights.items() if weight > 0)
    return rng.choices(keys, [weights[key] for key in keys])[0]


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of a draw as shares of 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items() if weight > 0}


def _positive(weights: dict[str, float]) -> dict[str, float]:
    if not any(weights.values()):
        raise ValueError("needs at least one weight above 0")
    return weights


Weights = Annotated[dict[str, Weight], AfterValidator(_positive)]


class TypeOption(_Shape):
    """One question type: how often, and for a type of your own what it means."""

    weight: Weight = 1.0
    means: str | None = None


def _type_option(value: object) -> object:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value} if plain else value


class QuestionTypes(RootModel[dict[str, Annotated[TypeOption, BeforeValidator(_type_option)]]]):
    """Weighted question types, the built-in five and one's own."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _some(self) -> QuestionTypes:
        _positive(self.weights())
        return self

    def weights(self) -> dict[str, float]:
        return {name: option.weight for name, option in self.root.items()}

    def meanings(self) -> dict[str, str]:
        """The meanings that the job itself gives."""
        return {name: option.means for name, option in self.root.items() if option.means}


def _language_weights(value: dict[str, Any], where: str) -> dict[str, float]:
    resolved: dict[str, float] = {}
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ValueError(f"{where}{name}: a weight is a number of 0 or more, not {weight!r}")
        code = SAME if name == SAME else language_code(name)
        resolved[code] = resolved.get(code, 0.0) + float(weight)
    return _positive(resolved)


def language_code(name: str) -> str:
    """The code of a language by any of its names. Raises ValueError."""
    try:
        return language(name).code
    except JobError as exc:
        raise ValueError(str(exc)) from exc


class Languages(RootModel[dict[str, dict[str, float]]]):
    """Query languages by passage language; a flat mapping is one rule for all.

    Stored as {passage language or `other`: {query language or `same`: weight}}.
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if not isinstance(value, dict) or not value:
            raise ValueError("expects weights such as {same: 0.8, en: 0.2}")
        nested = [isinstance(inner, dict) for inner in value.values()]
        if not any(nested):
            return {OTHER: _language_weights(value, "")}
        if not all(nested):
            raise ValueError("mixes plain weights and weights by passage language; use one of the two forms")
        return {
            OTHER if name == OTHER else language_code(name): _language_weights(inner, f"{name}.")
            for name, inner in value.items()
        }

    def choose(self, passage_language: str, rng: random.Random) -> str | None:
        """The query language for one item; None where no rule covers the passage's language."""
        weights = self.root.get(passage_language) or self.root.get(OTHER)
        chosen = draw(weights, rng) if weights else None
        return passage_language if chosen == SAME else chosen


class LengthRange(_Shape):
    """An inclusive range of words, drawn with its weight."""

    range: Annotated[list[Annotated[int, Field(ge=1, le=400)]], Field(min_length=2, max_length=2)]
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> LengthRange:
        if self.range[0] > self.range[1]:
            raise ValueError(f"{self.range} is upside down")
        return self


def _length_ranges(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(bound, int) for bound in value):
        value = {"range": value}
    return [value] if isinstance(value, dict) else value


USUAL_LENGTHS = {
    "keywords": (2, 7),
    "yes_or_no": (4, 14),
    "acquire_knowledge": (5, 20),
    "summary": (5, 16),
    "background": (6, 24),
    "default": (3, 24),
}
"""Words in which a query of each type can be put, without padding and without squeezing; `default` is for other types.

People's questions have 5 to 20 words in nine of ten cases (docs/prompts.md).
"""

LONG_LENGTHS = {"scenario": (40, 120)}
"""The same for types that a job gets only by naming them; they count where a job gives no range for all types."""

LengthRanges = Annotated[list[LengthRange], BeforeValidator(_length_ranges), Field(min_length=1)]


class Lengths(RootModel[dict[str, LengthRanges]]):
    """Length ranges by question type; `default` serves the types without their own.

    A flat range or list is for all types; of a mapping without `default`, types that it does not name have the usual.
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, list):
            return {"default": value}
        usual = {name: list(bounds) for name, bounds in USUAL_LENGTHS.items()}
        return value if not isinstance(value, dict) or "default" in value else {**usual, **value}

    @model_validator(mode="after")
    def _has_weight(self) -> Lengths:
        for name, ranges in self.root.items():
            if not any(each.weight for each in ranges):
                raise ValueError(f"{name}: needs at least one weight above 0")
        return self

    def choose(self, question_type: str | None, rng: random.Random, *, long: bool = False) -> tuple[int, int]:
        """An inclusive (min, max) for one item of this type; of a type that is `long`, its own usual range."""
        question_type = question_type or ""
        ranges = self.root.get(question_type) or self.root["default"]
        if long and question_type not in self.root and ranges == [LengthRange(range=list(USUAL_LENGTHS["default"]))]:
            return LONG_LENGTHS[question_type]
        chosen = rng.choices(ranges, [each.weight for each in ranges])[0]
        return chosen.range[0], chosen.range[1]


UNITS = ("sentence", "opening", "passage")

SENTENCE = (4, 60)
"""Words that a sentence needs to say something, and the most before it is a list or a table; bounds included."""
OPENING = 60
"""Words of an opening, whole sentences."""


def unit_of(passage: Passage, kind: str, draw: Draw) -> str:
    """The part of the passage's text that this item is about, verbatim.

    The slots of a passage get different sentences as long as there are some. A passage without a sentence of usual
    length gives its opening, and one whose first sentence is longer than an opening that sentence.
    """
    code = "en" if passage.language == "und" else passage.language
    if kind == "passage":
        return passage.text
    parts = sentences(passage.text)
    sizes = [count_words(part, code) for part in parts]
    low, high = SENTENCE
    usual = [part for part, size in zip(parts, sizes, strict=True) if low <= size <= high]
    if kind == "sentence" and usual:
        order = replace(draw, slot=0).random("sentences").sample(usual, len(usual))
        return order[draw.slot % len(order)]
    fitting = sum(total <= OPENING for total in accumulate(sizes))
    last = parts[max(1, fitting) - 1]
    start = passage.text.find(parts[0])
    return passage.text[start : passage.text.find(last, start) + len(last)]
