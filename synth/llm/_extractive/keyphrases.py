"""The key phrases of a passage, ranked: candidates between stop words, scored as RAKE and YAKE do, without a model.

A candidate is a run of up to four content words, perhaps joined by a connector (`Battle of Hastings`). A word weighs
more when it is repeated, occurs early, stands beside many others, is long, or looks like a name or a term; a phrase
sums its words, damped by its length (RAKE, Rose et al. 2010; casing and position after YAKE, Campos et al. 2020).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log, log2, sqrt

from synth.llm._extractive.wording import Wording, wording
from synth.llm._extractive.words import Kind, Token, clauses, join

_MOST_WORDS = 4
_MOST_KEPT = 80
_WHOLE = 48  # characters of a text without any word that stand in for a phrase
_CASED = frozenset({"Latn", "Cyrl", "Grek", "Armn"})
_LONE = 0.8  # what a single word is worth beside phrases
_UNSURE = 0.5  # what a phrase is worth whose edges only the segmenter sees
_PLAIN = 0.2  # mean specialness of everyday words, measured on encyclopedic prose and FAQs ...
_PLAIN_CASELESS = 0.08  # ... in scripts without capitals
_UNSPACED = frozenset({"Hans", "Hant", "Jpan", "Thai"})
_SHORT_UNSPACED = 2  # characters
_LONG_UNSPACED = 10


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase as the passage writes it. `named` has the article before it, where the passage writes one."""

    text: str
    named: str
    keys: frozenset[str]
    score: float
    learned: float
    """How special it is, from 0 to 1: long words, names, digits and hyphens."""
    start: int
    """Index of its first token in the passage."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What both stages read in a passage: phrases, best first, and how technical it is, from 0 to 1.

    `words` are its content words one by one, for where phrases do not suffice.
    """

    phrases: tuple[Phrase, ...]
    words: tuple[Phrase, ...]
    technical: float


@dataclass(slots=True)
class _Found:
    tokens: Sequence[Token]
    start: int
    article: str
    whole: bool
    """Whether it is all between two stop words; where no spaces part words, only those edges are sure."""
    count: int = 1


@lru_cache(maxsize=512)
def analyse(text: str, code: str) -> Analysis:
    """Phrases of a text in the language `code`; never empty unless the text is blank."""
    words = wording(code)
    parted = list(clauses(text, words))
    weights = _weigh(parted, words)
    found: dict[str, _Found] = {}
    start = 0
    for clause in parted:
        for candidate in _candidates(clause, start, words):
            name = join((token.key for token in candidate.tokens), words)
            if name in found:
                found[name].count += 1
                found[name].article = found[name].article or candidate.article
            else:
                found[name] = candidate
        start += len(clause)
    phrases = sorted((_phrase(each, weights, words) for each in found.values() if _fits(each, words)), key=_rank)
    kept = tuple(phrases[:_MOST_KEPT]) or _fallback(text, parted)
    return Analysis(kept, _single(parted, weights), _technical(parted, words))


def _rank(phrase: Phrase) -> tuple[float, int, str]:
    return (-phrase.score, phrase.start, phrase.text)


def _weigh(parted: Sequence[Sequence[Token]], words: Wording) -> dict[str, float]:
    """Weight of every content word: frequency, neighbours, first place, and what it looks like."""
    count: Counter[str] = Counter()
    neighbours: defaultdict[str, set[str]] = defaultdict(set)
    first: dict[str, int] = {}
    look: dict[str, float] = {}
    for number, clause in enumerate(parted):
        before = ""
        for index, token in enumerate(clause):
            if token.kind is not Kind.CONTENT:
                before = ""
                continue
            count[token.key] += 1
            first.setdefault(token.key, number)
            look[token.key] = max(
                look.get(token.key, 0.0), _learned(token.surface, words.script, index > 0 and not words.nouns_capital)
            )
            if before:
                neighbours[before].add(token.key)
                neighbours[token.key].add(before)
            before = token.key
    last = max(len(parted), 1)
    return {
        key: (1 + log2(n))
        * (0.6 + look[key])
        * (1.3 - 0.5 * first[key] / last)
        * (1 + 0.1 * min(len(neighbours[key]), 4))
        for key, n in count.items()
    }


