"""How long a translation is for its source, and the table of what is known of languages as sides of a translation.

`translation.tsv` has a row for each language of which anything is known: `length`, characters other than white space
for one of English; `numbers`, how far number words can be relied on; and numbers in words that num2words2 does not
give. `numbers`: `found` where five of six that English tells in words are found, `clear` where five of six that are
found mean a number (Italian `sei` is six and you are), `unsure` where people often write them otherwise.

Measured on the Tatoeba pairs that LASER publishes, 63,881 pairs of English with 74 languages of the table: `length` is
the median of every second pair, the bounds are what 99.5 % of the others keep. Paragraphs of XQuAD in German, Arabic
and Chinese keep them too, but for a few that were shortened.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.resources import files
from math import exp, log

from synth.languages.detection import script_of
from synth.languages.table import language

_WEIGHTS = {"Han": 2.6, "Kana": 1.45}
"""Characters of English to one of these."""


@cache
def table() -> dict[str, dict[str, str]]:
    """The rows of translation.tsv by code, each a mapping from column to cell."""
    lines = files(__package__).joinpath("translation.tsv").read_text(encoding="utf-8").splitlines()
    names, *rows = (line.split("\t") for line in lines)
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def _length(code: str) -> float:
    return float(table()[code]["length"]) if code in table() else 1.0


def _in_english(text: str, code: str) -> float:
    """How many characters of English a text comes to, white space left out.

    Han characters and kana have weights of their own, because Japanese mixes them as it likes; Latin letters and digits
    in another script count as in English.
    """
    own, latin = 1 / _length(code), "Latn" in language(code).scripts
    total = 0.0
    for character, count in Counter(text).items():
        script = script_of(character)
        foreign = not latin and (script == "Latn" or character.isdigit())
        total += 0 if character.isspace() else count * _WEIGHTS.get(script, 1.0 if foreign else own)
    return total


def length_ratio(text: str, code: str, translation: str, other: str) -> tuple[float, bool]:
    """Length of a translation over what is usual, and whether it lies within the bounds of a text so long.

    The bounds are 1/b and b with log b = 0.35 + 6 / n, where n is the shorter length in characters of English: 2.6 for
    10 characters, 1.5 for 100. `text` and `translation` must not be blank.
    """
    one, two = _in_english(text, code), _in_english(translation, other)
    return two / one, abs(log(two / one)) <= 0.35 + 6 / min(one, two)


def most_characters(text: str, code: str, other: str) -> int:
    """A bound with room to spare on the characters of a translation, white space included."""
    usual = _in_english(text, code)
    return round(1.3 * usual * max(_length(other), 0.6) * exp(0.35 + 6 / max(usual, 6.0))) + 24
