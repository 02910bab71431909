"""From the text of a reply to the one JSON object in it, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress

from synth.errors import UnusableReply
from synth.stage import ChatReply

MAX_DEPTH = 32
MAX_REPLY_BYTES = 1_000_000

_MAX_STARTS = 64
"""Braces tried as the beginning of an object; a reply with more is not an answer in a sentence or two of prose."""

_THOUGHTS = "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|seed:think"
_OPENED = re.compile(
    rf"<(?:{_THOUGHTS})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis", re.IGNORECASE
)
_CLOSED = re.compile(
    rf"</(?:{_THOUGHTS})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final[^<]*<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
_BLANK = re.compile(r"[\s\u200b-\u200d\u2060\ufeff]*")
_DEPTH = {"{": 1, "[": 1, "}": -1, "]": -1}
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[\]{}]', re.DOTALL)
_SOLE_VALUE = re.compile(r'\{\s*(["\'])((?:(?!\1)[^\\:]){1,40})\1\s*:\s*(["\'])')
_SOLE_END = re.compile(r"([\"'])\s*+(?:,\s*+)?\}")
_NEXT_MEMBER = re.compile(r'"\s*,\s*"[^"]{1,40}"\s*:|\'\s*,\s*\'[^\']{1,40}\'\s*:')
_TOKEN = re.compile(
    r"""'((?:[^'\\]|\\.?)*+)'? | "(?:[^"\\]|\\.?)*+"? | [{\[](?:\s*+,)? | [}\]] | ,(?=\s*[}\]])
    | \b(?:True|False|None)\b""",
    re.DOTALL | re.VERBOSE | re.ASCII,
)
"""Strings, brackets, and what the repair of an object replaces."""
_IN_JSON = {",": "", "True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\'|(\\.)|\"", re.DOTALL)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs) and (twice := [key for key, value in pairs if found[key] != value]):
        raise UnusableReply("many", f"the key {twice[0][:40]!a} has several values")
    return found


# strict=False lets raw control characters through to where they are judged by their own reason.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, object_pairs_hook=_members)


def read_object(reply: ChatReply, keys: Collection[str], *, repair: bool = True) -> tuple[dict[str, object], bool]:
    """The one object in a reply with all `keys`, or the only one, and whether it was repaired. Raises UnusableReply."""
    text = _whole_text(reply)
    _check_size(text)
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        if isinstance(value, dict):
            return value, False
        if not isinstance(value, list):
            raise UnusableReply("type", f"the reply is a JSON {type(value).__name__}, not an object")
        if len(value) > 1:
            raise UnusableReply("many", f"the reply is an array of {len(value)}")
    found = _all_objects(_without_thinking(text), repair=repair)
    fitting = [each for each in found if all(key in each[0] for key in keys)] or found
    if len(fitting) > 1:
        raise UnusableReply("many", f"the reply holds {len(fitting)} objects")
    return fitting[0]


def _whole_text(reply: ChatReply) -> str:
    text = reply.text or ""
    if reply.finish_reason == "content_filter":
        raise UnusableReply("filtered", "the server's content filter stopped the reply")
    if reply.finish_reason == "length":
        _without_thinking(text)
        if text and len("".join(text.split())) * 2 < len(text):
            raise UnusableReply("whitespace_loop", f"{len(text)} characters, mostly white space")
        raise UnusableReply("truncated", "the reply reached its token limit")
    if _BLANK.fullmatch(text):
        raise UnusableReply("empty", "the reply has no text")
    return text


def _without_thinking(text: str) -> str:
    """What follows the last end of reasoning, up to reasoning that is not closed; raises UnusableReply(think).

    The chat template may have opened the reasoning, so its end alone is enough.
    """
    answer, *unclosed = _OPENED.split(_CLOSED.split(text)[-1], maxsplit=1)
    if unclosed and _BLANK.fullmatch(answer):
        raise UnusableReply("think", "the reasoning is never closed")
    return answer


def _check_size(text: str) -> None:
    if len(text) > MAX_REPLY_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > MAX_REPLY_BYTES:
        raise UnusableReply("too_large", f"the reply has more than {MAX_REPLY_BYTES} bytes")
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += _DEPTH.get(bracket, 0)
        if depth > MAX_DEPTH:
            raise UnusableReply("too_large", f"the reply is nested deeper than {MAX_DEPTH}")


def _all_objects(text: str, *, repair: bool) -> list[tuple[dict[str, object], bool]]:
    """Every outermost object of `text`, in order; raises UnusableReply where there is none."""
    found: list[tuple[dict[str, object], bool]] = []
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
            found.append((values, False))
        except (ValueError, RecursionError) as exc:
            repaired = _repaired(text, start) if repair else None
            if repaired is not None:
                values, end = repaired
                found.append((values, True))
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
    """The object at `start` written as JSON, or one of a single string whose inner quotes have no backslash."""
    pieces, at, depth = [], start, 0
    for token in _TOKEN.finditer(text, start):
        depth += _DEPTH.get(token[0][0], 0)
        string = token[1]
        json_text = _IN_JSON.get(token[0], token[0]) if string is None else f'"{_ESCAPE.sub(_as_json, string)}"'
        pieces += [text[at : token.start()], json_text]
        at = token.end()
        if not depth or depth > MAX_DEPTH:
            break
    with suppress(ValueError):
        return _DECODER.decode("".join(pieces)), at
    opening = _SOLE_VALUE.match(text, start)
    ends = [m for m in _SOLE_END.finditer(text, opening.end()) if m[1] == opening[3]] if opening else []
    if opening is None or len(ends) != 1:  # with two possible ends, choosing one would be a guess
        return None
    body = text[opening.end() : ends[0].start()]
    if _NEXT_MEMBER.search(body):
        return None
    escaped = re.sub(r'\\.|"', lambda m: '\\"' if m[0] == '"' else m[0], body, flags=re.DOTALL)
    with suppress(ValueError):
        return {opening[2]: _DECODER.decode(f'"{escaped}"')}, ends[0].end()
    return None


def _as_json(escape: re.Match[str]) -> str:
    """An escape of a Python string, or a double quote in it, as JSON writes it."""
    if escape[1]:
        return f"\\u00{escape[1]}"
    return escape[2] or ("'" if escape[0] == "\\'" else '\\"')
