"""Long texts cut into even pieces, at the best place there is: paragraph, sentence, line, space, character.

A character here is what a reader takes for one: a base with its marks, a flag, a joined emoji, a Hangul syllable.
The rule is a compact form of the grapheme clusters of Unicode Annex 29 that joins rather more than less.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

_PARAGRAPH = re.compile(r"(?:\r?\n[ \t]*){2,}|\u2029\s*")
_LINE = re.compile(r"\r?\n|\u2028")
_SPACE = re.compile(r"\s+")
_CLOSING = "\"'”’»›)\\]}」』】）〉》〕］"
_STOPS = "。！？｡．।॥؟۔։።፧፨။។៕๚๛།༎"  # in scripts where they are enough, without a space after them
_SENTENCE = re.compile(rf"(?P<spaced>[.!?…]+[{_CLOSING}]*(?=\s|\Z))|[{_STOPS}]+[{_CLOSING}]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|fig|eq|no|nr|vol|pp?|cf|al|inc|ltd|co|corp|jr|sr|dept|approx|ca|abs|art|bzw|usw"
    r"|ggf|inkl|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|u\.s|e\.g|i\.e|z\.\s?b|d\.\s?h)|\b\w)\.\Z",
    re.IGNORECASE,
)
_LOOK_BACK = 16

_JOINER = "\u200d"
_VIRAMA = 9  # canonical combining class of the signs that join two consonants in Indic scripts
_JOINING_CATEGORIES = frozenset({"Mn", "Mc", "Me"})
_EXTENDING = frozenset("\u200c\u200d\u0e33\u0eb3\uff9e\uff9f")  # joiners, Thai and Lao AM, half-width voicing marks
_PREPENDED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e")


def chunk(text: str, max_chars: int) -> list[str]:
    """Pieces of at most `max_chars` code points, none much shorter than the others; the text itself if it fits.

    Only white space at the cuts is lost. A piece ends inside a grapheme cluster only if the cluster alone is longer.
    """
    cuts = [0, *_cuts(text, max_chars), len(text)]
    if len(cuts) == 2:  # noqa: PLR2004 - start and end
        return [text]
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    pieces = [pieces[0].rstrip(), *(piece.strip() for piece in pieces[1:-1]), pieces[-1].lstrip()]
    return [piece for piece in pieces if piece]


def truncate(text: str, max_chars: int) -> str:
    """The start of a text, at most `max_chars` code points, cut at the best place in the second half of these."""
    if len(text) <= max_chars:
        return text
    return text[: _best_cut(text, 0, max_chars // 2, max_chars, max_chars)].rstrip()


def _cuts(text: str, max_chars: int) -> Iterator[int]:
    """Places to cut, ascending. Each piece aims at an equal share of what is left and may miss it by a half."""
    start = 0
    while (left := len(text) - start) > max_chars:
        share = left / -(-left // max_chars)
        low, high = start + int(share / 2), min(start + max_chars, start + int(share * 1.5))
        start = _best_cut(text, start, low, high, start + int(share))
        yield start


def _best_cut(text: str, start: int, low: int, high: int, ideal: int) -> int:
    """The place in (low, high] nearest to `ideal` at the best kind of boundary found there."""
    for boundaries in _LEVELS:
        places = [place for place in boundaries(text, max(low, start), high) if low < place <= high]
        if places:
            return min(places, key=lambda place: (abs(place - ideal), place))
    for distance in range(high - start):
        for place in (ideal - distance, ideal + distance):
            if start < place <= high and between_characters(text, place):
                return place
    return high


def _ends(pattern: re.Pattern[str]) -> Callable[[str, int, int], Iterator[int]]:
    def boundaries(text: str, low: int, high: int) -> Iterator[int]:
        # what follows a cut may be a mark that belongs to the space before it
        places = (match.end() for match in pattern.finditer(text, low, min(high, len(text))))
        return (place for place in places if between_characters(text, place))

    return boundaries


def _sentence_ends(text: str, low: int, high: int) -> Iterator[int]:
    for match in _SENTENCE.finditer(text, low, min(high + _LOOK_BACK, len(text))):
        place = match.end()
        if match["spaced"] and place < len(text) and not text[place].isspace():
            continue  # the search ended here, the text does not
        if match["spaced"] == "." and _ABBREVIATION.search(text, max(0, place - _LOOK_BACK), place):
            continue
        if between_characters(text, place):
            yield place


_LEVELS = (_ends(_PARAGRAPH), _sentence_ends, _ends(_LINE), _ends(_SPACE))


def between_characters(text: str, place: int) -> bool:
    """Whether a cut before `text[place]` leaves every grapheme cluster whole."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if after < "\u0300":  # Latin without marks: only a line ending has two parts
        return not (before == "\r" and after == "\n")
    if _extends(after) or before == _JOINER or before in _PREPENDED or unicodedata.combining(before) == _VIRAMA:
        return False
    if _is_flag(before) and _is_flag(after):
        return _flags_before(text, place) % 2 == 0
    return not _same_syllable(before, after)


def _extends(char: str) -> bool:
    return (
        char in _EXTENDING
        or unicodedata.category(char) in _JOINING_CATEGORIES
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # tags, as in the flag of Scotland
    )


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _flags_before(text: str, place: int) -> int:
    count = 0
    while count < place and _is_flag(text[place - 1 - count]):
        count += 1
    return count


def _same_syllable(before: str, after: str) -> bool:
    """Hangul: a vowel or final joins what precedes it, a syllable joins a leading consonant."""
    if "\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7fb":
        return "\u1100" <= before <= "\u11ff" or "\ua960" <= before <= "\ud7fb"
    leading = "\u1100" <= before <= "\u115f" or "\ua960" <= before <= "\ua97c"
    return leading and ("\u1100" <= after <= "\u115f" or "\ua960" <= after <= "\ua97c" or "\uac00" <= after <= "\ud7a3")
