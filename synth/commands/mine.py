"""`synth mine`: hard negatives for the pairs of a run."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from synth import document as documents
from synth import registry
from synth.document import Document, Problem
from synth.errors import JobError, Stopped
from synth.negatives import Negatives
from synth.run import run as runs
from synth.shards import OutputFolder
from synth.stage import Services
from synth.steps.mine import CorpusSource, Counts, Mining, Plan, Tell, finished
from synth.terminal import say, tell
from synth.validation import plain, validate

_WORDS = frozenset({"use", "by", "range", "window", "strategy", "on_short"})
"""Options that are text, which YAML could take for something else (20:50 is 1250 to it)."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says; None where it says nothing. Values of `options` are still as written."""

    view: str | None = None
    corpus: Sequence[str] = ()
    document: str | None = None
    file: Path | None = None
    options: Mapping[str, str | bool | None] | None = None
    settings: Sequence[str] = ()


def mine(out: Path, given: Given, *, as_json: bool) -> None:
    """Mine, and print what was found and what was refused. Raises SynthError for every way it can end but well."""
    quiet: Tell = (lambda _: None) if as_json else tell
    plan = plan_of(out, given)
    began = time.monotonic()
    counts, made = asyncio.run(work(plan, quiet))
    if as_json:
        say(json.dumps(asdict(counts) | {"made": made, "out": str(plan.run.folder.path / "mined")}))
        return
    for line in _lines(counts, plan.options, time.monotonic() - began, made):
        say(line)
    say(f"pairs with negatives: {plan.run.folder.path / 'mined'}")


def plan_of(out: Path, given: Given) -> Plan:
    """The options of a command line, checked, over the run in `out`. Raises JobError naming every mistake."""
    use, options = options_of(given.file, given.options or {})
    job, _ = runs.job_of(out, given.settings)
    folder = OutputFolder.open(out, write=True, notify=tell)
    if job.embed is None:
        raise JobError(
            f"{out}: the job names no embedder, and negatives are found by vectors.",
            "Name one: -s 'embed={use: sentence_transformers, model: all-MiniLM-L6-v2}'",
        )
    if "chat" in options.needs and getattr(options, "llm", None) is None and job.llm is None:
        raise JobError("written: needs a language model.", "Name one: --llm '{use: vllm_server, …}'")
    run = replace(runs.reopen(folder, job.rules), job=job)
    view = "kept" if given.view in (None, "kept") else f"views/{given.view}"
    step = folder.step(view)
    shards = finished(run, view)
    if not any(step.meta(index).rows_out for index in shards):
        raise JobError(f"{step.path}: no pair passed its rules.", f"Keep some first: synth keep {out} --above …")
    lacks = (options.column_problem(step.schema(index).names) for index in shards)
    if (lack := next(lacks)) and all(lacks):
        raise JobError(f"{step.path}: {lack[0]}.", lack[1])
    return Plan(run, use, options, view, CorpusSource.of(run, given.corpus, given.document))


def options_of(file: Path | None, flags: Mapping[str, str | bool | None]) -> tuple[str, Negatives]:
    """The source of negatives that a file and flags name, the flags on top. Raises JobError with every mistake."""
    document = documents.load(file) if file else Document("synth mine", {}, {}, ())
    if document.problems or not isinstance(document.data, dict):
        wrong = document.problems or (Problem((), "holds no mapping of options"),)
        raise JobError("\n  ".join(document.describe(each) for each in wrong))
    data = {**plain(document.data)}
    for name, value in flags.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            text = isinstance(value, str) and name not in _WORDS
            data[name] = plain(documents.scalar(str(value), flag)) if text else value
    use = str(data.pop("use", "mined"))
    cls = registry.find("negatives", use)
    if not issubclass(cls, Negatives):
        raise JobError(f"{use!r} is no source of negatives.", f"One of: {', '.join(registry.names('negatives'))}.")
    options, problems = validate(cls, data)
    if options is None:
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return use, options


async def work(plan: Plan, told: Tell) -> tuple[Counts, int]:
    """Do what is left; returns the counts over all shards and how many of them this call made.

    Raises Stopped when another process holds what is left, or when a signal asks to stop.
    """
    task = asyncio.current_task()
    stopped: list[int] = []

    def stop(number: int) -> None:
        stopped.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(RuntimeError, ValueError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await _work(plan, told)
    except asyncio.CancelledError:
        if not stopped:
            raise
        hint = f"Go on with the same command: synth mine {plan.run.folder.path}"
        raise Stopped(
            "stopped before the end; finished shards are saved.", hint, interrupted=stopped[0] == signal.SIGINT
        ) from None


async def _work(plan: Plan, told: Tell) -> tuple[Counts, int]:
    made = 0
    async with AsyncExitStack() as stack:
        mining = Mining(plan, services(plan, stack, told), told)
        todo = await mining.prepare()
        if mining.hidden and todo:
            told("mined/ was made otherwise; the new shards replace it when all of them are there")
        began = time.monotonic()
        async for _ in mining.mine(todo):
            made += 1
            seconds = time.monotonic() - began
            left = seconds / made * (len(todo) - made)
            told(f"mined    {mining.counts.done:,} of {mining.counts.shards:,} shards, about {left:,.0f} s left")
    if mining.counts.done < mining.counts.shards:
        raise Stopped("another process is at the rest.", "Run the same command again.")
    mining.swap()
    return mining.counts, made


def services(plan: Plan, stack: AsyncExitStack, told: Tell) -> Services:
    """The models that the plan needs; each connects or loads at its first use."""
    job = plan.run.job
    client = job.client(told)
    opened: dict[str, Any] = {"encoder": job.embed.open(client, job.instruction)}
    own = plan.options.open(client, job.instruction)
    if "chat" in plan.options.needs and "chat" not in own:
        opened["chat"] = job.llm.open(client)
    opened |= own
    for each in opened.values():
        stack.push_async_callback(each.close)
    return Services(**opened)


def _lines(counts: Counts, options: Negatives, seconds: float, made: int) -> Sequence[str]:
    if not made:
        return ["nothing to do: mined/ already holds this", *_facts(counts, options)]
    return [f"shards made: {made:,}, in {seconds:,.1f} s", *_facts(counts, options)]


def _facts(counts: Counts, options: Negatives) -> Sequence[str]:
    wanted = options.num_negatives
    dropped = sum(counts.dropped.values())
    fewer = f"{counts.too_few:,} with fewer (on_short: {options.on_short})"
    lines = [
        f"{counts.rows:,} pairs: {counts.full:,} with {wanted} negatives, {fewer}, {dropped:,} dropped",
        f"{counts.negatives:,} negatives, {counts.promoted:,} extra positives",
        f"refused: {_listed(counts.refused)}",
    ]
    if counts.dropped:
        lines.append(f"dropped: {_listed(counts.dropped)}; see rejected/mined")
    if counts.too_few and not counts.negatives:
        lines.append(f"no pair got a negative: {options.advice}")
    return lines


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "nothing"
