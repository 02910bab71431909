"""Whether two texts can be translations of each other, and whether a wrong one is wrong as it should be."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa

from synth.hashing import terms
from synth.languages import code_of, detect, language, numbers
from synth.languages.translation import length_ratio
from synth.languages.words import count_characters, fold
from synth.measures import language_matches
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["BitextChecks"]

_ADDRESS = r"https?://\S+|www\.\S+|[\w.+-]+@[\w-]+\.[\w.-]+"
_CODE = r"\b[A-Za-z]+-?\d[A-Za-z0-9]*(?:-[A-Za-z0-9]+)*|\b(?=\w{4})[A-Za-z]*[a-z][A-Z]\w*"
_FIXED = re.compile(f"{_ADDRESS}|{_CODE}")
"""What no translation changes, not even between languages in Latin letters: addresses, B2B, COVID-19, iPhone."""
_LATIN = re.compile(rf"{_ADDRESS}|(?<![\dA-Za-z])(?<!\d )(?![IVXLC]+\b)[A-Za-z][A-Za-z0-9]+(?:[-'][A-Za-z0-9]+)*")
"""A word in Latin letters amid another script: a name or a term, but for Roman numerals and units after a number."""
_CAPITAL = re.compile(r"\b[^\W\d_]\w*")
_CASED = frozenset({"Latn", "Cyrl", "Grek", "Armn"})
_LEAST_SHARED = 0.4
"""Words that a wrong translation shares with the right one, as a share of the longer: with fewer it is another text."""


class BitextChecks(Scorer):
    """What a program can see of a translation: its language, length, numbers and names; no model is asked.

    `languages_ok`: the passage is in `passage_language`, the query and the wrong translation in `query_language`.
    `length_ratio`: the query's length over what is usual for the two languages; `length_ratio_ok` within the bounds
    that 99.5 % of people's translations keep. `numbers_ok`: both have the same numbers, in digits or words. `latin_ok`:
    the query has the addresses, codes and mixed-case names of the passage, and its Latin words where the rest of it is
    in another script. `wrong_ok`: the wrong translation (column `wrong`) differs from the query, in its numbers only if
    `error_type` is `number`, in a name if it is `entity`, is shorter for `omission`, longer for `addition`, and has
    otherwise much the same words. Each is null where it cannot be told.
    """

    outputs = (
        ScoreColumn("languages_ok", pa.bool_(), missing="keep"),
        ScoreColumn("length_ratio", pa.float64(), low=0.0, missing="keep", better=None),
        ScoreColumn("length_ratio_ok", pa.bool_(), missing="keep"),
        ScoreColumn("numbers_ok", pa.bool_(), missing="keep"),
        ScoreColumn("latin_ok", pa.bool_(), missing="keep"),
        ScoreColumn("wrong_ok", pa.bool_(), missing="keep"),
    )
    stem = "bitext"

    def require(self) -> None:
        numbers.require()

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Check each pair by the languages that its columns name; where they name none, by those detected."""
        texts = batch.texts("passage"), batch.texts("query"), batch.values("wrong"), batch.values("error_type")
        named = batch.values("passage_language"), batch.values("query_language")
        rows = [_checked(*row) for row in zip(*texts, *named, strict=True)]
        return self.table(*zip(*rows, strict=True)) if rows else self.table(*([] for _ in self.outputs))


Checked = tuple[bool | None, float | None, bool | None, bool | None, bool | None, bool | None]


def _checked(
    passage: str, query: str, wrong: str | None, kind: str | None, named: str | None, other_named: str | None
) -> Checked:
    named, other_named = (
        name if code_of(name) else detect(text).code for name, text in ((named, passage), (other_named, query))
    )
    spoken = [language_matches(passage, named), language_matches(query, other_named)]
    if wrong:
        spoken.append(language_matches(wrong, other_named))
    languages_ok = False if False in spoken else None if None in spoken else True
    code, other = code_of(named), code_of(other_named)
    if code is None or other is None or not count_characters(passage) or not count_characters(query):
        return languages_ok, None, None, None, None, None
    ratio, ratio_ok = length_ratio(passage, code, query, other)
    numbers_ok = numbers.same_numbers(passage, code, query, other)
    wrong_ok = _is_wrong_as_asked(query, wrong, kind, other) if wrong else None
    return languages_ok, ratio, ratio_ok, numbers_ok, _keeps_latin(passage, code, query), wrong_ok


def _keeps_latin(passage: str, code: str, query: str) -> bool:
    kept = (_FIXED if "Latn" in language(code).scripts else _LATIN).findall(passage)
    found = fold(query)
    return all(fold(each) in found for each in kept)


def _is_wrong_as_asked(right: str, wrong: str, kind: str | None, code: str) -> bool | None:
    if fold(right) == fold(wrong):
        return False
    words = [Counter(terms(text)) for text in (right, wrong)]
    if (words[0] & words[1]).total() < _LEAST_SHARED * max(each.total() for each in words):
        return False
    longer = count_characters(wrong) - count_characters(right)
    if kind in {"omission", "addition"}:
        return longer < 0 if kind == "omission" else longer > 0
    same = numbers.same_numbers(right, code, wrong, code)
    if kind == "number":
        return True if same is False else None if not numbers.has_number(right, code) else False
    if kind == "entity" and language(code).script in _CASED and _capitals(right) == _capitals(wrong):
        return False
    return same is not False


def _capitals(text: str) -> Counter[str]:
    return Counter(word for word in _CAPITAL.findall(text) if word[0].isupper())
