"""Stage one without a model: who asks, what kind of question, how hard, from similarities and the text's own signs."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from math import log

from synth.llm._extractive.keyphrases import analyse
from synth.llm._extractive.wording import wording
from synth.stage import ConfigInputs
from synth.types import Passage, QueryConfig

_LEVELS = {"high_school": 0.15, "university": 0.45, "phd": 0.8}
"""Where each known difficulty lies on the scale of `Analysis.technical`."""
_SPREAD = 0.35  # how much chance weighs beside the signs; the standard deviation of its Gumbel noise is 1.28 times that
_REPEATED = 0.5  # what a persona, type or level loses for each earlier slot that had it


def choose(inputs: ConfigInputs, rng: random.Random) -> QueryConfig:
    """The best configuration under seeded noise that is not used yet; a used one only when no other is left."""
    who = _with_chance(_personas(inputs), Counter(each.character for each in inputs.used), rng)
    kinds = _with_chance(_types(inputs), Counter(each.question_type for each in inputs.used), rng)
    levels = _with_chance(_difficulties(inputs), Counter(each.difficulty for each in inputs.used), rng)
    ranked = sorted(product(who, kinds, levels), key=lambda each: -(who[each[0]] + kinds[each[1]] + levels[each[2]]))
    used = set(inputs.used)
    configs = [QueryConfig(character, str(kind), level) for character, kind, level in ranked]
    return next((config for config in configs if config not in used), configs[0])


def _with_chance(
    scores: dict[str | None, float], before: Counter[str | None], rng: random.Random
) -> dict[str | None, float]:
    """Scores with Gumbel noise, so that the best is a draw from their softmax, less what earlier slots took."""
    return {
        name: score - _REPEATED * before[name] - _SPREAD * log(-log(rng.uniform(1e-9, 1 - 1e-9)))
        for name, score in scores.items()
    }


def _personas(inputs: ConfigInputs) -> dict[str | None, float]:
    found = inputs.candidates
    if not found.personas:
        return {None: 0.0}
    best = max(found.similarities, default=0.0)
    return {name: 4 * (value - best) for name, value in zip(found.personas, found.similarities, strict=True)}


def _types(inputs: ConfigInputs) -> dict[str | None, float]:
    """How well a passage serves each type: definitions give background, causes and figures give knowledge."""
    passage = inputs.candidates.passage
    signs = _signs(passage)
    return {name: signs.get(name, 0.5) for name in inputs.question_types}


def _signs(passage: Passage) -> dict[str, float]:
    words = wording(passage.language)
    text = passage.text
    per_kilo = 1000 / max(len(text), 200)
    defined = len(words.definition.findall(text)) * per_kilo if words.definition else 1.0
    explained = len(words.explanation.findall(text)) * per_kilo if words.explanation else 3.0
    phrases = analyse(text, passage.language).phrases
    return {
        "background": 0.2 + min(0.15 * defined, 0.6),
        "acquire_knowledge": 0.5 + min(0.05 * explained, 0.4),
        "yes_or_no": 0.3 + min(0.1 * defined, 0.2) + min(0.02 * explained, 0.2),
        "summary": 0.2 + min(len(text) / 3000, 0.5),
        "keywords": 0.3 + 0.4 * (sum(p.learned for p in phrases[:5]) / 5),
    }


def _difficulties(inputs: ConfigInputs) -> dict[str | None, float]:
    levels = inputs.difficulties
    if not levels:
        return {None: 0.0}
    passage = inputs.candidates.passage
    technical = analyse(passage.text, passage.language).technical
    steps = max(len(levels) - 1, 1)
    return {name: -2 * abs(_LEVELS.get(name, n / steps) - technical) for n, name in enumerate(levels)}
