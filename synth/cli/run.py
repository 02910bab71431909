"""`synth run`, and the end of a run, which `synth filter` shares: its summary and its exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synth.cli import app as options
from synth.cli.app import AsJson, JobOrFolder, Settings, command
from synth.terminal import columns, heading, say, show, words

if TYPE_CHECKING:
    from synth.pipeline import Finished, RunArgs, Target


@command(
    "synth run configs/quickstart.yaml",
    "synth run job.yaml -o out -s corpus.path=docs.jsonl",
    "synth run configs/recipe-all.yaml   several tasks, each in its folder",
    "synth run job.yaml --sample 50",
    "synth run job.yaml --workers 4 --deadline 3h30m",
    "synth run job.yaml --runner ray --ray-address auto",
    "synth run out",
    "synth run job.yaml --continue      after editing it, or adding data",
)
def run(
    job: JobOrFolder,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder; default: the job's `out`.")] = None,
    settings: Settings = [],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only this many rows, spread over the corpus, into OUT.sample-N.")
    ] = None,
    workers: options.Workers = None,
    shard: options.Shard = None,
    deadline: options.Deadline = None,
    runner: Annotated[Literal["local", "ray"], typer.Option(help="Where the processes run.")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="auto|ray://HOST:PORT", help="The Ray cluster; default: RAY_ADDRESS, or a new local one."),
    ] = None,
    continue_edited: options.Continue = False,
    retry: Annotated[
        bool, typer.Option("--retry-rejected", help="At the end, ask rejected items again, as new items.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate, score and keep pairs; run again to resume.

    The same command again, or `synth run OUT`, resumes where it stopped; nothing finished is asked twice.
    """
    from synth.process import economise

    economise()
    from synth.pipeline import RunArgs, resolve, targets
    from synth.runners.ray_cluster import Cluster

    index, of = options.parse_shard(shard)
    cluster = Cluster(ray_address, workers) if runner == "ray" or ray_address else None
    args = RunArgs(workers, index, of, continue_edited=continue_edited, retry=retry, cluster=cluster)
    found = targets(job, out, settings, sample) or {"": resolve(job, out, settings, sample)}
    _run_all(found, args, deadline=deadline, as_json=as_json)


def run_target(
    target: Target, args: RunArgs | None = None, *, deadline: str | None = None, as_json: bool = False
) -> None:
    """Run a job, print its summary. Raises SynthError for every way it can end but well."""
    _run_all({"": target}, args, deadline=deadline, as_json=as_json)


def _run_all(targets: Mapping[str, Target], args: RunArgs | None, *, deadline: str | None, as_json: bool) -> None:
    """The same for the runs of a job with `tasks`, and a table of all that came to their end."""
    from synth import pipeline
    from synth.cli.stopping import Stopping, seconds_until

    done: dict[str, Finished] = {}

    def ended(name: str, finished: Finished) -> None:
        done[name] = finished
        if not as_json:
            show(*[words(), heading(name, "═")] if name else [])
            _show(finished)

    with Stopping(seconds_until(deadline) if deadline else None, quiet=as_json) as stopping:
        try:
            pipeline.run_all(targets, args or pipeline.RunArgs(), stopping, ended)
        finally:
            if as_json and done:
                each = {name: asdict(found.summary) | {"out": str(targets[name].out)} for name, found in done.items()}
                say(json.dumps(each.get("", {"tasks": each}), ensure_ascii=False, default=str))
            elif targets.keys() != {""} and done:
                head = ("task", "items", "usable", "kept", "share asked", "of items", "of kept")
                show(words(), heading("all tasks", "═"), columns(head, _rows(targets, done)))


def _show(finished: Finished) -> None:
    """The summary of a run, and what to look at next."""
    from synth.results.advice import advice
    from synth.results.render import summary_view

    out, counters, job = finished.run.folder.path, finished.counters, finished.run.job
    made, embedder = counters.pairs + counters.unusable, job.embed.model if job.embed else ""
    show(*summary_view(finished.summary, embedder=embedder, seconds=counters.seconds, made=made))
    found = [f"pairs that passed the rules: {out / 'kept'}", f"look at more of them: synth show {out} -n 5"]
    lines = advice(finished.run.folder)
    say("\n" + "\n".join([*lines, *(found if finished.summary.kept or not lines else ())]))


def _rows(targets: Mapping[str, Target], done: Mapping[str, Finished]) -> Iterator[Sequence[str]]:
    """Of each task its counts, the share of the items asked, and its shares of all items and of all kept pairs."""
    parts = {name: (each.job.part, each.job.require_task().items_per_passage) for name, each in targets.items()}
    asked = {name: items * (part.end - part.start) for name, (part, items) in parts.items() if part}
    items, kept = (max(1, sum(getattr(each.summary, name) for each in done.values())) for name in ("items", "kept"))
    for name, made in ((name, found.summary) for name, found in done.items()):
        shares = (asked[name] / sum(asked.values()), made.items / items, made.kept / kept)
        yield name, f"{made.items:,}", f"{made.pairs:,}", f"{made.kept:,}", *(f"{share:.0%}" for share in shares)
