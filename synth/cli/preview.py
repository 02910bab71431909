"""`synth preview`: what the models are asked and what comes of it, for a few passages; writes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli.app import AsJson, JobFile, Settings, command
from synth.errors import JobError
from synth.terminal import facts, heading, say, show, tell, words
from synth.types import Rejected

if TYPE_CHECKING:
    from rich.console import RenderableType

    from synth.check.trial import Call, Tried
    from synth.job import Job


@command("synth preview job.yaml", "synth preview job.yaml -n 10 --json", "synth preview job.yaml --id contract-17")
def preview(
    path: JobFile,
    count: Annotated[int, typer.Option("-n", min=1, help="How many passages.")] = 3,
    passage_id: Annotated[str | None, typer.Option("--id", help="The passage with this id.")] = None,
    settings: Settings = [],
    as_json: AsJson = False,
) -> None:
    """Show prompts, replies, verdicts and scores for a few passages.

    The models are asked for real, with the seeds that a run would use; nothing is written.
    """
    from synth.job import load_job
    from synth.pipeline import targets

    tasks = {name: target.job for name, target in targets(path, None, settings, None).items()}
    found, absent = {}, None
    for name, job in (tasks or {"": load_job(path, settings)}).items():
        if name and not as_json:
            show(heading(name, "█"))
        try:
            found[name] = _preview(job, count, passage_id, as_json=as_json)
        except JobError as exc:
            if passage_id is None:
                raise
            absent = exc  # a passage is in one of the tasks
    if absent and not found:
        raise absent
    if as_json:
        say(json.dumps({"tasks": found} if tasks else found[""], ensure_ascii=False))


def _preview(job: Job, count: int, passage_id: str | None, *, as_json: bool) -> dict[str, Any]:
    """Show what a job asks and gets; with `as_json` nothing is shown, and it is returned."""
    from synth.check.trial import Trial, choose
    from synth.generators import Generators

    if job.data:
        hint = f"Try: synth run {job.source} --sample 5"
        raise JobError(f"{job.source}: filters existing pairs, so no model is asked.", hint)
    trial = Trial(job, tell)
    chosen = choose(job, trial.inputs, count, passage_id)
    if not as_json:
        tell(f"{job.source}: asking the models about {len(chosen)} {'passage' if len(chosen) == 1 else 'passages'}")
    tried = asyncio.run(trial.run(chosen))
    told = list(job.require_task().facts(trial.prompts, trial.prepared))
    calls = [call for each in tried for call in each.calls]
    system = next((text for call in calls[:1] for role, text in call.request.messages if role == "system"), None)
    if as_json:
        prepared = {"prepared": trial.prepared, "preparing": list(map(_call, trial.preparing))}
        return {"system": system, **prepared, "passages": [_facts(each) for each in tried]}
    for call in trial.preparing:
        show(*_call_view("before the first passage", call, several=isinstance(job.llm, Generators)))
    if told:
        show(facts(told))
    if system is not None:
        show(heading("system part, the same for every call of a run"), words(system))
    for each in tried:
        scores = [name for scorer in job.scores for name, _ in scorer.named_outputs()]
        show(*_view(each, scores, several=isinstance(job.llm, Generators)))
    return {}


def _view(tried: Tried, scores: Sequence[str], *, several: bool) -> Iterator[RenderableType]:
    from synth.results.render import row_view

    passage = tried.passage
    yield words()
    yield heading(f"passage {passage.position}: {passage.source}/{passage.id}, {passage.language}", "═")
    offered = zip(tried.candidates.personas, tried.candidates.similarities, strict=True)
    yield facts(("persona", f"{similarity:.2f}  {persona}") for persona, similarity in offered)
    for call in tried.calls:
        key = call.request.key
        yield from _call_view(f"{key.position}-{key.slot}", call, several=several)
    rows = iter(tried.rows)
    for outcome in tried.outcomes:
        yield words()
        if isinstance(outcome, Rejected):
            yield heading(f"no pair: {outcome.id}")
            yield facts([("reason", f"{outcome.reason}: {outcome.detail}")])
            continue
        row = next(rows)
        yield from row_view(row | {"passage": None}, "kept" if row["kept"] else "dropped", scores)
        if row["failed"]:
            yield facts([("rules", f"broken: {'; '.join(row['failed'])}")])


def _call_view(item: str, call: Call, *, several: bool) -> Iterator[RenderableType]:
    key = call.request.key
    stage = {"config": "stage one", "query": "stage two"}.get(key.stage, key.stage)
    yield words()
    yield heading(f"{item} {stage}, attempt {key.attempt + 1}, seed {call.request.seed}")
    yield from (words(content) for role, content in call.request.messages if role != "system")
    shown = [("verdict", call.verdict)]
    if call.reply is not None:
        tokens = f" ({call.reply.prompt_tokens} tokens in, {call.reply.completion_tokens} out)"
        shown += [("model", call.reply.model)] if several else []
        shown.insert(0, ("reply", f"{call.reply.text}{tokens if call.reply.prompt_tokens else ''}"))
    yield facts(shown)


def _facts(tried: Tried) -> dict[str, Any]:
    return {
        "passage": asdict(tried.passage),
        "personas": list(tried.candidates.personas),
        "calls": list(map(_call, tried.calls)),
        "pairs": [{key: _plain(value) for key, value in row.items()} for row in tried.rows],
        "rejected": [asdict(each) for each in tried.outcomes if isinstance(each, Rejected)],
    }


def _call(call: Call) -> dict[str, Any]:
    return {
        "call": asdict(call.request.key),
        "seed": call.request.seed,
        "messages": [{"role": role, "content": content} for role, content in call.request.messages],
        "schema": call.request.schema,
        "reply": call.reply.text if call.reply else None,
        "finish_reason": call.reply.finish_reason if call.reply else None,
        "model": call.reply.model if call.reply else None,
        "verdict": call.verdict,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | list | None) else str(value)
