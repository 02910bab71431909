"""What the extractive backend knows of a language: its stop words, cues and question frames, from one JSON file each.

A frame holds `{a}`, the topic, and perhaps `{b}`, a list of details; frames of a type run from plain to learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from synth.languages import language

_NEAREST = {
    "acm": "ar",
    "acq": "ar",
    "aeb": "ar",
    "apc": "ar",
    "ars": "ar",
    "ary": "ar",
    "arz": "ar",
    "yue": "zh-Hant",
}
"""Languages that share another's function words well enough to find key phrases, but not its question frames."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One language's words; every field may be empty, then phrases and queries are plainer.

    `breaks` matches words that end a phrase (verb forms, adverbs); `connectors` may stand inside one (`of`, `de`),
    `articles` before one; where there are `introducers`, a phrase in small letters follows one of them, an article or a
    connector. A small word after one of `verb_after` is a verb, and so is one after a noun that ends in one of the
    letters `plural` while it does not; a word that matches `adjective` cannot be
    the noun of a phrase, which stands on the side `head`. A phrase that occurs once matches `shape`. `and_prefix` is an
    `and` written together with its word, unless the word is one of `rooted`. `definition` and
    `explanation` are cues for stage one. `frames` maps a question type to its frames.
    """

    code: str
    script: str
    stop: frozenset[str]
    breaks: re.Pattern[str] | None
    connectors: frozenset[str]
    articles: frozenset[str]
    introducers: frozenset[str]
    verb_after: frozenset[str]
    plural: str
    adjective: re.Pattern[str] | None
    shape: re.Pattern[str] | None
    and_prefix: str
    rooted: frozenset[str]
    head: Literal["first", "last"]
    nouns_capital: bool
    comma: str
    conjunction: str
    definition: re.Pattern[str] | None
    explanation: re.Pattern[str] | None
    frames: Mapping[str, tuple[str, ...]]


@cache
def wording(code: str) -> Wording:
    """The wording of a language by its BCP-47 code; `und` and languages without a file get one that knows nothing."""
    own = _read(code)
    entry = own or _read(_NEAREST.get(code, "")) or {}
    return Wording(
        code=code,
        script="Zyyy" if code == "und" else language(code).script,
        stop=frozenset(entry.get("stop", "").split()),
        breaks=_pattern(entry.get("breaks")),
        connectors=frozenset(entry.get("connectors", "").split()),
        articles=frozenset(entry.get("articles", "").split()),
        introducers=frozenset(entry.get("introducers", "").split()),
        verb_after=frozenset(entry.get("verb_after", "").split()),
        plural=entry.get("plural", ""),
        adjective=re.compile(entry["adjective"]) if "adjective" in entry else None,
        shape=re.compile(entry["shape"]) if "shape" in entry else None,
        and_prefix=entry.get("and_prefix", ""),
        rooted=frozenset(entry.get("rooted", "").split()),
        head="first" if entry.get("head") == "first" else "last",
        nouns_capital=bool(entry.get("nouns_capital")),
        comma=entry.get("comma", ", "),
        conjunction=entry.get("conjunction", ", ") if own else " ",
        definition=_pattern(entry.get("definition")),
        explanation=_pattern(entry.get("explanation")),
        frames={kind: tuple(frames) for kind, frames in own.get("frames", {}).items()} if own else {},
    )


def _pattern(source: str | None) -> re.Pattern[str] | None:
    return re.compile(source, re.IGNORECASE) if source else None


def _read(code: str) -> Any:
    """The JSON object of a language's file, or None where there is none."""
    path = files(__package__).joinpath("wordings", f"{code}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
