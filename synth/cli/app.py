"""The application and what its commands share: kinds of arguments, and the form of help pages."""

# ruff: noqa: FBT002, PLC0415 - flags are typer's booleans, and what --version needs is read when it is asked for

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def examples(*lines: str) -> str:
    """A help page's last paragraph, its lines kept apart (the backspace says so)."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


app = typer.Typer(
    name="synth",
    help="Synthetic training pairs for embedding models: passages in, query–passage pairs in Parquet shards out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "synth run configs/quickstart.yaml    all of it at once, on this machine, without a server",
        "synth init my-job.yaml               a job file of your own to edit, then:",
        "synth check my-job.yaml              every mistake, each server, what it will cost",
        "synth preview my-job.yaml            prompts, replies and scores for three passages",
        "synth run my-job.yaml                again after a stop: goes on where it was",
    ),
)


def _version(asked: bool) -> None:  # noqa: FBT001 - a callback of typer's
    if asked:
        from importlib.metadata import version

        typer.echo(f"synth {version('synth')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _synth(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file.", show_default=False)]
JobOrFolder = Annotated[
    Path, typer.Argument(metavar="JOB.yaml|OUT", help="A job file, or the folder of a run.", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a run.", show_default=False)]
Settings = Annotated[
    list[str],
    typer.Option("-s", "--set", metavar="KEY.PATH=VALUE", help="Set a key of the job file; may be repeated."),
]
Rule = Annotated[list[str], typer.Option(metavar="COLUMN=NUMBER", help="A threshold; may be repeated.")]
Workers = Annotated[
    int | None, typer.Option(min=1, max=256, help="Processes; else the job's run.workers.", show_default=False)
]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="This is run I of N in one folder (job arrays): its shards first.")
]
Deadline = Annotated[
    str | None, typer.Option(metavar="3h30m|HH:MM", help="Stop in time before this, and exit 75.", show_default=False)
]
GoOn = Annotated[
    bool, typer.Option("--continue", help="Go on under changed settings: what is begun keeps the old ones.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for scripts.")]
