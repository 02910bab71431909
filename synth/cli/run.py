"""`synth run`, and the end of a run, which `synth filter` shares: its summary and its exit code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synth.cli import app as options
from synth.cli.app import AsJson, JobOrFolder, Settings, command
from synth.terminal import say, show, tell

if TYPE_CHECKING:
    from synth.pipeline import RunArgs, Target


@command(
    "synth run configs/quickstart.yaml",
    "synth run job.yaml -o out -s corpus.path=docs.jsonl",
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
    from synth.pipeline import RunArgs, resolve
    from synth.runners.ray_cluster import Cluster

    index, of = options.parse_shard(shard)
    cluster = Cluster(ray_address, workers) if runner == "ray" or ray_address else None
    args = RunArgs(workers, index, of, continue_edited=continue_edited, retry=retry, cluster=cluster)
    run_target(resolve(job, out, settings, sample), args, deadline=deadline, as_json=as_json)


def run_target(
    target: Target, args: RunArgs | None = None, *, deadline: str | None = None, as_json: bool = False
) -> None:
    """Run a job, print its summary. Raises SynthError for every way it can end but well."""
    from synth import pipeline
    from synth.cli.stopping import Stopping, seconds_until
    from synth.results.advice import advice
    from synth.results.render import summary_view

    seconds = seconds_until(deadline) if deadline else None
    if not as_json:
        tell(f"{target.job.source} → {target.out}")
    with Stopping(seconds, quiet=as_json) as stopping:
        finished = pipeline.run(target, args, stopping)
        out, counters = finished.run.folder.path, finished.counters
        if as_json:
            say(json.dumps(asdict(finished.summary) | {"out": str(out)}, ensure_ascii=False, default=str))
        else:
            embedder = target.job.embed.model if target.job.embed else ""
            made = counters.pairs + counters.unusable
            show(*summary_view(finished.summary, embedder=embedder, seconds=counters.seconds, made=made))
            found = [f"pairs that passed the rules: {out / 'kept'}", f"look at more of them: synth show {out} -n 5"]
            lines = advice(finished.run.folder)
            say("\n" + "\n".join([*lines, *(found if finished.summary.kept or not lines else ())]))
    finished.require_usable()
