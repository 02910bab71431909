"""Which script a letter belongs to, how much of a text is in which, and Simplified against Traditional characters."""

from __future__ import annotations

import re
import string
from bisect import bisect_right
from collections import Counter
from functools import cache

# First code point of a range, last one, script: Unicode's blocks, joined where one script has several.
_RANGES = [
    (0x0041, 0x024F, "Latn"),
    (0x0250, 0x02AF, "Latn"),
    (0x0370, 0x03FF, "Grek"),
    (0x0400, 0x052F, "Cyrl"),
    (0x0530, 0x058F, "Armn"),
    (0x0590, 0x05FF, "Hebr"),
    (0x0600, 0x06FF, "Arab"),
    (0x0750, 0x077F, "Arab"),
    (0x08A0, 0x08FF, "Arab"),
    (0x0900, 0x097F, "Deva"),
    (0x0980, 0x09FF, "Beng"),
    (0x0A00, 0x0A7F, "Guru"),
    (0x0A80, 0x0AFF, "Gujr"),
    (0x0B00, 0x0B7F, "Orya"),
    (0x0B80, 0x0BFF, "Taml"),
    (0x0C00, 0x0C7F, "Telu"),
    (0x0C80, 0x0CFF, "Knda"),
    (0x0D00, 0x0D7F, "Mlym"),
    (0x0D80, 0x0DFF, "Sinh"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Laoo"),
    (0x1000, 0x109F, "Mymr"),
    (0x10A0, 0x10FF, "Geor"),
    (0x1100, 0x11FF, "Hang"),
    (0x1780, 0x17FF, "Khmr"),
    (0x1C90, 0x1CBF, "Geor"),
    (0x1E00, 0x1EFF, "Latn"),
    (0x1F00, 0x1FFF, "Grek"),
    (0x3005, 0x3007, "Han"),
    (0x3041, 0x30FF, "Kana"),
    (0x3130, 0x318F, "Hang"),
    (0x31F0, 0x31FF, "Kana"),
    (0x3400, 0x9FFF, "Han"),
    (0xA9E0, 0xA9FF, "Mymr"),
    (0xAA60, 0xAA7F, "Mymr"),
    (0xAC00, 0xD7AF, "Hang"),
    (0xF900, 0xFAFF, "Han"),
    (0xFB1D, 0xFB4F, "Hebr"),
    (0xFB50, 0xFDFF, "Arab"),
    (0xFE70, 0xFEFF, "Arab"),
    (0xFF21, 0xFF5A, "Latn"),
    (0xFF66, 0xFF9F, "Kana"),
    (0x20000, 0x3FFFF, "Han"),
]
_STARTS = [start for start, _, _ in _RANGES]

# A word takes about five letters in an alphabet, 2.2 characters in Japanese and 1.5 in Chinese; a Hangul block is a
# syllable.
LETTERS_IN_ONE = {"Han": 3.0, "Kana": 2.0, "Hang": 2.0}

_WORD = re.compile(r"[^\W\d_]+")
_CANTONESE = frozenset("嘅咗喺唔冇佢啲嚟嗰哋嘢噉嘥攞諗")

_ASCII_LETTERS = string.ascii_letters.encode()
_ASCII_LATIN = str.maketrans("_", " ", string.digits)
"""What `only` does to Latin text, for the many that hold nothing but ASCII."""


@cache
def script_of(letter: str) -> str:
    """ISO 15924 code of one letter (`Han` for all Han, `Kana` for both kana); `Zzzz` outside the table's scripts."""
    index = bisect_right(_STARTS, ord(letter)) - 1
    if index < 0 or ord(letter) > _RANGES[index][1]:
        return "Zzzz"
    return _RANGES[index][2]


def weigh_scripts(text: str, *, running: bool = False) -> Counter[str]:
    """How much text is in each script, in letters of an alphabet; marks, digits and emojis weigh nothing.

    With `running`, Latin words that start with a capital are left out: among the characters of another script they are
    names, brands and units, while a sentence in a Latin-script language has words in small letters.
    """
    weights: Counter[str] = Counter()
    if text.isascii():
        weights["Latn"] = len(text) - len(text.encode().translate(None, _ASCII_LETTERS))
    else:
        for character, count in Counter(text).items():  # a text has few different ones
            if _WORD.match(character):
                weights[script_of(character)] += count
    for word in _WORD.findall(text) if running else ():
        if word[0].isupper() and script_of(word[0]) == "Latn":
            weights["Latn"] -= sum(script_of(letter) == "Latn" for letter in word)
    for script, factor in LETTERS_IN_ONE.items():
        if script in weights:
            weights[script] = round(weights[script] * factor)
    return +weights


def only(text: str, script: str) -> str:
    """The text without letters of other scripts, digits and underscores; one line."""
    plain = script == "Latn" and text.isascii()
    table = _ASCII_LATIN if plain else {ord(c): _kept(c, script) for c in set(text)}
    return " ".join(text.translate(table).split())


def _kept(character: str, script: str) -> str:
    if character.isdigit():
        return ""
    foreign = character == "_" or (character.isalnum() and script_of(character) != script)
    return " " if foreign else character


def chinese_votes(text: str) -> tuple[int, int]:
    """Numbers of characters that are only Simplified, and only Traditional.

    The national encodings know: GB 2312 holds the Simplified forms, Big5 the Traditional ones, and a character that
    one has and the other lacks takes a side.
    """
    sides = [_side(c) for c in text if script_of(c) == "Han"]
    return sides.count(-1), sides.count(1)


def cantonese_markers(text: str) -> int:
    """Number of characters that written Cantonese has and written Mandarin does not."""
    return sum(c in _CANTONESE for c in text)


@cache
def _side(character: str) -> int:
    simplified, traditional = _in(character, "gb2312"), _in(character, "big5")
    return int(traditional) - int(simplified)


def _in(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
