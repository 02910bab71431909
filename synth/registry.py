"""A plugin is a module: `find("scores", "cosine")` is the one class that synth/scores/cosine.py exports.

No table, no decorator, no registration line. A user's own class is named `pkg.module:Class`; its module may lie in the
folder of the job file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from types import ModuleType
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from synth.document import KeyPath, Problem
from synth.errors import JobError
from synth.stage import EmbedStage, LlmStage, RerankStage, Stage, name_of
from synth.validation import validate

_BASES: Mapping[str, type[Stage]] = {"llm": LlmStage, "embed": EmbedStage, "rerank": RerankStage}


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names that `use:` accepts for this kind (`llm`, `embed`, `tasks`, `scores`): its modules that export a stage."""
    package = importlib.import_module(f"synth.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def find(kind: str, name: str, base: type[Stage] | None = None) -> type[Stage]:
    """The stage class behind `use: name`, a subclass of `base`. Raises JobError when it does not exist."""
    base = base or _BASES.get(kind, Stage)
    known: Sequence[str] = names(kind)
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        module = _load(module_name, name)
        cls = getattr(module, attribute, None)
        own = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)]
        package = module_name.partition(".")[0]  # what it imports from elsewhere is not its own
        there = [f"{module_name}:{each.__name__}" for each in own if each.__module__.partition(".")[0] == package]
        known = there or known
        if cls is None:
            hint = f"These exist: {', '.join(there)}." if there else f"It has no subclass of {base.__name__} at all."
            raise JobError(f"the module {module_name} has no {attribute!r}.", hint)
    elif name in known:
        module = _load(f"synth.{kind}.{name}", name)
        exported = list(getattr(module, "__all__", ()))
        if len(exported) != 1:
            raise JobError(f"{module.__name__}: `__all__` must name exactly one class, it names {exported}.")
        cls = getattr(module, exported[0])
    else:
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else 'Your own class is written "package.module:Class".'
        raise JobError(f"unknown name {name!r} (known: {', '.join(known)}).", hint)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise JobError(f"{name!r} is not a subclass of {base.__name__}.", f"One of: {', '.join(known)}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise JobError(f"{name!r} does not define {missing}.", f"See {base.__module__}.{base.__qualname__}.")
    return cls


def stage_identity(stage: Stage) -> dict[str, Any]:
    """What a stage adds to the identity of a run: its name, and its options that decide what comes out."""
    return {"use": name_of(stage)} | stage.identity()


def _load(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ImportError as exc:
        hint = "Install its package, or put the module into the folder of the job file."
        if module_name.endswith(".py"):
            hint = f"Write {name.replace('.py:', ':').replace('/', '.')!r}."
        raise JobError(f"{name!r} cannot be imported: {exc}.", hint) from exc
    except (Exception, SystemExit) as exc:
        raise JobError(f"{name!r} cannot be imported: {type(exc).__name__}: {exc}.", "Fix the module.") from exc


def read_stage(
    kind: str, spec: Mapping[str, Any], path: KeyPath = (), base: type[Stage] | None = None
) -> tuple[Any, list[Problem]]:
    """The stage that a mapping with `use` names, a subclass of `base`; or None and every mistake in it."""
    options = dict(spec)
    use = options.pop("use", None)
    if not isinstance(use, str):
        return None, [Problem((*path, "use"), "names no stage", f"One of: {', '.join(names(kind))}.")]
    try:
        cls = find(kind, use, base)
    except JobError as exc:
        return None, [Problem((*path, "use"), exc.message, exc.hint)]
    return validate(cls, options, path)


def _resolve(kind: str, value: object) -> object:
    """The stage that a mapping with `use` names; anything else passes through to pydantic. Raises ValueError."""
    if not isinstance(value, Mapping):
        return value
    stage, problems = read_stage(kind, value)
    if problems:
        raise ValueError(" ".join(f"{'.'.join(each.path)}: {each.text}" for each in problems))
    return stage


NestedLlm = Annotated[SerializeAsAny[LlmStage], BeforeValidator(partial(_resolve, "llm"))]
NestedReranker = Annotated[SerializeAsAny[RerankStage], BeforeValidator(partial(_resolve, "rerank"))]
