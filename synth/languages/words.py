"""How long a text is, in every script, and how to ask a model for a length."""

from __future__ import annotations

import re
import unicodedata

from synth.languages.table import Language, language
from synth.types import LengthUnit

_BREAK = re.compile(r"[\s\u200b—…]+")
_ALNUM = re.compile(r"[^\W_]")


def fold(text: str) -> str:
    """What texts are compared by: NFC, casefolded, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def count_words(text: str, code: str) -> int:
    """Number of words in a text written in the language `code`, any name that `language` knows.

    Spaced scripts: runs between spaces (or a dash or an ellipsis) with at least one letter or digit, so punctuation and
    emojis count nothing and `well-known` is one. Other scripts: characters divided by the mean length of a word, so
    that a range of words and the same range in characters hold the same texts.
    """
    row = language(code)
    if row.words.characters:
        return round(count_characters(text) / row.words.characters)
    return sum(1 for token in _BREAK.split(text) if _ALNUM.search(token))


def count_characters(text: str) -> int:
    """Characters other than white space, in NFC."""
    return sum(map(len, unicodedata.normalize("NFC", text).split()))


def in_own_unit(row: Language, low: int, high: int) -> tuple[int, int, LengthUnit]:
    """A range of words in the unit that the language is measured in: characters where no spaces part words."""
    if not row.words.characters:
        return low, high, "words"
    return max(1, round(low * row.words.characters)), max(1, round(high * row.words.characters)), "characters"


def length_phrase(row: Language, low: int, high: int) -> str:
    """A range of words as a model is asked for it, in the language's unit: `8 to 24 words` or `12 to 36 characters`."""
    low, high, unit = in_own_unit(row, low, high)
    return f"{low} to {high} {unit}" if low < high else f"{low} {unit if high > 1 else unit.removesuffix('s')}"


def quoted(passage: str, quote: str) -> str | None:
    """The stretch of a passage that a quote repeats, in the passage's own characters; None where it is not there.

    White space may differ, and the Unicode form (compatibility forms, composed or not); characters without width count
    nothing.
    """
    wanted = "".join(part for _, part in _plain(quote)).strip()
    places, parts = zip(*_plain(passage), strict=True) if passage else ((), ())
    text = "".join(parts)
    start = text.find(wanted) if wanted else -1
    if start < 0:
        return None
    owner = [place for place, part in zip(places, parts, strict=True) for _ in part]
    end = owner[start + len(wanted) - 1] + 1
    while end < len(passage) and unicodedata.combining(passage[end]):
        end += 1
    return passage[owner[start] : end]


def _plain(text: str) -> list[tuple[int, str]]:
    """(place, plain form) of each character; of a run of white space the first is a space, the others are nothing."""
    found: list[tuple[int, str]] = []
    spaced = True
    for place, character in enumerate(text):
        part = " " if character.isspace() else unicodedata.normalize("NFKD", character)
        if unicodedata.category(character) == "Cf" or (part == " " and spaced):
            continue
        spaced = part == " "
        found.append((place, part))
    return found
