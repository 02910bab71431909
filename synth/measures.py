"""Measures of one query, shared by the scorers and by `task.retry_on`, so that both give the same values."""

from __future__ import annotations

from synth.errors import JobError
from synth.languages import count_words, is_language
from synth.languages.words import count_characters, fold
from synth.types import LengthUnit, Requirement


def language_matches(query: str, code: str | None) -> bool | None:
    """Whether a query is in the requested language; None when that is undecided or the language is unknown."""
    if code is None or code == "und":
        return None
    try:
        return is_language(query, code)
    except JobError:  # external data may name a language that the table does not have
        return None


def text_length(text: str, code: str, unit: LengthUnit) -> int:
    """Length of a text in the language `code`: its words, or its characters other than white space."""
    return count_words(text, code) if unit == "words" else count_characters(text)


def outside_range(got: int, low: int | None, high: int | None) -> float | None:
    """Distance of a length from the inclusive range, relative to the nearest bound: 0 inside, None without a range."""
    if low is None and high is None:
        return None
    if low is not None and got < low:
        return (low - got) / low
    if high is not None and got > high:
        return (got - high) / max(high, 1)
    return 0.0


def length_error(query: str, requirement: Requirement) -> float:
    """Distance of a query's length from the requested range; 0 inside, 1 at twice the upper bound."""
    got = text_length(query, requirement.language, requirement.length_unit)
    return outside_range(got, requirement.length_min, requirement.length_max) or 0.0


def copied_share(query: str, passage: str) -> float:
    text = fold(query)
    return longest_shared_run(text, fold(passage)) / len(text) if text else 0.0


def longest_shared_run(text: str, other: str) -> int:
    """Length of the longest common substring.

    About 2 * len(text) substring searches suffice, because the run found so far only grows. CPython's search is in C,
    which is faster than a suffix automaton or difflib for a query and a passage. A candidate whose second half is not
    shared rules out all candidates that contain this half, which skips most of them.
    """
    best = start = 0
    while (end := start + best + 1) <= len(text):
        half = best // 2
        if text[start + half : end] not in other:
            start += half + 1
        elif half and text[start:end] not in other:
            start += 1
        else:
            best += 1
    return best
