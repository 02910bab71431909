"""What a text must be to become a passage, and the texts already seen."""

from __future__ import annotations

import re
import unicodedata
from array import array
from decimal import Decimal
from hashlib import blake2b

from synth.sources.options import Corpus
from synth.sources.records import EXCERPT, Fault

_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0]*"
)

_EXACT = 2**53
"""Below it, every whole number is a float of its own."""


def check_text(text: object, corpus: Corpus) -> Fault | None:
    """Why a value cannot be a passage of this corpus, or None when it is a usable text."""
    fault = check_present(text, "the text")
    if fault or not isinstance(text, str):
        return fault
    if corpus.control_tokens == "reject":
        from synth.prompts.templates import has_control_tokens  # noqa: PLC0415 - brings a template engine

        if has_control_tokens(text):
            return Fault("control_token", "the text has a chat control token", excerpt(text))
    if len(text) < corpus.min_chars or len(text.strip()) < corpus.min_chars:
        detail = f"{len(text.strip())} characters, corpus.min_chars is {corpus.min_chars}"
        return Fault("too_short", detail, excerpt(text))
    if corpus.on_long == "reject" and len(text) > corpus.max_chars:
        return Fault("too_long", f"{len(text)} characters, corpus.max_chars is {corpus.max_chars}", excerpt(text))
    return None


def check_present(text: object, what: str) -> Fault | None:
    """Why a value is not a readable text: missing, of another type, blank, or impossible to store."""
    if text is None:
        return Fault("empty", f"{what} is null or missing")
    if not isinstance(text, str):
        return Fault("type", f"{what} is of type {type(text).__name__}", excerpt(repr(text)))
    if _INVISIBLE.fullmatch(text):
        return Fault("empty", f"{what} has only white space and invisible characters", excerpt(text))
    return check_string(text, what)


def check_string(text: str, what: str) -> Fault | None:
    """Why a string cannot be stored or sent: half a surrogate pair, or a NUL, which ends a string in C."""
    if (start := surrogate(text)) is not None:
        detail = f"{what} has half a surrogate pair at character {start} (U+{ord(text[start]):04X})"
        return Fault("surrogate", detail, excerpt(text))
    if "\0" in text:
        return Fault("nul", f"{what} has a NUL at character {text.index(chr(0))}", excerpt(text))
    return None


def id_text(value: object) -> str | None:
    """An id as the text that it is compared by, None for none. 3.0 is "3": numbers with a gap are read as floats."""
    if isinstance(value, (float, Decimal)):
        if value != value:  # noqa: PLR0124 - NaN
            return None
        value = int(value) if -_EXACT < value < _EXACT and value == int(value) else value
    return None if value is None or value == "" else str(value)


def surrogate(text: str) -> int | None:
    """Where the first half of a surrogate pair stands, which no encoding takes; None in nearly every text."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            return exc.start
    return None


def excerpt(text: str) -> str:
    return storable(text[:EXCERPT])


def excerpt_of_bytes(data: bytes) -> str:
    return data[: EXCERPT * 4].decode(errors="replace")[:EXCERPT]


def storable(text: str) -> str:
    """A text with `?` for every half of a surrogate pair."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def digest(text: str) -> bytes:
    """16 bytes equal for texts that differ only in case, white space or Unicode form."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return blake2b(" ".join(folded.split()).encode(), digest_size=16).digest()


class FirstSeen:
    """For each 16-byte digest the number that came with it first, in 25 to 38 bytes each: millions fit.

    Open hash tables over arrays, because a dict takes nine times the memory; many of them, because a table that grows
    needs its memory twice for a moment.
    """

    def __init__(self) -> None:
        self._tables = [_HashTable() for _ in range(64)]

    def add(self, key: bytes, number: int) -> int | None:
        """The earlier number of this digest, or None after remembering `number` for it."""
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        return self._tables[low % len(self._tables)].add(high, low, number)


class _HashTable:
    def __init__(self) -> None:
        self._count = 0
        self._allot(64)

    def add(self, high: int, low: int, number: int) -> int | None:
        slot = self._slot(high, low)
        if self._numbers[slot]:
            return self._numbers[slot] - 1
        self._highs[slot], self._lows[slot], self._numbers[slot] = high, low, number + 1
        self._count += 1
        if self._count > 0.8 * len(self._numbers):
            old = zip(self._highs, self._lows, self._numbers, strict=True)
            self._allot(len(self._numbers) * 3 // 2)
            for a, b, known in old:
                if known:
                    slot = self._slot(a, b)
                    self._highs[slot], self._lows[slot], self._numbers[slot] = a, b, known
        return None

    def _slot(self, high: int, low: int) -> int:
        size = len(self._numbers)
        slot = high % size
        while self._numbers[slot] and not (self._lows[slot] == low and self._highs[slot] == high):
            slot = (slot + 1) % size
        return slot

    def _allot(self, size: int) -> None:
        self._highs, self._lows = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))
        self._numbers = array("I", bytes(4 * size))
