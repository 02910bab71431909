"""How many words a text has, in every script, and how to ask a model for a number of them."""

from __future__ import annotations

import re
from functools import cache
from math import ceil
from typing import Any

from synth.languages.table import Language, language

_HAN_KANA = (
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # 々〇, kana without the middle dot
    "\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Han, half-width kana, rare Han
)
_THAI = "\u0e01-\u0e3a\u0e40-\u0e4e"
_LETTERS = {
    "lo": "\u0e81-\u0ecf\u0edc-\u0edf",
    "km": "\u1780-\u17d3\u17dd",
    "my": "\u1000-\u103f\u1050-\u109f\ua9e0-\ua9ef\uaa60-\uaa7f",
}
_UNSPACED = re.compile(
    f"(?P<han>[{_HAN_KANA}]+)|(?P<th>[{_THAI}]+)|"
    + "|".join(f"(?P<{code}>[{chars}]+)" for code, chars in _LETTERS.items())
)
_BREAK = re.compile(r"[\s\u200b—…]+")
_ALNUM = re.compile(r"[^\W_]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_PARTICLE = re.compile(r"[^\u3041-\u309f][\u3041-\u309f]+$")
_PARSERS = {"ja": "japanese", "zh-Hans": "simplified_chinese", "zh-Hant": "traditional_chinese", "th": "thai"}
_CHARACTERS = {"Hans": "Chinese", "Hant": "Chinese", "Mymr": "Burmese"}


def count_words(text: str, code: str) -> int:
    """Number of words in a text written in the language `code`, any name that `language` knows.

    Spaced scripts: runs between spaces (or a dash or an ellipsis) with at least one letter or digit, so punctuation and
    emojis count nothing and `well-known` is one. Chinese and Thai: segments of BudouX. Japanese: its phrases, and one
    more where a phrase ends in kana after kanji or katakana, since those are particles and endings. Lao, Khmer,
    Burmese: letters and marks divided by the row's figure, rounded up. Each stretch of a mixed text is counted by its
    own script's rule; `code` only chooses between the segmenters for Han characters.
    """
    row = language(code)
    count = 0
    letters = dict.fromkeys(_LETTERS, 0)
    for match in _UNSPACED.finditer(text):
        kind, run = str(match.lastgroup), match[0]
        if kind in letters:
            letters[kind] += len(run)
        elif kind == "th":
            count += len(_parser("th").parse(run))
        elif row.code == "ja" or _KANA.search(run):
            phrases = _parser("ja").parse(run)
            count += len(phrases) + sum(1 for phrase in phrases if _PARTICLE.search(phrase))
        else:
            count += len(_parser("zh-Hant" if row.script == "Hant" else "zh-Hans").parse(run))
    count += sum(ceil(n / language(script).words.characters) for script, n in letters.items() if n)
    spaced = _UNSPACED.sub(" ", text)
    return count + sum(1 for token in _BREAK.split(spaced) if _ALNUM.search(token))


def length_phrase(row: Language, low: int, high: int) -> str:
    """A length range in words as a model can follow it: `8 to 24 words`, with characters where spaces part no words."""
    words = _range(low, high) + (" word" if high == 1 else " words")
    if row.words.by == "spaces":
        return words
    name = _CHARACTERS.get(row.script, row.name)
    characters = _range(max(1, round(low * row.words.characters)), max(1, round(high * row.words.characters)))
    return f"about {words} (roughly {characters} {name} characters)"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


@cache
def _parser(code: str) -> Any:
    import budoux  # noqa: PLC0415 - loads its models, and most jobs never need it

    return getattr(budoux, f"load_default_{_PARSERS[code]}_parser")()
