"""Mining negatives and relabelling, from options to a complete `mined/` or `relabelled/`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synth import registry
from synth.document import Document, Problem, load_document, parse_scalar
from synth.errors import JobError, Stopped
from synth.negatives import Negatives
from synth.presets import preset_part
from synth.runners.generation import Models
from synth.runners.progress import Counters, Phase, Snapshot
from synth.runs.run import OpenRun, job_of
from synth.shards import OutputFolder
from synth.sources import require_apart
from synth.stage import Services, open_models
from synth.steps.mine import Mining
from synth.steps.neighbours import (
    RELABELLED,
    CorpusSource,
    Neighbours,
    Options,
    Plan,
    finished,
    record_of,
    relabelled,
)
from synth.steps.relabel import Relabel, Relabelling
from synth.types import Notify
from synth.validation import plain, validate

_WORDS = frozenset({"use", "by", "range", "window", "sample", "on_short"})
"""Options that are text, which YAML could take for something else (20:50 is 1250 to it)."""


@dataclass(frozen=True, slots=True)
class MineArgs:
    """What to mine or relabel; None means the default. Values of `options` may be text, as flags give it."""

    view: str | None = None
    corpus: Sequence[str] = ()
    document: str | None = None
    file: Path | None = None
    options: Mapping[str, str | bool | None] | None = None
    settings: Sequence[str] = ()
    preset: str | None = None


def plan_of(out: Path, args: MineArgs, notify: Notify) -> Plan[Negatives]:
    """What `synth mine` is asked for, checked, over the run in `out`. Raises JobError naming every mistake."""
    use, options = options_of(args.file, args.options or {}, args.preset)
    run, view, source = _over(out, args, notify)
    if "chat" in options.needs and "llm" not in options.models and run.job.llm is None:
        raise JobError("--use written needs a language model.", "Name one: --llm '{use: vllm_server, …}'")
    if relabelled(run.folder, view):
        if record_of(run.folder.step(RELABELLED))["corpus"] != source.fingerprint:
            raise JobError(f"{RELABELLED}/ has passages of another corpus.", "Give the same --corpus to both commands.")
        view = RELABELLED
        notify(f"taking the pairs of {RELABELLED}/: its positives, and none of its ambiguous passages as a negative")
    step = run.folder.step(view)
    lacks = (options.column_problem(step.schema(index).names) for index in sorted(step.done()))
    if (lack := next(lacks)) and all(lacks):
        raise JobError(f"{step.path}: {lack[0]}.", lack[1])
    return Plan(run, use, options, view, source)


def relabel_plan_of(out: Path, args: MineArgs, notify: Notify) -> Plan[Relabel]:
    """What `synth relabel` is asked for, checked, over the run in `out`. Raises JobError naming every mistake."""
    document, data = _given("synth relabel", args.file, args.options or {}, {})
    if "reranker" not in data:
        what = "synth relabel: needs a reranker, which judges the passages."
        raise JobError(what, "Name one: --reranker '{use: cross_encoder, model: NAME}'; see synth list rerank")
    options = _validated(Relabel, document, data)
    run, view, source = _over(out, args, notify)
    if run.job.layout.kind != "retrieval":
        raise JobError(f"{out}: holds {run.job.layout.pairs}, and passages are judged for the queries of a retrieval.")
    return Plan(run, "relabel", options, view, source)


def _over(out: Path, args: MineArgs, notify: Notify) -> tuple[OpenRun, str, CorpusSource]:
    """A finished run with an embedder, the view to work on, and where passages come from. Raises JobError."""
    job, _ = job_of(out, args.settings)
    folder = OutputFolder.open(out, write=True, notify=notify)
    if job.embed is None:
        what = f"{out}: the job names no embedder, and passages near a query are found by vectors."
        raise JobError(what, "Name one: -s 'embed={use: sentence_transformers, model: all-MiniLM-L6-v2}'")
    require_apart(args.corpus, Path.cwd(), folder.path)
    run = replace(OpenRun.recorded(folder), job=job)
    view = "kept" if args.view in (None, "kept") else f"views/{args.view}"
    step = folder.step(view)
    if not any(step.meta(index).rows_out for index in finished(run, view)):
        raise JobError(f"{step.path}: no pair passed its rules.", f"Keep some first: synth keep {out} --above …")
    return run, view, CorpusSource.of(run, args.corpus, args.document, notify)


def options_of(
    file: Path | None, flags: Mapping[str, str | bool | None], preset: str | None = None
) -> tuple[str, Negatives]:
    """The source of negatives that a preset, a file and flags name, each on top of the one before.

    Raises JobError with every mistake.
    """
    document, data = _given("synth mine", file, flags, preset_part(preset, "mine"))
    use = str(data.pop("use", "mined"))
    cls = registry.find("negatives", use)
    if not issubclass(cls, Negatives):
        raise JobError(f"{use!r} is not a source of negatives.", f"One of: {', '.join(registry.names('negatives'))}.")
    return use, _validated(cls, document, data)


def _given(
    command: str, file: Path | None, flags: Mapping[str, Any], below: Mapping[str, Any]
) -> tuple[Document, dict[str, Any]]:
    """The options of a file on top of those `below`, and flags on top of both. Raises JobError."""
    document = load_document(file) if file else Document(command, {}, {}, ())
    if document.problems or not isinstance(document.data, dict):
        wrong = document.problems or (Problem((), "holds no mapping of options"),)
        raise JobError("\n  ".join(document.describe(each) for each in wrong))
    data = {**below, **plain(document.data)}
    for name, value in flags.items():
        if isinstance(value, str) and name not in _WORDS:
            data[name] = plain(parse_scalar(value, f"--{name.replace('_', '-')}"))
        elif value is not None:
            data[name] = value
    return document, data


def _validated(cls: type[Options], document: Document, data: dict[str, Any]) -> Options:
    options, problems = validate(cls, data)
    if options is None:
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return options


Show = Callable[[Callable[[], Snapshot]], AbstractContextManager[object]]
"""A context that shows how far the work is while it lasts."""


async def carry_out(plan: Plan[Any], notify: Notify, show: Show = nullcontext) -> tuple[Any, int]:
    """Do what is left; returns the counts over all shards and how many of them this call made.

    Raises Stopped when another process is working on what is left.
    """
    made = 0
    async with AsyncExitStack() as stack:
        kind: type[Neighbours[Any]] = Relabelling if isinstance(plan.options, Relabel) else Mining
        step = kind(plan, services(plan, stack, notify), notify)
        todo = await step.prepare()
        if step.hidden and todo:
            notify(f"{step.name}/ was built with other settings; it will be replaced once the new shards are complete")
        before, began = step.counts.done, time.monotonic()

        def snapshot() -> Snapshot:
            counts, seconds = step.counts, time.monotonic() - began
            return Snapshot((Phase(step.verb, "shards", counts.done, counts.shards, before, seconds),))

        with show(snapshot):
            async for _ in step.work(todo):
                made += 1
        if step.counts.done == step.counts.shards:
            await step.conclude()
    if step.counts.done < step.counts.shards:
        raise Stopped("another process is still working on the remaining shards.", "Run the same command again.")
    step.swap()
    return step.counts, made


def services(plan: Plan[Any], stack: AsyncExitStack, notify: Notify) -> Services:
    """The models that the plan needs; each connects or loads at its first use."""
    job = plan.run.job
    models = Models(job.client(notify), job.instruction, Counters(), stack)
    own = open_models(plan.options, models.client, job.instruction)
    return models.services(job, {"encoder", *plan.options.needs}, own)
