"""From the text of a reply to the one JSON object in it, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from synth.errors import UnusableReply
from synth.replies.tolerant import MAX_DEPTH, MalformedError, parse_object, unquote

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
    return _only(_all_objects(without_thinking(text), repair=repair), has_keys)


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


def _only(found: list[Found], has_keys: Chooser) -> Found:
    fitting = [candidate for candidate in found if has_keys(candidate.values)]
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1 or len(found) > 1:
        raise UnusableReply("many", f"the reply holds {max(len(fitting), len(found))} objects")
    return found[0]


def _all_objects(text: str, *, repair: bool) -> list[Found]:
    """Every outermost object of `text`, in order; raises UnusableReply where there is none."""
    found: list[Found] = []
    start = text.find("{")
    if not text.strip():
        raise UnusableReply("empty", "there is reasoning and no answer")
    if start < 0:
        reason = "json" if "[" in text else "refusal"
        raise UnusableReply(reason, f"there is no JSON object in {text[:80]!r}")
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
    try:
        return parse_object(text, start)
    except MalformedError:
        pass
    try:
        return _sole_value(text, start)
    except MalformedError:
        return None


def _sole_value(text: str, start: int) -> tuple[dict[str, object], int] | None:
    """An object of one string whose inner quotes lack their backslash: from its first to its last quote."""
    opening = _SOLE_VALUE.match(text, start)
    ends = [m for m in _SOLE_END.finditer(text, opening.end()) if m[1] == opening[3]] if opening else []
    if opening is None or len(ends) != 1:  # with two possible ends, choosing one would be a guess
        return None
    body = text[opening.end() : ends[0].start()]
    if _NEXT_MEMBER.search(body):
        return None
    return {opening[2]: unquote(body)}, ends[0].end()