@lru_cache(maxsize=32768)
def _learned(surface: str, script: str, capital_counts: bool) -> float:  # noqa: FBT001 - a fact of the token, not a switch
    """How special a word looks, from 0 to 1; a capital that opens a clause, or a German one, proves nothing."""
    value = min(len(surface) / (6 if script in _UNSPACED else 16), 1.0) * 0.5
    if script in _CASED:
        if surface[1:] != surface[1:].lower():
            value += 0.4
        elif capital_counts and surface[0].isupper():
            value += 0.3
    elif surface.isascii():
        value += 0.3
    if "-" in surface or any(c.isdigit() for c in surface):
        value += 0.1
    return min(value, 1.0)


def _candidates(clause: Sequence[Token], start: int, words: Wording) -> Iterator[_Found]:
    for begin, end in _runs(clause):
        article = clause[begin - 1].surface if begin and clause[begin - 1].kind is Kind.ARTICLE else ""
        for low, high in _cuts(clause[begin:end], words):
            tokens = clause[begin + low : begin + high]
            if _stands(tokens, words) and (low or _introduced(clause, begin, words)):
                whole = high - low == end - begin
                yield _Found(tokens, start + begin + low, article if low == 0 else "", whole)


def _introduced(clause: Sequence[Token], begin: int, words: Wording) -> bool:
    """Whether the word before makes a noun likely, where a language has words that do."""
    if not words.introducers or not clause[begin].surface[0].islower():
        return True
    before = clause[begin - 1] if begin else None
    if before is None:
        return False
    return before.kind in {Kind.ARTICLE, Kind.CONNECTOR} or before.surface.casefold() in words.introducers


