"""Commands of the quality pass: pairs that exist, rules over stored scores."""

# ruff: noqa: FBT002, PLC0415, PLR0913, PLR0917 - flags are parameters, and each command imports what it needs when called

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import AsJson, Deadline, GoOn, Rule, RunFolder, Settings, Shard, Workers, app, examples


@app.command(
    epilog=examples(
        "synth filter pairs.parquet -o out",
        "synth filter clicks.jsonl -o out --query-column q --passage-column doc --above cosine=0.6",
        "synth filter beir-folder/ -o out --embed-url http://localhost:8100/v1 --embed-model Qwen/Qwen3-Embedding-0.6B",
        "synth filter -c configs/filter.yaml",
    )
)
def filter(  # noqa: A001 - its name
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA...",
            help="Files and patterns of one layout, BEIR folders, folders of runs.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")] = None,
    job: Annotated[Path | None, typer.Option("-c", metavar="FILTER.yaml", help="A job file with `data:`.")] = None,
    query_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="The query; else a usual name.")] = None,
    passage_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="The passage; else as above.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Says which pairs are good.")] = None,
    embed_url: Annotated[str | None, typer.Option(metavar="URL", help="A vLLM server with an embedder.")] = None,
    embed_model: Annotated[str | None, typer.Option(metavar="MODEL", help="The model there, or a local one.")] = None,
    above: Rule = [],  # noqa: B006 - typer copies it
    below: Rule = [],  # noqa: B006 - as above
    min: Rule = [],  # noqa: A002, B006 - its flag
    max: Rule = [],  # noqa: A002, B006 - its flag
    is_: Annotated[list[str], typer.Option("--is", metavar="COLUMN=VALUE", help="Equal to this.")] = [],  # noqa: B006 - as above
    settings: Settings = [],  # noqa: B006 - typer copies it
    sample: Annotated[int | None, typer.Option(min=1, help="Only this many rows, into OUT.sample-N.")] = None,
    workers: Workers = None,
    shard: Shard = None,
    deadline: Deadline = None,
    go_on: GoOn = False,
    json: AsJson = False,
) -> None:
    """Score pairs that exist already and keep the good ones.

    The layout is recognised and said before anything starts; every column of the data stays with its pair. The same
    command again, or `synth run OUT`, goes on where it stopped.
    """
    from synth.process import economise

    economise()
    from synth.commands.filter import Given, target
    from synth.commands.run import How, parse_share
    from synth.commands.run import run as command
    from synth.commands.stopping import seconds_until

    given = Given(data or (), query_column, passage_column, label_column, embed_url, embed_model)
    rules = {"above": above, "below": below, "min": min, "max": max, "is": is_}
    index, of = parse_share(shard) if shard else (0, 1)
    how = How(workers, index, of, seconds_until(deadline) if deadline else None, go_on=go_on)
    command(target(given, job, out, rules, settings, sample), as_json=json, how=how)


@app.command(
    epilog=examples(
        "synth keep out --above cosine=0.6                      the default view, other rules",
        "synth keep out --above cosine=0.75 --is language_ok=true --as strict",
        "synth keep out --rules rules.yaml --as calibrated",
    )
)
def keep(
    out: RunFolder,
    above: Rule = [],  # noqa: B006 - typer copies it
    below: Rule = [],  # noqa: B006 - as above
    min: Rule = [],  # noqa: A002, B006 - its flag
    max: Rule = [],  # noqa: A002, B006 - its flag
    is_: Annotated[list[str], typer.Option("--is", metavar="COLUMN=VALUE", help="Equal to this.")] = [],  # noqa: B006 - as above
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="A `keep:` mapping, in place of flags.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="A view of its own, OUT/views/NAME; else the default one."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; else as many as are worth it.")] = None,
    json: AsJson = False,
) -> None:
    """Apply other rules to stored scores; no model is called.

    The view fills in shards, so that a killed command goes on where it was; the default view is exchanged at once.
    """
    from synth.commands.keep import keep as command
    from synth.rules.ruleset import chosen
    from synth.run.run import job_of

    flags = {"above": above, "below": below, "min": min, "max": max, "is": is_}
    command(out, chosen(flags, rules, job_of(out, ())[0].scores), name=name, workers=workers, as_json=json)


@app.command(
    epilog=examples(
        "synth sweep out",
        "synth sweep out --score cosine --by query_language --calibrate random-pairs=0.01 --write rules.yaml",
        "synth sweep out --score reranker --label-column label --at 0.5,0.9",
    )
)
def sweep(
    out: RunFolder,
    score: Annotated[str, typer.Option(help="The column to sweep.")] = "cosine",
    by: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Also by the groups of these columns.")] = "",
    at: Annotated[str, typer.Option(metavar="N[,N]", help="These thresholds; else evenly spaced ones.")] = "",
    calibrate: Annotated[
        str | None, typer.Option(metavar="keep=S|random-pairs=S", help="Propose thresholds for a share S, by group.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="RULES.yaml", help="Write the proposal, for synth keep --rules.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Labels (above 0: relevant): precision, recall, AUC.")
    ] = None,
    lower: Annotated[bool, typer.Option("--lower", help="Lower scores are the better ones.")] = False,
    count: Annotated[int, typer.Option("-n", min=0, help="Pairs to show on either side of each threshold.")] = 1,
    json: AsJson = False,
) -> None:
    """What each threshold of a score would keep; reads, calls no model."""
    from synth.commands.sweep import Options
    from synth.commands.sweep import sweep as command

    command(out, Options.read(score, by, at, calibrate, label_column, lower=lower, count=count), write, as_json=json)
