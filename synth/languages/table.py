"""The table: one row per language, and the many names that lead to it.

Columns of `table.tsv`: `code` BCP-47; `flores` FLORES-200 code, whose first half is ISO 639-3 and second half the
script; `name` in English, as in prompts; `also_written_in` a second script in common use; `detector` and `kin`, see
`Language`; `words`, see `WordRule`; `aliases`, separated by semicolons, in addition to those that follow from the
other columns.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.resources import files

from synth.errors import JobError

_ACCEPTED = "Any BCP-47, ISO 639 or FLORES-200 code or English name of the 119 languages is understood."
_NEAR = 0.3  # share of letters in common: 0 would answer `xx` with the first name that has an x
_REGION = re.compile(r"-(?:[a-z]{2}|\d{3})$")


@dataclass(frozen=True, slots=True)
class WordRule:
    """What one word is: text between `spaces`, or a fixed number of `letters`.

    `characters` is the mean word length in letters and combining marks of the script, 0 for spaced scripts. It is
    measured on everyday sentences: 1,000 each for Chinese, Cantonese and Japanese, 548 Thai; Khmer by the length of
    722 sentences against their English translation. Lao takes over the Thai figure, its sister script. Burmese is an
    estimate, one eighth above Khmer.
    """

    by: str
    characters: float


@dataclass(frozen=True, slots=True)
class Language:
    """One of the 119 languages. `code` is BCP-47, `name` English for prompts, `script` ISO 15924.

    `words` defines a word, so that one range of a job means the same length everywhere.
    `detector` are the labels of the language detector that count as this language: its own, a macro language's, or
    those of a standard from which the detector cannot separate it. `kin` are labels of relatives with which it is
    often confused: they prove nothing, except that near certainty in a longer text rules out a language with a
    two-letter code. A language that the detector does not know has only kin: it is never confirmed, and only
    unrelated languages rule it out.
    """

    code: str
    name: str
    script: str
    aliases: frozenset[str]
    detector: frozenset[str]
    kin: frozenset[str]
    scripts: frozenset[str]
    """All scripts it is accepted in; more than `script` for Serbian, Kazakh and a few others."""
    words: WordRule


@cache
def languages() -> tuple[Language, ...]:
    """All 119 languages in the order of Qwen3's list."""
    lines = files(__package__).joinpath("table.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(_parse(line) for line in lines[1:])


def language(name: object) -> Language:
    """The language behind a code or English name in any case; a region is ignored (`pt-BR`), a macro code answers.

    Raises JobError for anything else, naming the nearest.
    """
    if not isinstance(name, str) or not _key(name):
        raise JobError(f"{name!r} is not a language.", _ACCEPTED)
    known, key = _by_alias(), _key(name)
    while key not in known and _REGION.search(key):
        key = _REGION.sub("", key)
    if key in known:
        return known[key]
    near = get_close_matches(key, known, n=1, cutoff=_NEAR)
    guess = f"the nearest is {known[near[0]].code!r} ({known[near[0]].name})" if near else "nothing comes near"
    raise JobError(f"unknown language {name!r}; {guess}.", _ACCEPTED)


@cache
def code_of(name: str | None) -> str | None:
    """The code of a language of the table; None for `und` and what other data calls its languages."""
    try:
        return language(name).code
    except JobError:
        return None


def _parse(line: str) -> Language:
    code, flores, name, second_script, detector, kin, words, extra = line.split("\t")
    iso639_3, script = flores.split("_")
    by, _, characters = words.partition(" ")
    scripts = {"Hans": {"Han"}, "Hant": {"Han"}, "Jpan": {"Han", "Kana"}, "Hang": {"Hang", "Han"}}.get(script, {script})
    aliases = {code, flores, f"{code.partition('-')[0]}-{script}", name, *extra.split(";")} - {""}
    if iso639_3 != "zho":  # the one code that two rows share; as an alias it is in the row of Simplified Chinese
        aliases.add(iso639_3)
    return Language(
        code=code,
        name=name,
        script=script,
        aliases=frozenset(aliases),
        detector=frozenset(detector.split()),
        kin=frozenset(kin.split()),
        scripts=frozenset(scripts | set(second_script.split())),
        words=WordRule(by, float(characters or 0)),
    )


@cache
def _by_alias() -> dict[str, Language]:
    return {_key(alias): row for row in languages() for alias in row.aliases}


@lru_cache(maxsize=4096)
def _key(name: str) -> str:
    """Case, accents, apostrophes and the kind of separator make no difference: `Bokmål` and `zh_hans` are found."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c) and c not in "'’ʼ")
    return re.sub(r"[\W_]+", "-", plain.casefold()).strip("-")
