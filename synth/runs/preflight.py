"""What a job and its data must fulfil together; `run`, `check` and `preview` refuse the same things."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from synth.document import Problem
from synth.errors import JobError
from synth.job import Job
from synth.rules.conditions import Grouped
from synth.tasks import Task

_SHOWN = 5


def require_suited(job: Job, languages: Sequence[str]) -> None:
    """Raises JobError when a job cannot be carried out over passages in these languages."""
    lines = [f"{job.source}: {'.'.join(each.path)}: {each.message}. {each.cure}" for each in unsuited(job, languages)]
    if lines:
        raise JobError("\n  ".join(lines))


def unsuited(job: Job, languages: Sequence[str]) -> list[Problem]:
    """Queries that the language model cannot write, and groups without a threshold.

    `languages` are those of the passages; empty where none could be read.
    """
    if job.task is None:
        return []
    pairs = [(passage, query) for passage in languages for query in job.task.query_languages(passage)]
    found = list(_ungrouped(job, job.task, pairs))
    writes = job.llm.writes if job.llm is not None else lambda _query, _passage: True
    refused = [f"{query} for {passage}" for passage, query in pairs if not writes(query, passage)]
    if refused:
        what = f"asks for queries that this llm cannot write ({', '.join(refused[:_SHOWN])})"
        cure = "Use another model, or other languages, such as {same: 1}."
        found.insert(0, Problem(("task", "languages"), what, cure))
    return found


def _ungrouped(job: Job, task: Task, pairs: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    """Groups that this job's pairs can fall into and that a threshold by group has no value for."""
    known: dict[str, Sequence[str]] = {
        **task.values(),
        "source": [corpus.source for corpus in job.corpora],
        "task": [task.name],
    }
    languages = ("passage_language", "query_language")
    for condition in job.rules.conditions:
        grouped = condition.value
        if not isinstance(grouped, Grouped) or any(name not in (*known, *languages) for name in grouped.by):
            continue
        missing: dict[str, None] = {}
        for passage, query in pairs or [("", "")]:
            values = known | {"passage_language": [passage], "query_language": [query]}
            for key in product(*(values[name] for name in grouped.by)):
                if all(key) and grouped.of(key) is None:
                    missing[", ".join(key)] = None
        if missing:
            shown = "; ".join(list(missing)[:_SHOWN]) + ("; …" if len(missing) > _SHOWN else "")
            yield Problem(
                ("keep", condition.column, condition.operator),
                f"no value for {shown}, which this job can produce",
                "Add them, or `default:`.",
            )
