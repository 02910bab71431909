"""A forgiving JSON parser for what models write in good faith, and nothing wider.

Beyond JSON it reads trailing commas, single-quoted strings and the literals True, False and None. It never evaluates,
never closes what the text leaves open, and nests no deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import re

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
    """The string whose JSON text is `body`, where quotes may lack their backslash; raises MalformedError."""
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
