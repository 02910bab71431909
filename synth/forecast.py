"""What a job will cost and keep: an estimate from rendered prompts, and with a pilot what it kept and paid.

A pilot is a real run of a few passages, the one that `synth run --sample N` makes, spread evenly over the corpus. Its
kept pairs give the yield with an interval, its tokens the cost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth import pipeline
from synth.check import Findings
from synth.check.costs import Asked, Costs, expect, mean, rehearse
from synth.check.data import DataReport, look
from synth.document import Document
from synth.errors import JobError, SynthError
from synth.job import Job, Price
from synth.personas import Library
from synth.pipeline import Control, RunArgs, Target
from synth.prompts import PromptFolder
from synth.runners.budget import spent
from synth.runners.generation import Models
from synth.runners.progress import Counters
from synth.runs.run import OpenRun, prepare, writer_of
from synth.scores import PairBatch
from synth.scores.round_trip import DRAWN, RoundTrip
from synth.shards import disk
from synth.sources import InputFile, inspect, read_passages, wanted_rows
from synth.steps import keep, score
from synth.steps.score import ScoreStep
from synth.tables import passages as passage_records
from synth.types import position_and_slot

_LAB = "published by GPUStack's performance lab"
_MIXES = "2,000 tokens in and 100 out, and ShareGPT"
_OWN = "measured within 8 % with prompts of synth, 256 calls in flight, vLLM 0.24"
_MODEL = "Qwen3-32B"
_RATES = {
    ("h200", "bf16"): ((10098, 5735), (8602, 4885), _OWN),
    ("h100", "bf16"): ((3195, 3195), (2353, 2353), f"{_LAB} with vLLM 0.11: {_MIXES}"),
    ("h100", "fp8"): ((5902, 5902), (4285, 4285), f"{_LAB} with TensorRT-LLM: {_MIXES}"),
    ("a100", "bf16"): ((2521, 2521), (1857, 1857), f"{_LAB}: 2,000 in and 100 out; ShareGPT scaled as on the H100"),
}
"""Prompt tokens computed and tokens generated a second with Qwen3-32B, at best and at worst, and who says so.

The published rates are of both kinds together, without a prefix cache. docs/scale.md has the measurements.
"""


def gpu_hours(gpu: str, precision: str, computed: float, generated: float) -> tuple[float, float, str]:
    """GPU-hours, at best and at worst, for so many prompt tokens to compute and tokens to generate, and their source.

    Raises JobError, naming the rates that there are, where nobody measured this GPU at this precision.
    """
    if (gpu, precision) not in _RATES:
        known = ", ".join(f"--gpu {name} --precision {number}" for name, number in _RATES)
        raise JobError(f"no rate was measured of {gpu} at {precision}.", f"There are: {known}.")
    best, worst, source = _RATES[gpu, precision]
    low, high = ((computed / prompt + generated / reply) / 3600 for prompt, reply in (best, worst))
    return low, high, source


@dataclass(frozen=True, slots=True)
class PlanArgs:
    """What to plan for: GPUs, and the price of a million tokens (in, cached, out)."""

    gpu: str | None = None
    precision: str = "bf16"
    gpus: int = 1
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot gave; kept pairs are per passage, with the bounds of a 95 % interval."""

    out: str
    passages: int
    pairs: int
    kept: int
    per_passage: float
    low: float
    high: float
    ranked_among: int | None = None
    """Passages of the corpus that the ranks of the pilot's queries are among, where a rule reads them."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast of a job. `hours` are those of all GPUs at work, best and worst; `cost` is in the price's money."""

    costs: Costs
    pilot: Pilot | None = None
    kept: tuple[int, int, int] | None = None
    """Pairs that the whole run keeps: the expected number, and the bounds of its 95 % interval."""
    hours: tuple[float, float] | None = None
    rates: str = ""
    """Where the rates behind the hours are from."""
    cost: float | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(target: Target, args: PlanArgs, control: Control) -> Plan:
    """Forecast the run of a job; its pilot, if there is one, is `target`'s sample.

    Raises JobError for a job over existing pairs and for a GPU without a measured rate, and what a run raises.
    """
    job = target.job
    if job.data:
        raise JobError(f"{job.source}: works on existing pairs and generates nothing.", "Try: synth check JOB.yaml")
    if target.history is not None:
        raise JobError(f"{target.out} is the folder of a run.", "Name the job file.")
    if args.gpu:
        gpu_hours(args.gpu, args.precision, 0, 0)  # a mistake is told before a pilot is paid
    quota = job.file.target
    if quota is not None:  # a pilot asks every passage of its sample
        job = replace(job, file=job.file.model_copy(update={"target": None}))
        target = replace(target, job=job)
    prompts, library = prepare(job)
    files, data = _corpus(job, control)
    findings = Findings(Document(job.source, {}, {}, ()))
    costs, asked = expect(job, prompts, library, data, findings)
    pilot = kept = None
    if target.sample is not None:
        run = pipeline.run(target, RunArgs(), control).run
        pilot = asyncio.run(_outcome(run, files, control))
        costs = _as_paid(run, (prompts, library), costs, asked, data)
        bounds = (math.floor(costs.passages * pilot.low), math.ceil(costs.passages * pilot.high))
        kept = (round(costs.passages * pilot.per_passage), *bounds)
    notes = list(findings.warnings)
    if quota is not None and pilot is not None and pilot.kept:
        items = round(quota.kept * pilot.pairs / pilot.kept)
        what = f"target: at the pilot's yield {items:,} pairs give {quota.kept:,} kept ones"
        notes.append(f"{what}; the figures above are of a run over all passages.")
    hours, rates, cost = None, "", None
    computed, sent, out = costs.computed_tokens or 0, costs.prompt_tokens or 0, costs.completion_tokens or 0
    if args.gpu:
        low, high, rates = gpu_hours(args.gpu, args.precision, computed, out)
        hours = (low / args.gpus, high / args.gpus)
        if job.llm is not None and _MODEL.lower() not in job.llm.model.lower():
            notes.append(f"the rates are those of {_MODEL}; {job.llm.model or 'this model'} takes other times.")
    price = args.price or (job.file.budget.price if job.file.budget else None)
    if price is not None:
        cost = (computed * price[0] + (sent - computed) * price[1] + out * price[2]) / 1e6
    return Plan(costs, pilot, kept, hours, rates, cost, tuple(notes))


