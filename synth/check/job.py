"""Everything that can be known of a job before it runs, in one report: `examine`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from synth import registry
from synth.check import Findings
from synth.check.costs import Costs, expect
from synth.check.data import DataReport, PairsReport, look, look_at_pairs
from synth.check.servers import MOST_EMBEDDED, Asked, ask_all
from synth.document import Problem
from synth.errors import JobError, SynthError
from synth.job import Draft, Job, PersonaOptions
from synth.personas import Library, load_library
from synth.prompts import PromptFolder
from synth.results.advice import advice
from synth.results.summary import FEW_PASSAGES, RANK
from synth.rules.conditions import LOWER
from synth.runs.preflight import unsuited
from synth.shards import OutputFolder
from synth.shipped import find
from synth.sources import Corpus, InputFile, ReadLimits, inspect, require_apart
from synth.steps.keep import DEFAULT, record_of
from synth.target import FEWER
from synth.tasks import Task
from synth.types import Notify
from synth.validation import validate


def _files(draft: Draft, base: Path, findings: Findings) -> list[InputFile]:
    """The inputs of every corpus that can be understood, each looked at by itself."""
    given = draft.data.get("corpus")
    specs = given if isinstance(given, list) else [given] if isinstance(given, dict) else []
    limits = ReadLimits(max_line_bytes=draft.file.limits.max_line_bytes, strict=False) if draft.file else ReadLimits()
    files: list[InputFile] = []
    if draft.file and draft.file.out:
        try:
            require_apart(draft.file.input_paths, base, base / draft.file.out)
        except JobError as exc:
            findings.problem(Problem(("out",), exc.message, exc.hint))
    for index, spec in enumerate(specs):
        path = ("corpus", str(index)) if isinstance(given, list) else ("corpus",)
        corpus, _ = validate(Corpus, spec)
        try:
            seen = inspect([corpus], base, limits, notify=findings.warn) if corpus is not None else []
        except JobError as exc:
            findings.problem(Problem((*path, "path"), exc.message.removeprefix("corpus.path: "), exc.hint))
        except SynthError as exc:
            findings.error(exc)
        else:
            files += [replace(each, corpus_index=index) for each in seen]
    return files


def _prompts(draft: Draft, base: Path, findings: Findings) -> PromptFolder | None:
    """The templates of the task; of a task with mistakes elsewhere, those that it names."""
    task, given = draft.stages.get("task"), draft.data.get("task")
    if task is None and isinstance(given, dict):
        named = {key: given[key] for key in ("prompts", "examples") if key in given}
        with suppress(JobError):
            task, _ = validate(registry.find("tasks", str(given.get("use"))), named)
    if not isinstance(task, Task):
        return None
    try:
        prompts: PromptFolder = task.load_prompts(base)
    except SynthError as exc:
        findings.error(exc, f"{draft.document.name}: task: ")
        return None
    for warning in task.check(prompts):
        findings.warn(warning)
    return prompts


def _library(draft: Draft, base: Path, findings: Findings) -> Library | None:
    given = draft.data.get("personas", {})
    options = validate(PersonaOptions, given)[0] if isinstance(given, dict) else None
    if options is None:
        return None
    try:
        return load_library(find("personas", options.path, base), options.field)
    except JobError as exc:
        findings.problem(Problem(("personas", "path"), exc.message, exc.hint or "Check the path."))
    except SynthError as exc:
        findings.error(exc)
    return None


def _check_context(job: Job, longest: int | None, servers: Sequence[Asked], findings: Findings) -> None:
    room = [
        r.max_model_len for each in servers if each.section.startswith("llm") for r in each.results if r.max_model_len
    ]
    reply = job.llm.max_tokens if job.llm is not None else 0
    if room and longest and longest + reply > min(room):
        findings.warn(
            f"the longest prompt of the sample has about {longest:,} tokens, a reply up to {reply:,}; "
            f"the server takes {min(room):,} in all. Such items will be rejected as too_long: lower "
            "corpus.max_chars, or start the server with a larger --max-model-len."
        )


_SMALL, _HIGH = "MiniLM", 0.55
"""An embedder that gives many good pairs a lower cosine."""


def _check_rules(job: Job, items: int, findings: Findings) -> None:
    """Warn of rules that cannot tell good pairs: a threshold of another model, a rank among a few passages."""
    model = job.embed.model if job.embed else ""
    columns = job.rules.columns()
    lower = [each for each in job.rules.only({"cosine"}).conditions if each.operator in LOWER]
    high = [each.label() for each in lower if isinstance(each.value, int | float) and each.value > _HIGH]
    if high and _SMALL in model and RANK not in columns:
        findings.warn(
            f"keep: {high[0]} suits Qwen3-Embedding; {model} gives most good pairs less. Keep by "
            "`answerable: {above: 0.2}` and a cosine above 0.1, or by `round_trip_rank`."
        )
    if RANK in columns and items < FEW_PASSAGES:
        findings.warn(f"keep: {RANK}: a rank among so few passages tells little; there are at most {items}.")
    out = job.base / (job.file.out or Path("outputs", Path(job.source).stem))
    with suppress(SynthError):
        folder = OutputFolder.open(out)
        record = record_of(folder, DEFAULT)
        if record is not None and record.rules == job.rules and (lines := advice(folder)):
            findings.warn(f"{out}, the last run: {'. '.join(map(str.strip, lines))}")


def _check_target(job: Job, data: DataReport, findings: Findings) -> None:
    why = job.file.target.impossible(data.expected) if job.file.target and data.passages else None
    if why and data.sampled:
        findings.warn(f"{why}, by a sample. {FEWER}")
    elif why:
        findings.problem(Problem(("target", "kept"), why, FEWER))


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found; parts that mistakes elsewhere made impossible are None or empty."""

    data: DataReport | PairsReport | None
    servers: Sequence[Asked]
    costs: Costs | None
    findings: Findings
    task: Sequence[tuple[str, str]] = ()
    """What the task says about itself."""

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.findings.code == 0,
            "mistakes": self.findings.mistakes,
            "warnings": self.findings.warnings,
            "data": self.data.as_json() if self.data else None,
            "servers": [asdict(each) for each in self.servers],
            "expected": asdict(self.costs) if self.costs else None,
        }


