"""From the text of a reply to the one JSON object in it, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from synth.errors import UnusableReply

MAX_DEPTH = 32

_STRINGS = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?(?:[eE][+-]?\d{1,3})?(?![\w.])", re.ASCII)
_LITERAL = re.compile(r"(?:true|True|false|False|null|None)(?!\w)")
_LITERALS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*+)'", re.DOTALL)
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\'|(\\.)|\"", re.DOTALL)


class MalformedError(ValueError):
    """The text at this place is not even tolerable JSON."""


def parse_object(text: str, start: int) -> tuple[dict[str, object], int]:
    """The object that begins with the brace at `start`, and the index after it; raises MalformedError."""
    value, end = _value(text, start, 1)
    if not isinstance(value, dict):
        raise MalformedError("no object here")
    return value, end


def unquote(body: str) -> str:
    """The string whose JSON text is `body`, where quotes may have no backslash; raises MalformedError."""
    escaped = re.sub(r'\\.|"', lambda m: '\\"' if m[0] == '"' else m[0], body, flags=re.DOTALL)
    return _double(f'"{escaped}"', 0)[0]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    if depth > MAX_DEPTH:
        raise MalformedError("nested too deep")
    match text[at : at + 1]:
        case "{":
            return _object(text, at, depth)
        case "[":
            return _array(text, at, depth)
        case '"' | "'":
            return _string(text, at)
    if literal := _LITERAL.match(text, at):
        return _LITERALS[literal[0]], literal.end()
    if number := _NUMBER.match(text, at):
        return float(number[0]), number.end()
    raise MalformedError("no value here")


def _object(text: str, at: int, depth: int) -> tuple[dict[str, object], int]:
    found: dict[str, object] = {}
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _string(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise MalformedError("no colon after a key")
        found[key], at = _value(text, _skip(text, at + 1), depth + 1)
        at = _separator(text, at, "}")
    return found, at + 1


def _array(text: str, at: int, depth: int) -> tuple[list[object], int]:
    found: list[object] = []
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        item, at = _value(text, at, depth + 1)
        found.append(item)
        at = _separator(text, at, "]")
    return found, at + 1


def _separator(text: str, at: int, closing: str) -> int:
    """Index of the next member or of `closing`, over one comma, which may stand before `closing` too."""
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise MalformedError("neither comma nor end")
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] == '"':
        return _double(text, at)
    single = _SINGLE.match(text, at)
    if single is None:
        raise MalformedError("no string here")
    return _double(f'"{_ESCAPE.sub(_as_json, single[1])}"', 0)[0], single.end()


def _double(text: str, at: int) -> tuple[str, int]:
    try:
        value, end = _STRINGS.raw_decode(text, at)
    except json.JSONDecodeError as exc:
        raise MalformedError(exc.msg) from exc
    return str(value), end


def _as_json(escape: re.Match[str]) -> str:
    if escape[1]:
        return f"\\u00{escape[1]}"
    return escape[2] or ("'" if escape[0] == "\\'" else '\\"')


MAX_REPLY_BYTES = 1_000_000

_MAX_STARTS = 64
"""Braces tried as the beginning of an object; a reply with more is not an answer in a sentence or two of prose."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[\]{}]', re.DOTALL)
_SOLE_VALUE = re.compile(r'\{\s*(["\'])((?:(?!\1)[^\\:]){1,40})\1\s*:\s*(["\'])')
_SOLE_END = re.compile(r"([\"'])\s*+(?:,\s*+)?\}")
_NEXT_MEMBER = re.compile(r'"\s*,\s*"[^"]{1,40}"\s*:|\'\s*,\s*\'[^\']{1,40}\'\s*:')


@dataclass(frozen=True, slots=True)
class Found:
    """One object in a reply; `repaired` when only the tolerant parser could read it."""

    values: dict[str, object]
    repaired: bool


