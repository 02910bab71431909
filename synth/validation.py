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
    cures = " ".join(dict.fromkeys(problem.cure for problem in group if problem.cure))
    wanted = [m.removeprefix("expects ").split(", not ")[0] for m in messages if m.startswith("expects ")]
    if 1 < len(wanted) == len(messages):
        _, negated, given = messages[0].partition(", not ")
        return Problem(path, f"expects {' or '.join(wanted)}{negated}{given}", cures)
    return Problem(path, "; or ".join(messages), cures)


def _explain(cls: type[BaseModel], data: Any, error: Any) -> Problem:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    path = _real_path(data, error["loc"], kind)
    what, cure = f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {_shown(given)}", ""
    if kind == "extra_forbidden":
        near = get_close_matches(path[-1], _siblings(cls, error["loc"][:-1]), n=1)
        what, cure = "unknown key", f"Did you mean {near[0]!r}?" if near else "Remove it, or see `synth list`."
    elif kind == "missing":
        what, cure = "is required and not given", f"Add `{path[-1]}:`." if path else ""
    elif kind in _TYPES:
        what, cure = f"expects {_TYPES[kind]}, not {_shown(given)}", _cure(kind, given)
    elif kind == "literal_error":
        options = [each.strip(" '") for each in context["expected"].replace(" or ", ", ").split(",")]
        near = get_close_matches(str(given), options, n=1)
        what = f"expects {context['expected']}, not {_shown(given)}"
        cure = f"Did you mean {near[0]!r}?" if near else ""
    elif kind == "value_error":
        what = f"{context['error']}"
    elif kind in _BOUNDS:
        what = f"{_shown(given)} is out of range"
        cure = f"It must be {_BOUNDS[kind]} {next(iter(context.values()))}."
    return Problem(path, what, cure)


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
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            model = _inner_model(field.annotation)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()] + ["use"]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, getattr(annotation, "__args__", ()))), None)


def plain(value: Any) -> Any:
    """YAML's values as JSON's: keys and dates become text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[KeyPath, str]:
    """Apply `key.path=value` settings in place; returns the text of each by its path. Raises JobError."""
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
        place: Any = key
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise JobError(f"-s {setting}: {'.'.join(path[:n])} is a list of {len(here)}; {key!r} is not in it.")
            place = int(key)
        elif not isinstance(here, dict):
            raise JobError(f"-s {setting}: {'.'.join(path[:n])} is a single value, it has no key {key!r}.")
        if n == len(path) - 1:
            here[place] = value
        elif isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here = here[place]


_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _parse(value: object, units: Mapping[str, float], expected: str) -> object:
    """A number of base units; what is not text passes through to pydantic. Raises ValueError on another unit."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    if not match or match[2] not in units:
        raise ValueError(f"{value!r} is not {expected}")
    return float(match[1]) * units[match[2]]


def parse_duration(value: object) -> object:
    """Seconds of `30m`-like text; other values pass through to pydantic. Raises ValueError on another unit."""
    return _parse(value, _DURATION, "a duration such as 90, 30s, 15m, 2h")


def _parse_size(value: object) -> object:
    parsed = _parse(value, _SIZE, "a size such as 1048576, 64MB, 2GiB")
    return round(parsed) if isinstance(parsed, float) else parsed


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(_parse_size), Field(gt=0)]
