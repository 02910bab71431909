"""Mining hard negatives for the pairs of a run, from options to a complete `mined/`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

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
from synth.steps.mine import CorpusSource, Counts, Mining, Plan, finished
from synth.types import Notify
from synth.validation import plain, validate

_WORDS = frozenset({"use", "by", "range", "window", "sample", "on_short"})
"""Options that are text, which YAML could take for something else (20:50 is 1250 to it)."""


@dataclass(frozen=True, slots=True)
class MineArgs:
    """What to mine; None means the default. Values of `options` may be text, as flags give it."""

    view: str | None = None
    corpus: Sequence[str] = ()
    document: str | None = None
    file: Path | None = None
    options: Mapping[str, str | bool | None] | None = None
    settings: Sequence[str] = ()
    preset: str | None = None


def plan_of(out: Path, args: MineArgs, notify: Notify) -> Plan:
    """The options of a command line, checked, over the run in `out`. Raises JobError naming every mistake."""
    use, options = options_of(args.file, args.options or {}, args.preset)
    job, _ = job_of(out, args.settings)
    folder = OutputFolder.open(out, write=True, notify=notify)
    if job.embed is None:
        what = f"{out}: the job names no embedder, and negatives are found by vectors."
        raise JobError(what, "Name one: -s 'embed={use: sentence_transformers, model: all-MiniLM-L6-v2}'")
    if "chat" in options.needs and "llm" not in options.models and job.llm is None:
        raise JobError("--use written needs a language model.", "Name one: --llm '{use: vllm_server, …}'")
    require_apart(args.corpus, Path.cwd(), folder.path)
    run = replace(OpenRun.recorded(folder), job=job)
    view = "kept" if args.view in (None, "kept") else f"views/{args.view}"
    step = folder.step(view)
    shards = finished(run, view)
    if not any(step.meta(index).rows_out for index in shards):
        raise JobError(f"{step.path}: no pair passed its rules.", f"Keep some first: synth keep {out} --above …")
    lacks = (options.column_problem(step.schema(index).names) for index in shards)
    if (lack := next(lacks)) and all(lacks):
        raise JobError(f"{step.path}: {lack[0]}.", lack[1])
    return Plan(run, use, options, view, CorpusSource.of(run, args.corpus, args.document, notify))


def options_of(
    file: Path | None, flags: Mapping[str, str | bool | None], preset: str | None = None
) -> tuple[str, Negatives]:
    """The source of negatives that a preset, a file and flags name, each on top of the one before.

    Raises JobError with every mistake.
    """
    document = load_document(file) if file else Document("synth mine", {}, {}, ())
    if document.problems or not isinstance(document.data, dict):
        wrong = document.problems or (Problem((), "holds no mapping of options"),)
        raise JobError("\n  ".join(document.describe(each) for each in wrong))
    data = preset_part(preset, "mine") | dict(plain(document.data))
    for name, value in flags.items():
        if isinstance(value, str) and name not in _WORDS:
            data[name] = plain(parse_scalar(value, f"--{name.replace('_', '-')}"))
        elif value is not None:
            data[name] = value
    use = str(data.pop("use", "mined"))
    cls = registry.find("negatives", use)
    if not issubclass(cls, Negatives):
        raise JobError(f"{use!r} is not a source of negatives.", f"One of: {', '.join(registry.names('negatives'))}.")
    options, problems = validate(cls, data)
    if options is None:
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return use, options


Show = Callable[[Callable[[], Snapshot]], AbstractContextManager[object]]
"""A context that shows how far the mining is while it lasts."""


async def mine(plan: Plan, notify: Notify, show: Show = nullcontext) -> tuple[Counts, int]:
    """Do what is left; returns the counts over all shards and how many of them this call made.

    Raises Stopped when another process is working on what is left.
    """
    made = 0
    async with AsyncExitStack() as stack:
        mining = Mining(plan, services(plan, stack, notify), notify)
        todo = await mining.prepare()
        if mining.hidden and todo:
            notify("mined/ was built with other settings; it will be replaced once the new shards are complete")
        before, began = mining.counts.done, time.monotonic()

        def snapshot() -> Snapshot:
            counts, seconds = mining.counts, time.monotonic() - began
            return Snapshot((Phase("mine", "shards", counts.done, counts.shards, before, seconds),))

        with show(snapshot):
            async for _ in mining.mine(todo):
                made += 1
        await mining.probe()
    if mining.counts.done < mining.counts.shards:
        raise Stopped("another process is still working on the remaining shards.", "Run the same command again.")
    mining.swap()
    return mining.counts, made


def services(plan: Plan, stack: AsyncExitStack, notify: Notify) -> Services:
    """The models that the plan needs; each connects or loads at its first use."""
    job = plan.run.job
    models = Models(job.client(notify), job.instruction, Counters(), stack)
    own = open_models(plan.options, models.client, job.instruction)
    return models.services(job, {"encoder", *plan.options.needs}, own)