def _corpus(job: Job, control: Control) -> tuple[list[InputFile], DataReport]:
    findings = Findings(Document(job.source, {}, {}, ()))
    limits = job.read_limits()
    files = inspect(job.corpora, job.base, limits, notify=control.notify)
    data = look(job, files, limits, findings)
    for text in findings.warnings:
        control.notify(text)
    if findings.mistakes:
        error = SynthError(findings.mistakes[0])
        error.exit_code = findings.code
        raise error
    return files, data


def _as_paid(
    run: OpenRun, used: tuple[PromptFolder, Library | None], costs: Costs, asked: Sequence[Asked], data: DataReport
) -> Costs:
    """The costs by what the pilot paid: tokens for each rendered byte of its passages, times the corpus's bytes."""
    step, (prompts, library) = run.folder.step("passages"), used
    records = [each for index in sorted(step.done()) for each in passage_records(step.read(index).table)]
    own = asyncio.run(
        rehearse(writer_of(run.job, prompts, prepared=run.prepared()), records, library.sentences if library else ())
    )
    paid, calls = spent(run), _calls(run)
    rendered = sum(each.bytes for each in own)
    share = costs.passages / max(1, len(records))
    found = replace(costs, calls=round(calls * share))
    if not paid.prompt_tokens or not rendered or not asked:
        return found
    in_corpus = costs.passages * mean(asked, [each.bytes for each in asked], data.bytes / max(1, data.passages))
    sent = round(paid.prompt_tokens / rendered * in_corpus)
    computed = round(sent * (costs.computed_tokens or 0) / max(1, costs.prompt_tokens or 0))
    return replace(
        found,
        prompt_tokens=sent,
        computed_tokens=computed,
        completion_tokens=round(paid.completion_tokens * share),
        counted="pilot",
    )


def _calls(run: OpenRun) -> int:
    """Model calls of all items."""
    step, found = run.folder.step("generated"), 0
    for index in sorted(step.done()):
        found += sum(step.read_columns(index, ["attempts"])["attempts"].to_pylist())
        rejects = step.rejects(index)
        found += sum(map(len, rejects["attempts"].to_pylist())) if rejects is not None else 0
    return found


