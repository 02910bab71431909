"""Options inside options: a scorer's own model, written as `{use: name, ...}` and resolved like any other stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synth import registry
from synth.errors import JobError
from synth.stage import Stage
from synth.validation import validate


def resolve(kind: str, value: object) -> object:
    """The stage that a mapping with `use` names; anything else passes through to pydantic.

    Raises ValueError with every mistake in it, as field validators do.
    """
    if not isinstance(value, Mapping):
        return value
    options = dict(value)
    use = options.pop("use", None)
    if not isinstance(use, str):
        raise ValueError(f"names no stage; add `use:`, one of {', '.join(registry.names(kind))}")  # noqa: TRY004 - pydantic reads ValueError
    try:
        cls = registry.find(kind, use)
    except JobError as exc:
        raise ValueError(str(exc)) from exc
    stage, problems = validate(cls, options)
    if problems:
        said = [f"{'.'.join(problem.path)}: {problem.message}. {problem.cure}".rstrip() for problem in problems]
        raise ValueError(" ".join(said))
    return stage


def stage_identity(stage: Stage) -> dict[str, Any]:
    """What a nested stage adds to the identity of the one around it: which class, and its options that matter."""
    cls = type(stage)
    return {"use": f"{cls.__module__}:{cls.__qualname__}"} | stage.identity()
