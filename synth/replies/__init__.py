"""From the text of a reply to a usable value, or to UnusableReply with one of the `REASONS`.

Accepted without repair: code fences, closed reasoning, prose around one object, further keys, values that differ in
case, space or hyphen only. Repairs (marked, and refused where `repair` is False): trailing commas, single quotes,
Python literals, unescaped quotes in a sole value, keys that differ in case, `Query` in another language, the
object under one other key. Nothing else is guessed: text before the end of reasoning is not the answer, and the value
of an unknown key is not the query. Whether a usable query is good (language, length, copying) is the scorers' business.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from synth.errors import UnusableReply
from synth.languages.words import fold, quoted
from synth.replies.objects import read_object
from synth.stage import NONE, ChatReply, ConfigInputs, QueryInputs, letters
from synth.types import QueryConfig

__all__ = ["REASONS", "RETRYABLE", "echo_keys", "read_answer", "read_config", "read_fields", "read_query", "read_text"]

REASONS: Mapping[str, str] = {
    "character": "Character is none of the candidates",
    "control": "a control character, NUL or terminal escape in the query",
    "duplicate": "a configuration or query that this passage already has",
    "echo": "text of a worked example, or a placeholder such as <query>",
    "empty": "no text, or nothing in it that could be searched for",
    "enum": "Question_Type or Difficulty is none of the values offered",
    "answer": "the words quoted as the answer are not in the passage as they stand, or fill all their room",
    "exhausted": "the model says that nothing is left to ask of the passage; its further queries are not asked for",
    "filtered": "the server's content filter stopped the reply; asking again gives the same, so it is not retried",
    "json": "no readable JSON object, or one that only a repair could read and `llm.repair` is false",
    "key": "the object lacks a key that was asked for",
    "many": "several objects, or several values for a key, where one was asked for",
    "refusal": "prose without JSON, or a refusal written into the query",
    "repetition": "the query says the same words over and over",
    "run_on": "the query is more than twice as long as asked, or fills all the room that it has",
    "seed": "one of the user's own queries, which were shown for their manner only",
    "surrogate": "half a character (a lone UTF-16 surrogate), which no file can store",
    "think": "reasoning that is never closed",
    "too_large": "more than 1 MB, or nested deeper than 32",
    "truncated": "the reply ends before its object does; never repaired",
    "type": "a value of the wrong JSON type",
    "whitespace_loop": "the reply ran to its limit in white space",
}
"""Why a reply cannot be used: code and meaning."""

RETRYABLE = frozenset(REASONS) - {"exhausted", "filtered"}
"""Reasons after which asking again may help."""

_SHOWN_CHARS = 100
_LOOSE = re.compile(r"[\s_\-\u2010-\u2015\u200b]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_SPACE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Those that no passage has as white space."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"[<\[{(]+[^<>\[\]{}()]*\bquery\b[^<>\[\]{}()]*[>\]})]+|\.{3}|…|query|string", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?:(?:i am|i['’]m) (?:very )?sorry,? (?:but )?i (?:can(?:no|['’])t|am (?:not able|unable))"
    r"|i (?:can(?:no|['’])t|am unable to) (?:assist|help|comply|fulfil|provide)"
    r"|as an ai\b|(?:很?抱歉|对不起)[，,]?我(?:无法|不能)"
    r"|lo siento,? (?:pero )?no puedo|désolé,? (?:mais )?je ne peux pas|es tut mir leid,? (?:aber )?ich kann)",
    re.IGNORECASE,
)
_ECHO_CHARS = 12
"""Shorter texts may well coincide with a part of a worked example."""
_OBJECT = re.compile(r"\{\s*[\"']query[\"']\s*:.*\}", re.IGNORECASE | re.DOTALL)
_REFUSED = frozenset({"error", "refusal"})
_TRANSLATED = (
    *("consulta", "abfrage", "anfrage", "suchanfrage", "requête", "zapytanie", "dotaz", "sorgu", "truyvấn", "kueri"),
    *("запрос", "запит", "ερώτημα", "שאילתה", "استعلام", "پرسوجو", "प्रश्न", "প্রশ্ন", "คำค้นหา", "คำค้น"),
    *("查询", "查詢", "クエリ", "検索クエリ", "쿼리", "질의", "검색어"),
)
"""What a model that answers in the language of the query may call the key."""
_LETTER = re.compile(r"[\W_]*([A-Za-z]{1,2})(?:[\W_]*|[.:)\]]\s*(.+))", re.DOTALL)


def read_config(reply: ChatReply, inputs: ConfigInputs, *, repair: bool) -> tuple[QueryConfig, bool]:
    """Stage one's choice, and whether the reply needed a repair; raises UnusableReply.

    A Character is named by its letter or by its sentence, or `none`; values come back as they were offered. A key with
    a single choice may be missing.
    """
    offered = {key: choices for key, choices in inputs.offered.items() if choices}
    asked = [key for key, choices in offered.items() if len(choices) > 1]
    found, repaired = read_object(reply, asked, repair=repair)
    values, renamed = _named(found, asked, repair=repair)
    chosen = {
        key: _offered(key, values[key], choices) if key in values else choices[0] for key, choices in offered.items()
    }
    if inputs.may_end and chosen["Question_Type"] == NONE:
        raise UnusableReply("exhausted", "nothing is left to ask of the passage")
    character = chosen.get("Character")
    config = QueryConfig(None if character == NONE else character, chosen["Question_Type"], chosen.get("Difficulty"))
    if config in inputs.used:
        raise UnusableReply("duplicate", "this configuration is already used for the passage")
    return config, repaired or renamed


def read_query(reply: ChatReply, inputs: QueryInputs, *, repair: bool, echoes: Collection[str]) -> tuple[str, bool]:
    """Stage two's query, stripped of outer white space only, and whether it needed a repair; raises UnusableReply.

    `echoes` are the `echo_keys` of the worked examples' queries and passages.
    """
    query, repaired = _string(reply, "Query", repair=repair)
    _require_new("query", query, echoes, inputs.written)
    return query, repaired


def read_answer(reply: ChatReply, passage: str, *, repair: bool, room: int) -> tuple[str, bool]:
    """The stretch of the passage that the reply quotes, in the passage's characters, and whether it needed a repair.

    Raises UnusableReply for a quote that is not there, and for one of `room` characters, which was cut off.
    """
    quote, repaired = _string(reply, "Answer", repair=repair, control=_NOT_SPACE)
    found = quoted(passage, quote)
    if found is None or len(quote) >= room:
        why = "is not in the passage" if found is None else "was cut off"
        raise UnusableReply("answer", f"{_clip(quote)} {why}")
    return found, repaired


def read_fields(
    reply: ChatReply,
    fields: Mapping[str, Sequence[str] | None],
    *,
    repair: bool,
    echoes: Collection[str] = (),
    written: Sequence[str] = (),
) -> tuple[dict[str, str], bool]:
    """The value of every key of the object in a reply, and whether it needed a repair; raises UnusableReply.

    A key with choices has one of them. One with None has a text, perhaps of several lines. It equals none of the others
    and of `written`, and repeats nothing of `echoes` (the `echo_keys` of the worked examples' texts).
    """
    found, repaired = read_object(reply, fields, repair=repair)
    values, renamed = _named(found, fields, repair=repair)
    read: dict[str, str] = {}
    texts = [*written]
    for key, choices in fields.items():
        if choices is not None:
            read[key] = _offered(key, values[key], choices)
        else:
            read[key] = _text(key, values[key], _NOT_SPACE)
            _require_new(key, read[key], echoes, texts)
            texts.append(read[key])
    return read, repaired or renamed


def _require_new(what: str, text: str, echoes: Collection[str], written: Sequence[str]) -> None:
    """Raises UnusableReply where a text is a refusal, says nothing, or says what is there already."""
    if _REFUSAL.match(text):
        raise UnusableReply("refusal", f"the {what} is {_clip(text)}")
    (key,) = echo_keys([text])
    if _PLACEHOLDER.fullmatch(text) or _echoes(key, echoes):
        raise UnusableReply("echo", f"the {what} repeats the prompt: {_clip(text)}")
    if _repeats(key):
        raise UnusableReply("repetition", f"the {what} repeats itself: {_clip(text)}")
    if not any(map(str.isalnum, text)):
        raise UnusableReply("empty", f"no word in {_clip(text)}")
    if written and key in echo_keys(written):
        raise UnusableReply("duplicate", f"this {what} is already written for the passage")


def read_text(reply: ChatReply, key: str, *, repair: bool = True) -> tuple[str, bool]:
    """The text under `key` of the object in a reply, and whether it needed a repair; raises UnusableReply."""
    text, repaired = _string(reply, key, repair=repair)
    if not text:
        raise UnusableReply("empty", f"{key} has no text")
    return text, repaired


def _string(reply: ChatReply, key: str, *, repair: bool, control: re.Pattern[str] = _CONTROL) -> tuple[str, bool]:
    """The string under `key`, stripped, and whether the reply needed a repair."""
    found, repaired = read_object(reply, (key,), repair=repair)
    values, renamed = _named(found, (key,), repair=repair)
    return _text(key, values[key], control), repaired or renamed


def _text(key: str, value: object, control: re.Pattern[str] = _CONTROL) -> str:
    """A value as a text, stripped. Raises UnusableReply for another type, and for characters that no file holds."""
    if value is None:
        raise UnusableReply("empty", f"{key} is null")
    if not isinstance(value, str):
        raise UnusableReply("type", f"{key} is a {type(value).__name__}, not a string")
    text = value.strip()
    if bad := _SURROGATE.search(text):
        raise UnusableReply("surrogate", f"character {bad.start()} is a lone surrogate")
    if bad := control.search(text):
        raise UnusableReply("control", f"character {bad.start()} is U+{ord(bad[0]):04X}")
    if _OBJECT.fullmatch(text):
        raise UnusableReply("type", f"{key} is JSON in a string: {_clip(text)}")
    return text


def echo_keys(queries: Iterable[str]) -> frozenset[str]:
    """What `read_query` compares texts by: folded, without marks at the end."""
    return frozenset(fold(query).rstrip("?.!？。！ ") for query in queries)


def _echoes(key: str, echoes: Collection[str]) -> bool:
    """Whether a query is one of these texts, a part of one, or has one in it."""
    if key in echoes:
        return True
    return len(key) >= _ECHO_CHARS and any(key in each or (len(each) >= _ECHO_CHARS and each in key) for each in echoes)


def _repeats(key: str) -> bool:
    """Whether the same words come four times in a row, or four or more words (eight characters) twice in a row."""
    words = key.split()
    spaced = len(words) > 2  # noqa: PLR2004 - else a script without spaces, or too short to tell
    parts, least, long = (words[:400], 1, 4) if spaced else (list(key[:400]), 2, 8)
    if len(set(parts)) == len(parts):
        return False
    for size in range(least, len(parts) // 2 + 1):
        run, most = 0, size if size >= long else 3 * size
        for one, other in zip(parts, parts[size:], strict=False):
            run = run + 1 if one == other else 0
            if run >= most:
                return True
    return False


def _named(values: dict[str, object], keys: Collection[str], *, repair: bool) -> tuple[dict[str, object], bool]:
    """The value of each of `keys`, and whether one differs in case, space or hyphen or lies in the object of a key."""
    named = _values(values, keys)
    if not named:
        inner = (_values(each, keys) for each in values.values() if isinstance(each, dict))
        nested = [each for each in inner if each]
        if len(nested) > 1:
            raise UnusableReply("many", f"{len(nested)} of the objects in the reply have {', '.join(nested[0])}")
        named = nested[0] if nested else named
    same = all(key in values for key in keys)
    missing = [key for key in keys if key not in (named if repair else values)]
    if missing:
        reason = "refusal" if not _REFUSED.isdisjoint(values) else "key"
        raise UnusableReply(reason, f"no {missing[0]} among the keys {_clip(list(values))}")
    return named, not same


def _values(values: Mapping[str, object], keys: Collection[str]) -> dict[str, object]:
    """Those of `keys` that are there, up to case, space and hyphen; raises UnusableReply where two values differ."""
    wanted, found = {_fold(key): key for key in keys}, dict[str, object]()
    if "Query" in keys:
        wanted |= dict.fromkeys(_TRANSLATED, "Query")
    for name, value in values.items():
        key = wanted.get(_fold(name))
        if key is not None and found.setdefault(key, value) != value:
            raise UnusableReply("many", f"{key} has several values")
    return found


def _fold(text: str) -> str:
    return _LOOSE.sub("", fold(text))


def _offered(key: str, value: object, choices: Sequence[str]) -> str:
    """The one of `choices` that `value` names, up to case, space and hyphen."""
    if not isinstance(value, str):
        raise UnusableReply("type", f"{key} is a {type(value).__name__}, not a string")
    if value in choices:
        return value
    names = letters(len(choices) - 1)  # the last one is `none`
    if key == "Character" and value in names:
        return choices[names.index(value)]
    folded = _fold(value)
    near = {choice for choice in choices if _fold(choice) == folded}
    if len(near) == 1:
        return near.pop()
    if key == "Character":
        # `B`, `(b)` or `B. its sentence`
        match = _LETTER.fullmatch(value)
        named = dict(zip(names, choices, strict=False)).get(match[1].upper()) if match else None
        if match and named is not None and (not match[2] or _fold(match[2]) == _fold(named)):
            return named
        raise UnusableReply("character", f"{_clip(value)} is not one of the {len(names)} candidates")
    raise UnusableReply("enum", f"{key} is {_clip(value)}; allowed: {', '.join(choices)}")


def _clip(value: object) -> str:
    shown = ascii(value) if isinstance(value, list) else repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else shown[: _SHOWN_CHARS - 1] + "…"