async def _outcome(run: OpenRun, files: Sequence[InputFile], control: Control) -> Pilot:
    """What the rules keep of the pilot's pairs, with ranks as they are among the passages of the corpus."""
    rules, steps = run.job.rules, score.steps_of(run)
    passages, generated = run.folder.step("passages"), run.folder.step("generated")
    shards = sorted(generated.done())
    names = [step.name for step in steps]
    wanted = {"id", "query", "passage", *rules.columns()}
    table = pa.concat_tables([keep.selected(run.folder, names, index, wanted) for index in shards])
    origins = pa.concat_tables([passages.read_columns(index, ["text", "source", "source_row"]) for index in shards])
    notes, among = [], None
    for step in steps:
        columns = {name for name, _ in step.scorer.named_outputs()} & rules.columns()
        if not columns or step.per_shard or not table.num_rows:
            continue
        if isinstance(step.scorer, RoundTrip):
            ranks, among = await _ranked(run, step, step.scorer, table, origins["text"], files=files, control=control)
            for name in sorted(columns):
                table = table.set_column(table.column_names.index(name), name, ranks[name])
        else:
            notes.append(f"{step.scorer.name} compares all pairs, so a whole run may keep fewer")
    if rules.unique:
        notes.append("unique compares all pairs, so a whole run may keep fewer")
    good = rules.apply(table).kept
    rows = list(zip(origins["source"].to_pylist(), origins["source_row"].to_pylist(), strict=True))
    place = {row: n for n, row in enumerate(dict.fromkeys(rows))}
    kept, sizes = np.zeros(len(place)), np.zeros(len(place))
    for row in rows:
        sizes[place[row]] += 1
    for item, passed in zip(table["id"].to_pylist(), good.tolist(), strict=True):
        kept[place[rows[position_and_slot(item)[0]]]] += passed
    low, high = interval(kept, sizes * run.task.items_per_passage)
    slots = run.task.items_per_passage
    return Pilot(
        out=str(run.folder.path),
        passages=len(rows),
        pairs=table.num_rows,
        kept=int(kept.sum()),
        per_passage=float(kept.sum() / len(rows)),
        low=slots * low,
        high=slots * high,
        ranked_among=among,
        notes=tuple(notes),
    )


async def _ranked(
    run: OpenRun,
    step: ScoreStep,
    scorer: RoundTrip,
    pairs: pa.Table,
    own: pa.ChunkedArray,
    *,
    files: Sequence[InputFile],
    control: Control,
) -> tuple[pa.Table, int]:
    """The scores of `round_trip` for the pilot's pairs among the corpus's passages, and how many these are.

    Among the few passages of a pilot nearly every query finds its own. Of a large corpus as many rows are read, spread
    evenly, as the scorer would draw. The index is kept in the pilot's folder; an interrupted build goes on.
    """
    job = run.job
    only, among = wanted_rows(files, job.part, (scorer.among or DRAWN) + 1)

    def batches() -> Iterator[PairBatch]:
        yield PairBatch(pairs, own)
        texts = (
            row.text
            for block in read_passages(job.corpora, files, job.read_limits(), only=only)
            for row, _ in block.rows()
        )
        number = 1
        while some := list(islice(texts, job.run.shard_size)):
            yield PairBatch(pairs, some, shard=number)
            number += 1

    folder = run.folder.make("index") / f"plan-{step.fingerprint}-{run.identity[:8]}"
    control.report(f"ranking {pairs.num_rows:,} queries among {among:,} passages of the corpus")
    disk.make_folder(folder)
    async with AsyncExitStack() as stack:
        models = Models(job.client(control.notify), job.instruction, Counters(), stack)
        services = models.services(job, scorer.needs, scorer.open(models.client, job.instruction))
        await scorer.build(batches(), folder, services)
        return await scorer.score(PairBatch(pairs, index=folder), services), among


_CONFIDENCE = 0.95


def interval(kept: NDArray[np.float64], asked: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds of the share of asked pairs that is kept, 95 %, from `kept` and `asked` of each of n input rows.

    Wilson's interval (1927) with the effective number of pairs, after Korn and Graubard (1998): queries of one row
    succeed and fail together, so the variance is that between rows, with Student's t for n - 1. Where all rows are
    alike, each counts as one pair.
    """
    rows = len(kept)
    share = float(kept.sum() / asked.sum())
    apart = (kept - share * asked) / asked.mean()
    variance = float(apart @ apart) / max(1, rows - 1) / rows
    pairs = min(float(asked.sum()), share * (1 - share) / variance) if variance > 0 else float(rows)
    t = _student(rows - 1)
    middle = share + t * t / (2 * pairs)
    half = t * float(np.sqrt(share * (1 - share) / pairs + t * t / (4 * pairs * pairs)))
    scale = 1 + t * t / pairs
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for 3 and more degrees of freedom, by its expansion around the normal one.

    Abramowitz and Stegun 26.7.5, within 0.02 from 3 on.
    """
    z, v = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2), max(3, freedom)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return float(z + sum(term / v**n for n, term in enumerate(terms, 1)))
