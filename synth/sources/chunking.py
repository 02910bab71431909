"""Long texts cut into even pieces, at the best place there is: paragraph, sentence, line, space, character.

A character is a grapheme cluster of Unicode Annex 29: a base with its marks, a flag, a joined emoji, a Hangul syllable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import regex

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

_CHARACTER = regex.compile(r"\X")
_FIRST_MARK = "\u0300"
"""Below it, only a line ending has more than one code point."""
_LONGEST = 128
"""Code points to look back for the start of a character."""


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
    if text[place] < _FIRST_MARK:
        return text[place - 1 : place + 1] != "\r\n"
    start = place - 1
    while start > 0 and text[start] >= _FIRST_MARK and place - start < _LONGEST:
        start -= 1
    while start < place:
        start = _CHARACTER.match(text, start).end()
    return bool(start == place)