Chooser = Callable[[dict[str, object]], bool]


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# strict=False lets raw control characters through to where they are judged by their own reason.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def read_object(text: str, has_keys: Chooser, *, repair: bool) -> Found:
    """The one object in `text` that `has_keys`, or the only object there is.

    Raises UnusableReply: too_large, think, many, type, refusal, truncated, json.
    """
    _check_size(text)
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        value = None
    else:
        if isinstance(value, dict):
            return Found(value, repaired=False)
        if not isinstance(value, list):
            raise UnusableReply("type", f"the reply is a JSON {type(value).__name__}, not an object")
        if len(value) > 1:
            raise UnusableReply("many", f"the reply is an array of {len(value)}")
    found = _all_objects(without_thinking(text), repair=repair)
    fitting = [candidate for candidate in found if has_keys(candidate.values)] or found
    if len(fitting) > 1:
        raise UnusableReply("many", f"the reply holds {len(fitting)} objects")
    return fitting[0]


def without_thinking(text: str) -> str:
    """`text` after its reasoning; raises UnusableReply(think) where that is never closed."""
    rest = text.lstrip()
    while rest.startswith("<think>"):
        _, closed, rest = rest.partition("</think>")
        if not closed:
            raise UnusableReply("think", "the reasoning is never closed")
        rest = rest.lstrip()
    if "</think>" in rest:  # chat templates may have opened it in the prompt
        answer = rest.rpartition("</think>")[2].lstrip()
        rest = answer if answer.startswith(("{", "```")) else rest
    return rest


def _check_size(text: str) -> None:
    if len(text) > MAX_REPLY_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > MAX_REPLY_BYTES:
        raise UnusableReply("too_large", f"the reply has more than {MAX_REPLY_BYTES} bytes")
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(bracket, 0)
        if depth > MAX_DEPTH:
            raise UnusableReply("too_large", f"the reply is nested deeper than {MAX_DEPTH}")


def _all_objects(text: str, *, repair: bool) -> list[Found]:
    """Every outermost object of `text`, in order; raises UnusableReply where there is none."""
    found: list[Found] = []
    start = text.find("{")
    if not text.strip():
        raise UnusableReply("empty", "there is reasoning and no answer")
    if start < 0:
        reason = "json" if "[" in text else "refusal"
        raise UnusableReply(reason, f"no JSON object in {text[:80]!r}")
    problem = ""
    for _ in range(_MAX_STARTS):
        if start < 0:
            break
        try:
            values, end = _DECODER.raw_decode(text, start)
            found.append(Found(values, repaired=False))
        except (ValueError, RecursionError) as exc:
            repaired = _repaired(text, start) if repair else None
            if repaired is not None:
                values, end = repaired
                found.append(Found(values, repaired=True))
            elif _cut_off(text, start, exc):
                if found:
                    break
                raise UnusableReply("truncated", "the object is never closed") from exc
            else:
                # What could be read belongs to the broken object: an object inside it is not the answer.
                problem = problem or str(exc)
                end = max(start + 1, getattr(exc, "pos", 0))
        start = text.find("{", end)
    if not found:
        raise UnusableReply("json", problem)
    return found


def _cut_off(text: str, start: int, exc: Exception) -> bool:
    if "}" not in text[start:]:
        return True
    if not isinstance(exc, json.JSONDecodeError):
        return False
    return exc.msg.startswith("Unterminated string") or exc.pos >= len(text.rstrip(" \t\r\n`"))


def _repaired(text: str, start: int) -> tuple[dict[str, object], int] | None:
    """The object at `start` by the tolerant parser, or one of a single string whose inner quotes have no backslash."""
    with suppress(MalformedError):
        return parse_object(text, start)
    opening = _SOLE_VALUE.match(text, start)
    ends = [m for m in _SOLE_END.finditer(text, opening.end()) if m[1] == opening[3]] if opening else []
    if opening is None or len(ends) != 1:  # with two possible ends, choosing one would be a guess
        return None
    body = text[opening.end() : ends[0].start()]
    if _NEXT_MEMBER.search(body):
        return None
    with suppress(MalformedError):
        return {opening[2]: unquote(body)}, ends[0].end()
    return None
