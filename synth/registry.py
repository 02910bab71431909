"""A plugin is a module: `find("scores", "cosine")` is the one class that synth/scores/cosine.py exports.

No table, no decorator, no registration line. A user's own class is named `pkg.module:Class`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from synth.errors import JobError
from synth.stage import Stage
from synth.validation import validate


def names(kind: str) -> list[str]:
    """Names that `use:` accepts for this kind (`llm`, `embed`, `tasks`, `scores`): its modules that export a stage."""
    package = importlib.import_module(f"synth.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(kind: str, name: str) -> type[Stage]:
    """The stage class behind `use: name`.

    Raises JobError when nothing has that name, its module cannot be imported, or it exports no single stage.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        cls = getattr(_load(module_name, name), attribute, None)
    elif name in (known := names(kind)):
        module = _load(f"synth.{kind}.{name}", name)
        exported = list(getattr(module, "__all__", ()))
        if len(exported) != 1:
            raise JobError(f"{module.__name__}: `__all__` must name exactly one class, it names {exported}.")
        cls = getattr(module, exported[0])
    else:
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else 'Your own class is written "package.module:Class".'
        raise JobError(f"nothing called {name!r} (there are: {', '.join(known)}).", hint)
    if not (isinstance(cls, type) and issubclass(cls, Stage)):
        raise JobError(f"{name!r} does not name a subclass of synth.stage.Stage.")
    return cls


def _load(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError) as exc:  # ValueError: a module without a name
        raise JobError(f"{name!r} cannot be imported: {exc}.", "Is the package installed?") from exc


def resolve(kind: str, value: object) -> object:
    """The stage that a mapping with `use` names; anything else passes through to pydantic.

    Raises ValueError with every mistake in it, as field validators do.
    """
    if not isinstance(value, Mapping):
        return value
    options = dict(value)
    use = options.pop("use", None)
    if not isinstance(use, str):
        raise ValueError(f"names no stage; add `use:`, one of {', '.join(names(kind))}")  # noqa: TRY004 - pydantic reads ValueError
    try:
        cls = find(kind, use)
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