def _runs(clause: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Bounds of maximal runs of content words, with single connectors between them."""
    begin = -1
    for index, token in enumerate(clause):
        joins = token.kind is Kind.CONNECTOR and begin >= 0 and _continues(clause, index)
        if token.kind is Kind.CONTENT or joins:
            begin = index if begin < 0 else begin
            continue
        if begin >= 0:
            yield begin, index
        begin = -1
    if begin >= 0:
        yield begin, len(clause)


def _continues(clause: Sequence[Token], index: int) -> bool:
    return index + 1 < len(clause) and clause[index + 1].kind is Kind.CONTENT


def _cuts(run: Sequence[Token], words: Wording) -> list[tuple[int, int]]:
    """Parts of a run worth naming: all of it if short enough, else its head, its names, and its single words."""
    size = len(run)
    bounds = {(0, size)} if sum(token.kind is Kind.CONTENT for token in run) <= _MOST_WORDS else set()
    joints = [-1, *(n for n, token in enumerate(run) if token.kind is Kind.CONNECTOR), size]
    for left, right in pairwise(joints):
        low, high = left + 1, right
        if high - low > _MOST_WORDS - 1:
            bounds.add((high - 2, high) if words.head == "last" else (low, low + 2))
            bounds.add((high - 3, high) if words.head == "last" else (low, low + 3))
        else:
            bounds.add((low, high))
    bounds.update(_names(run, words))
    bounds.add((size - 1, size) if words.head == "last" else (0, 1))
    return sorted(bounds)


def _names(run: Sequence[Token], words: Wording) -> Iterator[tuple[int, int]]:
    """Neighbouring capitalised words inside a run: `Academy Award`, `Marlee Matlin`."""
    if words.script not in _CASED:
        return
    begin = -1
    for index in range(len(run) + 1):
        capital = index < len(run) and run[index].surface[:1].isupper()
        if capital and begin < 0:
            begin = index
        elif not capital and begin >= 0:
            if 1 < index - begin <= _MOST_WORDS:
                yield begin, index
            begin = -1


def _stands(tokens: Sequence[Token], words: Wording) -> bool:
    """Whether a part of a run can stand alone: no number first, no fragment, in German a noun last."""
    first, last = tokens[0].surface, tokens[-1].surface
    if not any(c.isalpha() for c in first) or not any(c.isalpha() for token in tokens for c in token.surface):
        return False
    if words.script in _UNSPACED:
        whole = sum(len(token.surface) for token in tokens)
        return _SHORT_UNSPACED <= whole <= _LONG_UNSPACED and (whole > _SHORT_UNSPACED or len(tokens) == 1)
    if words.code == "en" and len(tokens) > 1 and re.fullmatch(r"[a-z]{2,}ing", first):
        return False
    noun = last if words.head == "last" else first
    return not (words.adjective and words.adjective.search(noun)) and (not words.nouns_capital or last[:1].isupper())


def _single(parted: Sequence[Sequence[Token]], weights: dict[str, float]) -> tuple[Phrase, ...]:
    surfaces = {token.key: token.surface for clause in parted for token in clause if token.kind is Kind.CONTENT}
    ranked = sorted(surfaces.items(), key=lambda each: (-weights[each[0]], each))[:_MOST_KEPT]
    return tuple(Phrase(surface, surface, frozenset({key}), weights[key], 0.0, 0) for key, surface in ranked)


def _fits(found: _Found, words: Wording) -> bool:
    """Whether a phrase has the shape that its language asks of one; what is repeated needs none."""
    if words.shape is None or found.count > 1:
        return True
    return bool(words.shape.match(join((token.surface for token in found.tokens), words)))


def _phrase(found: _Found, weights: dict[str, float], words: Wording) -> Phrase:
    content = [token for token in found.tokens if token.kind is Kind.CONTENT]
    text = join((token.surface for token in found.tokens), words)
    special = sum(_learned(token.surface, words.script, not words.nouns_capital) for token in content) / len(content)
    total = sum(weights[token.key] for token in content)
    score = total / sqrt(len(content)) * (1 + 0.35 * log(found.count))
    if len(content) == 1 and words.script not in _UNSPACED:
        score *= _LONE
    if not found.whole and words.script in _UNSPACED:
        score *= _UNSURE
    named = join((found.article.lower(), text), words) if found.article else text
    keys = frozenset(token.key for token in content)
    return Phrase(text, named, keys, score, min(1.0, special + 0.1 * (len(content) - 1)), found.start)


def _technical(parted: Sequence[Sequence[Token]], words: Wording) -> float:
    """Mean specialness of content words and length of clauses, scaled to 0..1 over ordinary prose."""
    looks = [
        _learned(token.surface, words.script, number > 0 and not words.nouns_capital)
        for clause in parted
        for number, token in enumerate(clause)
        if token.kind is Kind.CONTENT
    ]
    if not looks:
        return 0.0
    mean = sum(looks) / len(looks)
    length = sum(len(clause) for clause in parted) / len(parted)
    plain = _PLAIN if words.script in _CASED else _PLAIN_CASELESS
    return max(0.0, min(1.0, (mean - plain) * 2 + min(length / 60, 0.25)))


def _fallback(text: str, parted: Sequence[Sequence[Token]]) -> tuple[Phrase, ...]:
    """For digits, emojis, or nothing but stop words: the words as they come, or else the text's beginning."""
    surfaces = dict.fromkeys(token.surface for clause in parted for token in clause if token.surface)
    pieces = list(surfaces)[:_MOST_KEPT]
    if not pieces:
        visible = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_WHOLE].strip()
        pieces = [visible] if visible else []
    return tuple(Phrase(p, p, frozenset({p.casefold()}), 1 / (n + 1), 0.0, 2 * n) for n, p in enumerate(pieces))
