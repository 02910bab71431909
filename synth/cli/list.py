"""`synth init`, a job file to start from, and `synth list`: what it can name with `use:`, and every option."""

from __future__ import annotations

import inspect
import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli.app import AsJson, command
from synth.errors import JobError, SystemFault
from synth.terminal import facts, indented, say, show, words

if TYPE_CHECKING:
    from synth.stage import Stage

KINDS = {
    "llm": "what answers prompts (job key `llm`)",
    "embed": "what turns texts into vectors (job key `embed`)",
    "tasks": "what is generated (job key `task`)",
    "scores": "what is measured on each pair (job key `scores`, a list)",
    "negatives": "where hard negatives come from (`synth mine --use`)",
    "rerank": "what grades a pair (key `model` of the score `reranker`)",
    "exports": "formats of `synth export --to`, with options by -s",
}

_KEEP = (
    ("COLUMN: {above: NUMBER}", "strictly above; below: strictly below"),
    ("COLUMN: {min: NUMBER}", "at least; max: at most"),
    ("COLUMN: {is: VALUE}", "equal to a value; `language_ok: true` is short for `{is: true}`"),
    ("COLUMN: {missing: keep}", "what to do where the score is missing: keep or reject"),
    ("above: {by: COLUMN, GROUP: NUMBER, default: NUMBER}", "thresholds by the groups of a column"),
    ("unique: {by: COLUMN, best: COLUMN}", "of each group only the pair with the best score"),
)
_NAME = 21
"""Columns for the names of stages, so that all kinds align."""
ALIASES = {"task": "tasks", "score": "scores", "export": "exports"}


def _sections() -> dict[str, type[Stage]]:
    """The keys of a job file that have options of their own and no `use:`."""
    from synth.job import Budget, Limits, PersonaOptions, RunOptions
    from synth.sources import Corpus, PairData

    return {
        "corpus": Corpus,
        "data": PairData,
        "personas": PersonaOptions,
        "limits": Limits,
        "budget": Budget,
        "run": RunOptions,
    }


@command("synth init", 'synth init my-job.yaml --corpus "data/*.parquet"')
def init(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The file to write.")] = Path("job.yaml"),
    corpus: Annotated[str, typer.Option(help="Where the passages are.")] = "data/*.jsonl",
) -> None:
    """Write a commented job file to start from."""
    import yaml

    from synth.shipped import shipped

    text = shipped("configs", "template.yaml").read_text(encoding="utf-8")
    quoted = yaml.safe_dump(corpus, default_style='"', width=10_000).strip()
    try:
        with job.open("x", encoding="utf-8") as file:
            file.write(text.replace("@CORPUS@", quoted))
    except FileExistsError as exc:
        raise JobError(f"{job}: exists already.", "Name another file, or remove it first.") from exc
    except OSError as exc:
        raise SystemFault(f"{job}: cannot be written: {exc.strerror}.") from exc
    say(f"wrote {job}; next: synth check {job}")


@command(
    "synth list",
    "synth list llm vllm_server",
    "synth list scores cosine",
    "synth list corpus",
    "synth list presets",
    name="list",
)
def list_(
    kind: Annotated[str | None, typer.Argument(help="A kind, or a key of the job.", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(help="One stage: all its options.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """The stages a job can name with `use:`, and their options."""
    from synth import registry

    sections = _sections()
    known = [*KINDS, *sections, "keep", "presets"]
    kind = ALIASES.get(kind or "", kind)
    if kind is not None and kind not in known:
        near = get_close_matches(kind, known, n=1)
        cure = f"Did you mean {near[0]!r}?" if near else f"One of: {', '.join(known)}."
        raise JobError(f"unknown name {kind!r}.", cure)
    if kind == "presets":
        _presets(name, as_json=as_json)
        return
    if kind == "keep":
        if as_json:
            say(json.dumps({"keep": dict(_KEEP)}))
        else:
            show(words("keep: rules over score columns; a pair that breaks one is dropped"), facts(_KEEP, indent=2))
        return
    if kind in sections or (kind and name):
        found = _facts(sections[kind] if kind in sections else registry.find(kind, name or ""))
        if as_json:
            say(json.dumps({kind: found if kind in sections else {name: found}}, ensure_ascii=False))
        else:
            _print(f"{kind}:" if kind in sections else f"use: {name}", found)
        return
    kinds = [kind] if kind else list(KINDS)
    if as_json:
        stages = {each: {n: _facts(registry.find(each, n)) for n in registry.names(each)} for each in kinds}
        options = {} if kind else {each: _facts(cls) for each, cls in sections.items()}
        say(json.dumps({**stages, **options}, ensure_ascii=False))
        return
    for each in kinds:
        rows = [(stage, _first(registry.find(each, stage))) for stage in registry.names(each)]
        show(words(f"{each}: {KINDS[each]}", "bold"), facts(rows, least=_NAME, indent=2))
    if kind is None:
        rows = [(each, _first(cls)) for each, cls in sections.items()]
        rows.append(("keep", "Rules over score columns; a pair that breaks one is dropped."))
        show(words("keys of a job file without `use:`", "bold"), facts(rows, least=_NAME, indent=2))
        presets = [("presets", "Published recipes for keep, mine and train.")]
        show(words("names for `--preset`", "bold"), facts(presets, least=_NAME, indent=2))
    show(words("\nall options of one of them: synth list KIND NAME, or synth list KEY"))


def _presets(name: str | None, *, as_json: bool) -> None:
    """Each recipe's steps with their options."""
    from synth.presets import preset, preset_names

    found = {each: preset(each) for each in ([name] if name else preset_names())}
    if as_json:
        say(json.dumps({"presets": found}, ensure_ascii=False))
        return
    for each, parts in found.items():
        rows = [
            (step, ", ".join(f"{key}: {json.dumps(value)}" for key, value in parts[step].items()))
            for step in ("keep", "mine", "train")
            if step in parts
        ]
        show(words(f"{each}: {parts['about']}", "bold"), facts(rows, indent=2))


def _first(cls: type[Stage]) -> str:
    """The first sentence of the docstring."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def _facts(cls: type[Stage]) -> dict[str, Any]:
    docs = field_docs(cls)
    options = {}
    for name, field in cls.model_fields.items():
        required = field.is_required()
        value: Any = None if required else field.get_default(call_default_factory=True)
        default = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        options[field.alias or name] = {"required": required, "default": default, "help": docs.get(name, "")}
    return {"help": inspect.getdoc(cls), "options": options}


def _print(title: str, found: dict[str, Any]) -> None:
    show(words(title, "bold"), indented(found["help"] or "", 2))
    for key, option in found["options"].items():
        default = "(required)" if option["required"] else json.dumps(option["default"], ensure_ascii=False)
        show(indented(f"{key}: {default}", 2))
        if option["help"]:
            show(indented(option["help"], 6))


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
