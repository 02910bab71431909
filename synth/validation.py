"""What pydantic finds wrong, in terms of the YAML file: path, what is wrong, how to fix it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from synth.document import KeyPath, Problem, parse_scalar
from synth.errors import JobError

Model = TypeVar("Model", bound=BaseModel)

_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_SHOWN_CHARS = 60
_UNKNOWN = "extra_forbidden"
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "finite_number": "a finite number",
}


def validate(cls: type[Model], data: Any, path: KeyPath = ()) -> tuple[Model | None, list[Problem]]:
    """The model, or every problem with its key path under `path`. Strict, as JSON: lists may become tuples."""
    try:
        return cls.model_validate_json(json.dumps(data), by_alias=True), []
    except ValidationError as exc:
        grouped: dict[KeyPath, list[Problem]] = {}
        for error in exc.errors(include_url=False):
            found = _explain(cls, data, error)
            grouped.setdefault(found.path, []).append(found)
        # Of the alternatives of a union, the one that fails further down is the one that was meant.
        above = {other[:n] for other in grouped for n in range(1, len(other))}
        deepest = [where for where in grouped if where not in above]
        return None, [_merged((*path, *where), grouped[where]) for where in deepest]


def _merged(path: KeyPath, group: Sequence[Problem]) -> Problem:
    """One problem for the alternatives of a union, which pydantic reports one by one."""
    messages = list(dict.fromkeys(problem.message for problem in group))
    cures = list(dict.fromkeys(problem.cure for problem in group if problem.cure))
    wanted = [m.removeprefix("expects ").split(", not ")[0] for m in messages if m.startswith("expects ")]
    if len(wanted) > 1 and len(wanted) == len(messages):
        tail = messages[0].split(", not ", 1)
        joined = f"expects {' or '.join(wanted)}" + (f", not {tail[1]}" if len(tail) > 1 else "")
        return Problem(path, joined, " ".join(cures))
    return Problem(path, "; or ".join(messages), " ".join(cures))


def _explain(cls: type[BaseModel], data: Any, error: Any) -> Problem:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    path = _real_path(data, error["loc"], kind)
    if kind == _UNKNOWN:
        near = get_close_matches(path[-1], _siblings(cls, error["loc"][:-1]), n=1)
        return Problem(path, "unknown key", f"Did you mean {near[0]!r}?" if near else "Remove it, or see `synth list`.")
    if kind == "missing":
        return Problem(path, "is required and not given", f"Add `{path[-1]}:`." if path else "")
    return Problem(path, *_wrong_value(kind, given, context, error["msg"]))


def _wrong_value(kind: str, given: Any, context: Mapping[str, Any], message: str) -> tuple[str, str]:
    """What is wrong with a value, and its cure."""
    if kind in _TYPES:
        return f"expects {_TYPES[kind]}, not {_shown(given)}", _cure(kind, given)
    if kind == "literal_error":
        return f"expects {context['expected']}, not {_shown(given)}", _near(context["expected"], given)
    if kind == "value_error":
        return f"{context['error']}", ""
    if kind in _BOUNDS:
        return f"{_shown(given)} is out of range", f"It must be {_BOUNDS[kind]} {next(iter(context.values()))}."
    return f"{message[:1].lower()}{message[1:]}, got {_shown(given)}", ""


def _cure(kind: str, given: Any) -> str:
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f'Put it in quotes, as "{str(given).lower()}".'
    if kind in ("float_type", "int_type", "int_from_float") and isinstance(given, str):
        try:
            return f"Write {float(given):g} without quotes."
        except ValueError:
            return ""
    if kind == "bool_type" and isinstance(given, str) and given.lower() in ("yes", "no", "on", "off"):
        return f"Write {str(given.lower() in ('yes', 'on')).lower()}."
    return ""


def _near(expected: str, given: Any) -> str:
    options = [each.strip(" '") for each in expected.replace(" or ", ", ").split(",")]
    near = get_close_matches(str(given), options, n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def _real_path(data: Any, loc: Sequence[int | str], kind: str) -> KeyPath:
    """The YAML path inside pydantic's location, which also names union members and validators."""
    path: list[str] = []
    here = data
    for n, part in enumerate(loc):
        known: Any = here if isinstance(here, dict) else dict(enumerate(here)) if isinstance(here, list) else {}
        if part in known:
            path.append(str(part))
            here = known[part]
        elif kind == "missing" and n == len(loc) - 1:
            path.append(str(part))
    return tuple(path)


def _siblings(cls: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Names of the fields that the model at `loc` has, as far as annotations lead there."""
    model: Any = cls
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) and _is_model(model) else None
        if field is not None:
            model = _inner_model(field.annotation)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()] + ["use"]


def _inner_model(annotation: Any) -> Any:
    if _is_model(annotation):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (model := _inner_model(inner)) is not None:
            return model
    return None


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def plain(value: Any) -> Any:
    """YAML's values as JSON's: keys and dates become text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[KeyPath, str]:
    """Apply `key.path=value` settings in place; returns what was written for each path, as text.

    Raises JobError when a setting has no `=`, or its path leads into a value that is not a mapping or list.
    """
    given: dict[KeyPath, str] = {}
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals or not dotted.strip():
            raise JobError(f"-s {setting}: expects key.path=value.", "For example -s corpus.path=data.jsonl")
        path = tuple(dotted.strip().split("."))
        _put(data, path, plain(parse_scalar(text, f"-s {dotted}")), setting)
        given[path] = text
    return given


def as_written(data: dict[str, Any], problems: Sequence[Problem], given: Mapping[KeyPath, str]) -> bool:
    """Put back the text of settings whose field wants text, such as `-s corpus.id=010`; True if any was."""
    wanting = [p.path for p in problems if p.path in given and "expects text" in p.message]
    for path in wanting:
        _put(data, path, given[path], ".".join(path))
    return bool(wanting)


def _put(data: dict[str, Any], path: KeyPath, value: Any, setting: str) -> None:
    here: Any = data
    for n, key in enumerate(path):
        last = n == len(path) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise JobError(f"-s {setting}: {'.'.join(path[:n])} is a list of {len(here)}; {key!r} is not in it.")
            if last:
                here[int(key)] = value
            else:
                here = here[int(key)]
        elif isinstance(here, dict):
            if last:
                here[key] = value
            else:
                if here.get(key) is None:
                    here[key] = {}
                here = here[key]
        else:
            raise JobError(f"-s {setting}: {'.'.join(path[:n])} is a single value, it has no key {key!r}.")


_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(value: object) -> object:
    """Seconds of `30m`-like text; other values pass through to pydantic. Raises ValueError on another unit."""
    return _parse(value, _DURATION, "a duration such as 90, 30s, 15m, 2h")


def parse_size(value: object) -> object:
    """Bytes of `64MB`-like text; other values pass through to pydantic. Raises ValueError on another unit."""
    parsed = _parse(value, _SIZE, "a size such as 1048576, 64MB, 2GiB")
    return round(parsed) if isinstance(parsed, float) else parsed


def _parse(value: object, units: dict[str, float] | dict[str, int], expected: str) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    if not match or match[2] not in units:
        raise ValueError(f"{value!r} is not {expected}")
    return float(match[1]) * units[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
