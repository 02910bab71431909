"""`synth plan`: what a run will cost and keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synth.cli.app import AsJson, JobFile, Settings, command
from synth.errors import JobError
from synth.terminal import facts, heading, say, show, tell

if TYPE_CHECKING:
    from synth.forecast import Plan
    from synth.job import Job, Price


@command(
    "synth plan job.yaml",
    "synth plan job.yaml --gpu h200 --gpus 8",
    "synth plan job.yaml --price 0.15,0.075,0.60",
    "synth plan job.yaml --pilot 40          generates for 40 passages, into OUT.sample-40",
)
def plan(
    path: JobFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder; default: the job's `out`.")] = None,
    settings: Settings = [],
    pilot: Annotated[
        int | None, typer.Option(min=10, help="Run this many rows for real, as `synth run --sample` does.")
    ] = None,
    gpu: Annotated[Literal["h100", "h200", "a100"] | None, typer.Option(help="Also hours on such GPUs.")] = None,
    precision: Annotated[Literal["bf16", "fp8"], typer.Option(help="Of the language model on them.")] = "bf16",
    gpus: Annotated[int, typer.Option(min=1, help="How many there are.")] = 1,
    price: Annotated[
        str | None, typer.Option(metavar="IN,CACHED,OUT", help="Of a million tokens; default: the job's budget.price.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate calls, tokens, time and money of a run, and with a pilot the pairs that it will keep.

    Without --pilot nothing is asked of a model and nothing is written. A pilot resumes where it stopped, and
    `synth run JOB.yaml --sample N` continues it.
    """
    from synth.cli.stopping import Stopping
    from synth.forecast import PlanArgs
    from synth.forecast import plan as forecast
    from synth.pipeline import resolve, targets

    tasks = targets(path, out, settings, pilot)
    args = PlanArgs(gpu, precision, gpus, None if price is None else _price(price))
    plans = {}
    with Stopping(quiet=as_json) as stopping:
        for name, target in (tasks or {"": resolve(path, out, settings, pilot)}).items():
            if not as_json:
                show(*[heading(name, "═")] if name else [])
                tell(f"{target.job.source}: {f'pilot in {target.out}' if pilot else 'rendering prompts'}")
            found = plans[name] = forecast(target, args, stopping)
            if not as_json:
                show(facts(_rows(target.job, found, args.gpus)))
                for note in found.notes:
                    say(f"\nwarning: {note}", wrap=True)
    if as_json:
        several = {"tasks": {name: each.as_json() for name, each in plans.items()}}
        say(json.dumps(several if tasks else plans[""].as_json(), ensure_ascii=False))
    elif tasks:
        costs = [each.costs for each in plans.values()]
        into, back = (
            sum(getattr(each, name) or 0 for each in costs) for name in ("prompt_tokens", "completion_tokens")
        )
        say(f"\nall tasks: {sum(each.items for each in costs):,} items, about {into:,} tokens in, {back:,} out")


def _price(text: str) -> Price:
    try:
        into, cached, out = (float(each) for each in text.split(","))
    except ValueError as exc:
        what = f"--price {text}: expected three numbers, what a million tokens cost."
        raise JobError(what, "Prompt, cached prompt and reply: --price 0.15,0.075,0.60") from exc
    return into, cached, out


def _rows(job: Job, found: Plan, gpus: int) -> Iterator[tuple[str, str]]:
    from synth.cli.check import cost_facts

    yield from cost_facts(job, found.costs)
    pilot = found.pilot
    if pilot is not None and found.kept is not None:
        yield "pilot", f"{pilot.passages:,} passages, {pilot.pairs:,} pairs, {pilot.kept:,} kept, in {pilot.out}"
        if pilot.ranked_among:
            yield "", f"ranks are among {pilot.ranked_among:,} rows of the corpus, not among those of the pilot"
        yield "yield", f"{pilot.per_passage:.2f} kept pairs a passage ({pilot.low:.2f} to {pilot.high:.2f} with 95 %)"
        expected, least, most = found.kept
        yield "", f"about {expected:,} kept pairs in all ({least:,} to {most:,})"
        yield from (("", note) for note in pilot.notes)
    if found.hours is not None:
        low, high = found.hours
        yield "time", f"{low:,.2g} to {high:,.2g} hours on {gpus} {'GPU' if gpus == 1 else 'GPUs'}"
        yield "", f"rates {found.rates}"
    if found.cost is not None:
        yield "money", f"{found.cost:,.2f}, with the price of cached tokens for what a prefix cache has"
