"""Commands that start from a job file."""

# ruff: noqa: FBT002, PLC0415, PLR0913, PLR0917 - flags are parameters, and each command imports what it needs when called

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import AsJson, Deadline, GoOn, JobFile, JobOrFolder, Settings, Shard, Workers, app, examples


class Runner(StrEnum):
    """Where the processes of a run are."""

    LOCAL = "local"
    RAY = "ray"


@app.command(
    epilog=examples(
        "synth run configs/quickstart.yaml",
        "synth run job.yaml -o out -s corpus.path=docs.jsonl",
        "synth run job.yaml --sample 50",
        "synth run job.yaml --workers 4 --deadline 3h30m",
        "synth run job.yaml --runner ray --ray-address auto",
        "synth run out",
        "synth run job.yaml --continue                          after editing it, or adding data",
    )
)
def run(
    job: JobOrFolder,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder; else the job's `out`.")] = None,
    settings: Settings = [],  # noqa: B006 - typer copies it
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only this many rows, spread over the corpus, into OUT.sample-N.")
    ] = None,
    workers: Workers = None,
    shard: Shard = None,
    deadline: Deadline = None,
    runner: Annotated[Runner, typer.Option(help="Where the processes run.")] = Runner.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="auto|ray://HOST:PORT", help="The Ray cluster; else RAY_ADDRESS, else a Ray of its own."),
    ] = None,
    go_on: GoOn = False,
    retry: Annotated[
        bool, typer.Option("--retry-rejected", help="When all is done, ask the rejected items again, as new ones.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Generate, score and keep pairs; run again to go on.

    The same command again, or `synth run OUT`, goes on where it stopped; nothing finished is asked twice.
    """
    from synth.process import economise

    economise()
    from synth.commands.run import How, parse_share
    from synth.commands.run import run as command
    from synth.commands.stopping import seconds_until
    from synth.commands.target import resolve
    from synth.runners.ray_cluster import Cluster

    index, of = parse_share(shard) if shard else (0, 1)
    seconds = seconds_until(deadline) if deadline else None
    cluster = Cluster(ray_address, workers) if runner is Runner.RAY or ray_address else None
    how = How(workers, index, of, seconds, go_on=go_on, retry=retry, cluster=cluster)
    command(resolve(job, out, settings, sample), as_json=json, how=how)


@app.command(
    epilog=examples(
        "synth check job.yaml",
        "synth check job.yaml --offline",
        "synth check job.yaml -s llm.base_urls.0=http://node7:8000/v1",
    )
)
def check(
    job: JobFile,
    settings: Settings = [],  # noqa: B006 - typer copies it
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server.")] = False,
    json: AsJson = False,
) -> None:
    """Name all mistakes of a job before it runs, and its costs.

    Looks at the job file, the files it names, a sample of the data and each server; writes nothing.
    """
    from synth.commands.check import check as command

    command(job, settings, offline=offline, as_json=json)


@app.command(
    epilog=examples(
        "synth preview job.yaml",
        "synth preview job.yaml -n 10 --json",
        "synth preview job.yaml --id contract-17",
    )
)
def preview(
    job: JobFile,
    count: Annotated[int, typer.Option("-n", min=1, help="How many passages.")] = 3,
    id: Annotated[str | None, typer.Option("--id", help="The passage with this id.")] = None,  # noqa: A002 - its flag
    settings: Settings = [],  # noqa: B006 - typer copies it
    json: AsJson = False,
) -> None:
    """Show prompts, replies, verdicts and scores for a few passages.

    The models are asked for real, with the seeds that a run would use; nothing is written.
    """
    from synth.commands.preview import preview as command

    command(job, settings, count=count, passage_id=id, as_json=json)
