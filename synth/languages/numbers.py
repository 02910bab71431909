"""Whether two texts hold the same numbers, in any two languages, written in digits or in words.

Digits of all scripts count, decimal commas and points, groups of thousands, dates, times and Roman numerals. Words come
from num2words2, which knows 95 of the 119 languages, and from translation.tsv; they are matched up to their endings.
What cannot be told is None: a number in digits against a language whose words are unknown, a month, a time of day.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from importlib.util import find_spec

import regex

from synth.errors import JobError
from synth.languages.table import language
from synth.languages.translation import table
from synth.languages.words import fold

_DATE = r"\d{1,2}([./-])\d{1,2}\2\d{2,4}(?!\d)|\d{4}([./-])\d{1,2}\3\d{1,2}(?!\d)"
_GROUPS = r"\d{1,3}(?:(?P<sep>[ .,'’٬\u00a0\u202f])\d{3}(?:(?P=sep)\d{3})*|(?:,\d\d)+,\d{3})(?:[.,٫]\d+)?(?!\d)"
_NUMBER = re.compile(rf"(?P<date>{_DATE})|(?P<time>\d{{1,2}}:\d\d(?!\d))|(?P<groups>{_GROUPS})|\d+(?:[.,٫]\d+)*")
_WORD = regex.compile(r"[\p{L}\p{M}]+(?:['’ʼ][\p{L}\p{M}]+)*")
_ROMAN = re.compile(r"\b(?=[IVX]{2})(X{0,3})(IX|IV|V?I{0,3})(?=\W|[a-zà-ÿ]{1,3}\b|$)")
"""From two letters up to 39, with the ending of an ordinal: I, V and X are words and names too."""
_ROMAN_UNITS = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
_POWERS = {
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "萬": 10**4,
    "億": 10**8,
    "亿": 10**8,
    "천": 1000,
    "만": 10**4,
    "억": 10**8,
}
_CHINESE = str.maketrans({"两": "二", "兩": "二", "廿": "二十", "卅": "三十"})
_MONTHS, _MONTH = ("月", "월"), range(1, 13)
_CLOCK = re.compile(r"(?:1?\d|2[0-4])\.[0-5]\d")
_SPELT = (*range(2, 101), *range(200, 1000, 100), *range(1000, 10000, 1000))
"""Numbers that are looked for in words on both sides; 1 is an article in too many languages."""
_POWER_VALUES = (100, 1000, 10**6, 10**9)
_YEARS = range(1000, 2100)
_NAMES = {"nn": "no", "nb": "no", "yue": "zh", "prs": "fa", "arz": "ar", "ars": "ar", "apc": "ar", "acm": "ar"}
"""What num2words2 calls a language, where it is not the first part of the code."""
_LONG = 6
_STEM = 3
"""Letters by which forms are found; shorter ones must be equal."""
_CHANGED, _ADDED = (0, 0, 0, 0, 0, 0, 1, 1, 2), 3
"""Letters that an inflected word may lack of a form of so many letters, and have beyond it."""


@dataclass(frozen=True, slots=True)
class _Number:
    values: frozenset[Decimal]
    """What it may mean: `1.234` is two numbers, `2:30` may be half past fourteen."""
    start: int
    end: int
    firm: bool = True
    """Whether another text must have it; not so one (a), two (both, twice), a month, a time of day."""
    clock: bool = False
    """The minutes of a time of day, which words tell in many ways."""
    spoken: frozenset[Decimal] = frozenset()
    """What words may say for it: 2:30 is half past two and `halb drei`. The same as `values` for a number in words."""


def require() -> None:
    """Raises JobError where num2words2 is not installed."""
    if find_spec("num2words2") is None:
        raise JobError(
            "numbers in words need num2words2, which is not installed.", "Run `pip install 'synth[bitext]'`."
        )


def has_number(text: str, code: str) -> bool:
    """Whether a text has a number, in digits or in words that mean little else."""
    return any(map(str.isdigit, text)) or (_is(code, "clear") and any(_in_words(_plain(text), code)))


def same_numbers(one: str, code: str, other: str, other_code: str) -> bool | None:
    """Whether two texts hold the same numbers; None where that cannot be told. Codes are those of the table."""
    texts = [(_plain(one), code), (_plain(other), other_code)]
    digits = [list(_in_digits(*each)) for each in texts]
    words = [list(_in_words(*each)) for each in texts]
    _strike(digits[0], digits[1])
    for mine, theirs in ((0, 1), (1, 0)):
        _strike(digits[mine], words[theirs])
        digits[mine] = [each for each in digits[mine] if not _spelt_out(each, *texts[theirs], words[theirs])]
    _strike(words[0], words[1])
    if words[0] and words[1]:
        return False
    undecided = False
    for mine, theirs in ((0, 1), (1, 0)):
        if _is(texts[theirs][1], "found") and any(each.firm for each in words[mine]):
            return False
        for each in digits[mine]:
            if digits[theirs] or (words[theirs] and not each.clock):
                return False
            if each.firm and not _is(texts[theirs][1], "unsure") and _forms(texts[theirs][1]):
                return False
            undecided |= each.firm or bool(each.spoken)
    return None if undecided else True


def _is(code: str, what: str) -> bool:
    return what in table().get(code, {}).get("numbers", "").split()


def _plain(text: str) -> str:
    """NFC with ASCII digits."""
    text = unicodedata.normalize("NFC", text).translate(_CHINESE)
    return text if text.isascii() else "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _strike(mine: list[_Number], theirs: list[_Number]) -> None:
    """Takes out of both lists what may be the same, firm numbers before others."""
    for each in sorted(mine, key=_by_firmness):
        found = next((number for number in sorted(theirs, key=_by_firmness) if _same(each, number)), None)
        if found is not None:
            mine.remove(each)
            theirs.remove(found)


def _same(one: _Number, other: _Number) -> bool:
    words = one.values == one.spoken or other.values == other.spoken
    return not one.values.isdisjoint(other.values) or (words and not one.spoken.isdisjoint(other.spoken))


def _by_firmness(number: _Number) -> bool:
    return not number.firm


def _in_digits(text: str, code: str) -> Iterator[_Number]:
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        parts = [int(part) for part in re.findall(r"\d+", match[0])]
        if match["time"]:
            hour, minute = parts
            spoken = _decimals(*(each % 12 or 12 for each in (hour, hour + 1)))
            yield _Number(_decimals(hour, hour - 12, hour + 12), start, end, firm=False, spoken=spoken)
            if minute:
                yield _Number(_decimals(minute), start, end, firm=False, clock=True)
        elif match["date"] or (len(parts) > 2 and not match["groups"]):  # noqa: PLR2004 - such as a version, 1.2.3
            months = _MONTH if match["date"] else ()
            yield from (_Number(_decimals(part), start, end, part not in months) for part in parts)
        else:
            power = _power_after(text, end, code)
            values = _readings(match[0], match["groups"] and (match["sep"] or ","))
            firm = not text.startswith(_MONTHS, end) and values.isdisjoint((1, 2))
            yield _Number(frozenset(value * power for value in values), start, end, firm)


def _decimals(*numbers: int) -> frozenset[Decimal]:
    return frozenset(Decimal(number) for number in numbers if number >= 0)


def _readings(token: str, separator: str | None) -> set[Decimal]:
    plain = token.replace("٫", ".")
    found = set()
    if separator:
        *groups, last = plain.split(separator)
        found.add(Decimal("".join(groups) + last.replace(",", ".")))
    if not separator or (separator in ".," and len(token.split(separator)) == 2):  # noqa: PLR2004 - one point or comma
        with_point = plain.replace(",", ".")
        if with_point.count(".") == 1 or not separator:
            found.add(Decimal(with_point))
        if _CLOCK.fullmatch(plain):
            found.add(Decimal(int(Decimal(with_point))))
    return found


def _power_after(text: str, end: int, code: str) -> int:
    """The thousand or million that follows a number in digits, else 1."""
    power = 1
    while (sign := text[end : end + 1]) in _POWERS:
        power, end = power * _POWERS[sign], end + 1
    if power == 1 and (word := _WORD.match(text, end + text.startswith(" ", end))):
        folded = fold(word[0])
        near = (value for form, value in _powers(code) if len(folded) >= len(form) and _alike(folded, form))
        power = next(near, 1)
    return power


def _in_words(text: str, code: str) -> Iterator[_Number]:
    """Roman numerals, and numbers in words, the longest form at each place."""
    for match in _ROMAN.finditer(text):
        said = _decimals(10 * len(match[1]) + _ROMAN_UNITS.index(match[2]))
        yield _Number(said, *match.span(), firm=False, spoken=said)
    forms = _forms(code)
    if not forms:
        return
    if language(code).words.characters:
        pattern, values = _unspaced(code)
        for match in pattern.finditer(text):
            yield _words(match.span(), values[match[0]], code=code)
        return
    words = [(fold(match[0]), *match.span()) for match in _WORD.finditer(text)]
    at = 0
    while at < len(words):
        best, found = (0, 0), set[int]()
        for form, value in forms.get(words[at][0][:_STEM], ()):
            near = _matches(words, at, form)
            if near and (rank := (len(form), near)) >= best:
                found = {value} if rank > best else found | {value}
                best = rank
        if found:
            yield _words((words[at][1], words[at + best[0] - 1][2]), *found, code=code)
        at += max(1, best[0])


def _words(span: tuple[int, int], *values: int, code: str) -> _Number:
    said = _decimals(*values)
    return _Number(said, *span, firm=_is(code, "clear") and min(values) > 2, spoken=said)  # noqa: PLR2004 - both, twice


def _matches(words: Sequence[tuple[str, int, int]], at: int, form: Sequence[str]) -> int:
    """How many letters of a form the words from `at` on have, 0 where they are not the form."""
    if at + len(form) > len(words):
        return 0
    nearness = [_alike(words[at + n][0], part) for n, part in enumerate(form)]
    return sum(nearness) if all(nearness) else 0


def _alike(word: str, form: str) -> int:
    """Letters that an inflected word shares with a form, 0 where it is another word."""
    if word == form:
        return len(form) + 1
    common = next((n for n, (a, b) in enumerate(zip(word, form, strict=False)) if a != b), min(len(word), len(form)))
    near = common > _STEM and common >= len(form) - _CHANGED[min(len(form), 8)] and len(word) <= len(form) + _ADDED
    return common if near else 0


def _spelt_out(number: _Number, text: str, code: str, words: list[_Number]) -> bool:
    """Whether a text tells this number in words; what it told so leaves `words`."""
    for value in number.values:
        for form in _spell(value, code):
            if spans := list(_places(form, text, code)):
                words[:] = [each for each in words if not any(a < each.end and each.start < b for a, b in spans)]
                return True
    return False


def _places(form: Sequence[str], text: str, code: str) -> Iterator[tuple[int, int]]:
    """Where a number in words stands; a long single word may be part of another: `dreiundzwanzigjährig`."""
    if language(code).words.characters or (len(form) == 1 and len(form[0]) >= _LONG):
        yield from (match.span() for match in re.finditer(re.escape("".join(form)), text.casefold()))
        return
    words = [(fold(match[0]), *match.span()) for match in _WORD.finditer(text)]
    for at in range(len(words)):
        if _matches(words, at, form):
            yield words[at][1], words[at + len(form) - 1][2]


@lru_cache(maxsize=4096)
def _spell(value: Decimal, code: str) -> tuple[tuple[str, ...], ...]:
    """The words of a number as cardinal, ordinal and year, folded; empty in a language without them."""
    import num2words2  # noqa: PLC0415 - an extra

    spell: Callable[..., str] = num2words2.num2words
    name = _NAMES.get(code, code.partition("-")[0])
    whole = value == value.to_integral_value()
    kinds = ("cardinal", "ordinal", *(["year"] if value in _YEARS else [])) if whole else ("cardinal",)
    found: list[tuple[str, ...]] = [(word,) for word in fold(table().get(code, {}).get(f"{value}", "")).split()]
    for kind in kinds:
        try:
            told: str = spell(int(value) if whole else float(value), lang=name, to=kind)
        except (NotImplementedError, ValueError, OverflowError, TypeError, IndexError, KeyError):
            continue
        form = tuple(_WORD.findall(fold(told)))
        found += [form, form[-1:]] if value in _POWER_VALUES else [form]
    return tuple(form for form in dict.fromkeys(found) if form)


@cache
def _forms(code: str) -> dict[str, list[tuple[tuple[str, ...], int]]]:
    """Words of the numbers that are looked for, by their first letters."""
    found: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for value in _SPELT:
        for form in _spell(Decimal(value), code):
            found.setdefault(form[0][:_STEM], []).append((form, value))
            tens, units = (_spell(Decimal(part), code)[:1] for part in (value // 10 * 10, value % 10))
            if value < 100 and tens and units and form == ("".join(tens[0] + units[0]),):  # noqa: PLR2004 - two digits
                found.setdefault(tens[0][0][:_STEM], []).append((tens[0] + units[0], value))
    return found


@cache
def _unspaced(code: str) -> tuple[re.Pattern[str], dict[str, int]]:
    values = {"".join(form): value for forms in _forms(code).values() for form, value in reversed(forms)}
    return re.compile("|".join(map(re.escape, sorted(values, key=lambda form: -len(form))))), values


@cache
def _powers(code: str) -> tuple[tuple[str, int], ...]:
    """The word for a hundred and so on, as it stands after a number."""
    spelt = ((_spell(Decimal(2 * power), code)[:1], power) for power in _POWER_VALUES)
    return tuple((forms[0][-1], power) for forms, power in spelt if forms and len(forms[0]) > 1)