def examine(draft: Draft, base: Path, *, offline: bool, notify: Notify = lambda _: None) -> Report:
    """Look at everything that is possible despite the draft's own mistakes."""
    findings = Findings(draft.document)
    for problem in draft.problems:
        findings.problem(problem)
    notify(f"{draft.document.name}: looking at the job and its files")
    files = _files(draft, base, findings)
    prompts, library = _prompts(draft, base, findings), _library(draft, base, findings)
    for scorer in draft.stages.get("scores", ()):
        try:
            scorer.at(base).require()
        except SynthError as exc:
            findings.error(exc, f"{draft.document.name}: ")
    job = draft.job(base)
    data: DataReport | PairsReport | None = None
    costs = None
    if job is not None and job.data:
        data = look_at_pairs(job, findings)
    elif job is not None:
        limits = ReadLimits(max_line_bytes=job.limits.max_line_bytes, strict=False)
        data = look(job, files, limits, findings)
        for problem in unsuited(job, list(data.languages)):
            findings.problem(problem)
        job.run.in_flight(findings.warn)
        _check_target(job, data, findings)
    if not offline:
        notify("asking the models")
    instruction = job.instruction if job is not None else str(getattr(draft.stages.get("task"), "instruction", ""))
    passages = [row.text for row in data.few(MOST_EMBEDDED)] if isinstance(data, DataReport) else []
    servers = asyncio.run(ask_all(draft.stages, instruction, passages, findings, offline=offline))
    if job is not None and isinstance(data, DataReport):
        costs, _ = expect(job, prompts, library, data, findings)
        _check_context(job, costs.longest_prompt, servers, findings)
    if job is not None and data is not None:
        _check_rules(job, data.expected, findings)
    told = list(job.task.facts(prompts, None)) if job is not None and job.task and prompts is not None else []
    return Report(data, servers, costs, findings, told)
