"""`synth list`: what a job can name with `use:`, and every option, from the classes themselves."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli.app import AsJson, app, examples
from synth.errors import JobError
from synth.terminal import facts, say, show

if TYPE_CHECKING:
    from synth.stage import Stage

KINDS = {
    "llm": "what answers prompts (job key `llm`)",
    "embed": "what turns texts into vectors (job key `embed`)",
    "tasks": "what is generated (job key `task`)",
    "scores": "what is measured on each pair (job key `scores`, a list)",
    "negatives": "where hard negatives come from (`synth mine --use`)",
    "rerank": "what grades query and passage together (key `model` of the score `reranker`)",
    "exports": "what pairs and negatives are written as (synth export --to, options with -s)",
}

_KEEP = (
    ("COLUMN: {above: NUMBER}", "strictly above; below: strictly below"),
    ("COLUMN: {min: NUMBER}", "at least; max: at most"),
    ("COLUMN: {is: VALUE}", "equal to a value; `language_ok: true` is short for `{is: true}`"),
    ("COLUMN: {missing: keep}", "what to do where the score is missing: keep or reject"),
    ("above: {by: COLUMN, GROUP: NUMBER, default: NUMBER}", "thresholds by the groups of a column"),
    ("unique: {by: COLUMN, best: COLUMN}", "of each group only the pair with the best score"),
)
ALIASES = {"task": "tasks", "score": "scores", "export": "exports"}


def _sections() -> dict[str, type[Stage]]:
    """The keys of a job file that have options of their own and no `use:`."""
    from synth.job import Limits, PersonaOptions, RunOptions
    from synth.sources import Corpus, PairData

    return {"corpus": Corpus, "data": PairData, "personas": PersonaOptions, "limits": Limits, "run": RunOptions}


@app.command(
    "list",
    epilog=examples("synth list", "synth list llm vllm_server", "synth list scores cosine", "synth list corpus"),
)
def list_(
    kind: Annotated[str | None, typer.Argument(help="A kind, or a key of the job.", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(help="One stage: all its options.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """The stages a job can name with `use:`, and their options."""
    from synth import registry

    sections = _sections()
    kind = ALIASES.get(kind or "", kind)
    if kind == "keep":
        _rules(as_json=as_json)
        return
    if kind in sections:
        _section(kind, sections[kind], as_json=as_json)
        return
    if kind is not None and kind not in KINDS:
        known = [*KINDS, *sections, "keep"]
        near = get_close_matches(kind, known, n=1)
        raise JobError(f"unknown name {kind!r}.", _nearest(near) or f"One of: {', '.join(known)}.")
    kinds = [kind] if kind else list(KINDS)
    if kind and name:
        _one(kind, name, as_json=as_json)
    elif as_json:
        found = {each: {n: _facts(registry.find(each, n)) for n in registry.names(each)} for each in kinds}
        options = {} if kind else {each: _facts(cls) for each, cls in sections.items()}
        say(json.dumps({**found, **options}, ensure_ascii=False))
    else:
        for each in kinds:
            say(f"{each}: {KINDS[each]}")
            for stage in registry.names(each):
                say(f"  {stage:<22} {_first(registry.find(each, stage))}")
        if kind is None:
            say("sections without `use:`")
            for each, cls in sections.items():
                say(f"  {each:<22} {_first(cls)}")
            say(f"  {'keep':<22} Rules over score columns; a pair that breaks one is dropped.")
        say("\nall options of one of them: synth list KIND NAME, synth list SECTION")


def _rules(*, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"keep": dict(_KEEP)}))
        return
    say("keep: rules over score columns; a pair that breaks one is dropped")
    show(facts((f"  {key}", text) for key, text in _KEEP))


def _section(name: str, cls: type[Stage], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({name: _facts(cls)}, ensure_ascii=False))
        return
    for line in _detail(f"{name}:", cls):
        say(line)


def _one(kind: str, name: str, *, as_json: bool) -> None:
    from synth import registry

    cls = registry.find(kind, name)
    if as_json:
        say(json.dumps({kind: {name: _facts(cls)}}, ensure_ascii=False))
        return
    for line in _detail(f"use: {name}", cls):
        say(line)


def _nearest(near: list[str]) -> str:
    return f"Did you mean {near[0]!r}?" if near else ""


def _first(cls: type[Stage]) -> str:
    """The first sentence of the docstring."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def _facts(cls: type[Stage]) -> dict[str, Any]:
    docs = field_docs(cls)
    return {
        "help": inspect.getdoc(cls),
        "options": {
            (field.alias or name): {
                "required": field.is_required(),
                "default": _default(field),
                "help": docs.get(name, ""),
            }
            for name, field in cls.model_fields.items()
        },
    }


def _detail(title: str, cls: type[Stage]) -> Iterator[str]:
    yield title
    yield from textwrap.wrap(inspect.getdoc(cls) or "", 100, initial_indent="  ", subsequent_indent="  ")
    docs = field_docs(cls)
    for key, field in cls.model_fields.items():
        yield f"  {field.alias or key}: {_shown(field)}"
        if docs.get(key):
            yield from textwrap.wrap(docs[key], 100, initial_indent="      ", subsequent_indent="      ")


def _default(field: Any) -> Any:
    """The default as a JSON value; None also where there is none."""
    value: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _shown(field: Any) -> str:
    return "(required)" if field.is_required() else json.dumps(_default(field), ensure_ascii=False)


def field_docs(cls: type[Stage]) -> dict[str, str]:
    """The sentence under each field in the class's source, and in its bases'; empty without a source."""
    from synth.stage import Stage

    docs: dict[str, str] = {}
    for base in reversed([each for each in cls.__mro__ if issubclass(each, Stage)]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        for match in re.finditer(
            r'^    (\w+):[^\n]*(?:\n        [^\n]*)*?\n(?:    \)\n)?    """(.*?)"""', source, re.MULTILINE | re.DOTALL
        ):
            docs[match[1]] = " ".join(match[2].split())
    return docs
