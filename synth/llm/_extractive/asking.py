"""Stage two without a model: a question frame of the asked type, filled with key phrases to the asked length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log

from synth.languages import count_words
from synth.llm._extractive.keyphrases import Phrase, analyse
from synth.llm._extractive.wording import Wording, wording
from synth.stage import QueryInputs
from synth.types import Requirement

_DRAFTS = 16  # tries for a query that the passage does not have yet
_MOST_DETAILS = 5  # phrases in a list, unless the range asks for more
_CUSTOM = "acquire_knowledge"  # the frames that serve a question type of the job's own
_WRITTEN = 3.0  # what a phrase loses that an earlier query has
_SHUFFLE = 0.5  # chance in the order of frames, whose places run from 0 to 1
_DETAILED = 0.3  # what a frame with details gains: it says more of the passage
_NOISE = 0.08  # Gumbel noise on the logarithm of phrase scores: chance against rank


@dataclass(frozen=True, slots=True)
class _Level:
    """What a difficulty means here: how special the phrases, how far along the frames, how long within the range."""

    tilt: float
    place: float
    share: float


_USUAL = _Level(0.4, 0.5, 0.8)
_LEVELS = {"high_school": _Level(0.0, 0.1, 0.65), "university": _USUAL, "phd": _Level(0.9, 0.9, 0.9)}


def ask(inputs: QueryInputs, rng: random.Random) -> str | None:
    """A query in range wherever the passage has enough words, never one of `inputs.written`; None when none is left."""
    requirement = inputs.requirement
    words = wording(requirement.language)
    found = analyse(inputs.candidates.passage.text, requirement.language)
    level = _LEVELS.get(inputs.config.difficulty or "", _USUAL)
    written = {fold(query) for query in inputs.written}
    for _ in range(_DRAFTS):
        ordered, spare = _order(found.phrases, written, level, rng)
        if not ordered:
            return None
        span = requirement.length_max - requirement.length_min
        share = min(1.0, max(0.0, level.share + rng.uniform(-0.2, 0.15)))
        target = requirement.length_min + round(span * share)
        query = _Draft(requirement, words, target, ordered, (*spare, *found.words)).fill(
            _frames(inputs, words, level, rng)
        )
        if query and fold(query) not in written:
            return query
    return None


def fold(query: str) -> str:
    """A query as it is compared with others: case and spaces make no difference."""
    return " ".join(query.casefold().split())


def _order(
    phrases: Sequence[Phrase], written: set[str], level: _Level, rng: random.Random
) -> tuple[list[Phrase], list[Phrase]]:
    """Phrases by noisy rank, and apart those that share a word with a better one."""

    def value(phrase: Phrase) -> float:
        used = any(phrase.text.casefold() in query for query in written)
        noise = -log(-log(rng.uniform(1e-9, 1 - 1e-9)))
        return log(phrase.score + 1e-9) + level.tilt * phrase.learned + _NOISE * noise - _WRITTEN * used

    ranked = sorted(((value(phrase), n) for n, phrase in enumerate(phrases)), reverse=True)
    taken: set[str] = set()
    kept: list[Phrase] = []
    spare: list[Phrase] = []
    for _, n in ranked:
        if taken.isdisjoint(phrases[n].keys):
            kept.append(phrases[n])
            taken |= phrases[n].keys
        else:
            spare.append(phrases[n])
    return kept, spare


def _frames(inputs: QueryInputs, words: Wording, level: _Level, rng: random.Random) -> list[str]:
    """Frames of the type, the one that suits the difficulty first; none for a bag of keywords."""
    kind = inputs.config.question_type
    if kind == "keywords":
        return []
    frames = words.frames.get(kind) or words.frames.get(_CUSTOM, ())
    last = max(len(frames) - 1, 1)

    def distance(number: int) -> float:
        return abs(number / last - level.place) + rng.uniform(0, _SHUFFLE) - _DETAILED * ("{b}" in frames[number])

    drawn = {number: distance(number) for number in range(len(frames))}
    return [frames[number] for number in sorted(drawn, key=lambda number: drawn[number])]


@dataclass(frozen=True, slots=True)
class _Draft:
    """One try: phrases in the order of their use, and the length to aim at."""

    requirement: Requirement
    words: Wording
    target: int
    phrases: Sequence[Phrase]
    spare: Sequence[Phrase]
    """Overlapping phrases and single words, for a passage too short for the length."""

    bare: bool = False
    """Whether phrases go without their articles, as keywords do."""

    def fill(self, frames: Sequence[str]) -> str:
        """The first frame that can be filled in range, else a bag of terms, cut to the maximum."""
        for frame in frames:
            query = self._framed(frame)
            if query and self._in_range(query):
                return query
        bag = replace(self, bare=True).bag()
        if not self._in_range(bag):
            longest = [query for frame in frames if (query := self._framed(frame)) and self._size(query) <= self._most]
            bag = max([*longest, self._cut(bag)], key=self._size)
        return bag

    @property
    def _most(self) -> int:
        return self.requirement.length_max

    def _framed(self, frame: str) -> str | None:
        """A frame with topic and details; None where not even the shortest phrases fit."""
        fixed = self._size(frame.replace("{a}", "").replace("{b}", ""))
        two = "{b}" in frame
        topic = self._topic(self._most - fixed - two)
        if topic is None or (two and fixed + self._size(topic.named) > self.target and self.target < self._most):
            return None
        rest = [phrase for phrase in self.phrases if phrase is not topic]
        details = self._details(rest, fixed + self._size(topic.named), topic.keys) if two else []
        while not two or details:
            query = self._render(frame, topic.named, [phrase.named for phrase in details])
            if self._size(query) <= self._most:
                return _capital(query, self.words) if frame.startswith("{a}") else query
            if not details:
                return None
            details.pop()
        return None

    def _topic(self, room: int) -> Phrase | None:
        """The first phrase that leaves the frame its room; names of several words before single ones."""
        fitting = [phrase for phrase in self.phrases[:12] if self._size(self._name(phrase)) <= room]
        return next((phrase for phrase in fitting[:3] if len(phrase.keys) > 1), fitting[0] if fitting else None)

    def _name(self, phrase: Phrase) -> str:
        return phrase.text if self.bare else phrase.named

    def _details(self, rest: Sequence[Phrase], length: int, taken: frozenset[str]) -> list[Phrase]:
        """Phrases up to the target, at most a handful; then whatever else still lifts the length to the minimum."""
        chosen: list[Phrase] = []
        for phrase in rest:
            short = not chosen or length < self.requirement.length_min
            if not short and (len(chosen) >= _MOST_DETAILS or length >= self.target):
                return chosen
            size = self._size(self._name(phrase))
            if length + size <= (self._most if short else self.target):
                chosen.append(phrase)
                length += size
                taken |= phrase.keys
        for phrase in self.spare:
            size = self._size(self._name(phrase))
            if length < self.requirement.length_min and length + size <= self._most and taken.isdisjoint(phrase.keys):
                chosen.append(phrase)
                length += size
                taken |= phrase.keys
        return chosen

    def bag(self) -> str:
        """Terms side by side, as people type keywords."""
        chosen = self._details(self.phrases, 0, frozenset()) or list(self.phrases[:1])
        while len(chosen) > 1 and self._size(" ".join(each.text for each in chosen)) > self._most:
            chosen.pop()
        return " ".join(phrase.text for phrase in chosen)

    def _render(self, frame: str, topic: str, details: Sequence[str]) -> str:
        both = "{a}" + self.words.conjunction + "{b}"
        if both in frame:
            return frame.replace(both, "{a}").format(a=self._list([topic, *details]))
        return frame.format(a=topic, b=self._list(details))

    def _list(self, names: Sequence[str]) -> str:
        if len(names) < len("ab"):
            return "".join(names)
        return self.words.comma.join(names[:-1]) + self.words.conjunction + names[-1]

    def _cut(self, text: str) -> str:
        """The longest beginning within the maximum, at a space where there is one."""
        while self._size(text) > self._most:
            text = text.rpartition(" ")[0].rstrip() or text[:-1]
        return text

    def _in_range(self, text: str) -> bool:
        return self.requirement.length_min <= self._size(text) <= self._most

    def _size(self, text: str) -> int:
        if self.requirement.length_unit == "characters":
            return len(text)
        return _words(text, self.requirement.language)


@lru_cache(maxsize=16384)
def _words(text: str, code: str) -> int:
    return count_words(text, code)


def _capital(query: str, words: Wording) -> str:
    """A sentence starts with a capital, unless its first word has capitals inside, as `mRNA` has."""
    first = query.split(maxsplit=1)[0]
    cased = words.script in {"Latn", "Cyrl"} and first[1:] == first[1:].lower()
    return query[0].upper() + query[1:] if cased else query
