"""The application and what its commands share: arguments and options, and the form of help pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from synth.errors import JobError
from synth.terminal import say

F = TypeVar("F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """A help page's last paragraph, its lines kept apart (the backspace says so)."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


app = typer.Typer(
    name="synth",
    help="Synthetic training pairs for embedding models: passages in, query–passage pairs in Parquet shards out.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "synth run configs/quickstart.yaml    all of it on this machine, no server",
        "synth init my-job.yaml               a job file to edit, then:",
        "synth check my-job.yaml              mistakes, servers, expected cost",
        "synth preview my-job.yaml            prompts, replies, scores of 3 passages",
        "synth run my-job.yaml                run again after a stop to resume",
    ),
)


def command(*example_lines: str, name: str | None = None) -> Callable[[F], F]:
    """A command whose help page ends in examples."""
    return app.command(name, epilog=examples(*example_lines))


@app.callback(invoke_without_command=True)
def _synth(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib import metadata

        say(f"synth {metadata.version('synth')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(2)


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file.", show_default=False)]
JobOrFolder = Annotated[
    Path, typer.Argument(metavar="JOB.yaml|OUT", help="A job file, or the folder of a run.", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a run.", show_default=False)]
Settings = Annotated[
    list[str], typer.Option("-s", "--set", metavar="KEY.PATH=VALUE", help="Set a key of the job file; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for scripts.")]

Above = Annotated[list[str], typer.Option("--above", metavar="COLUMN=NUMBER", help="Strictly above; repeatable.")]
Below = Annotated[list[str], typer.Option("--below", metavar="COLUMN=NUMBER", help="Strictly below; repeatable.")]
Min = Annotated[list[str], typer.Option("--min", metavar="COLUMN=NUMBER", help="At least this; repeatable.")]
Max = Annotated[list[str], typer.Option("--max", metavar="COLUMN=NUMBER", help="At most this; repeatable.")]
Is = Annotated[list[str], typer.Option("--is", metavar="COLUMN=VALUE", help="Equal to this; repeatable.")]

Workers = Annotated[
    int | None, typer.Option(min=1, max=256, help="Processes; default: the job's run.workers.", show_default=False)
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Run I of N runs in one folder (job arrays): takes its own shards first."),
]
Deadline = Annotated[
    str | None,
    typer.Option(metavar="3h30m|HH:MM", help="Stop in time before this, with exit code 75.", show_default=False),
]
Continue = Annotated[
    bool, typer.Option("--continue", help="Continue under an edited job; started shards keep the old settings.")
]


def parse_shard(text: str | None) -> tuple[int, int]:
    """`--shard I/N` as two numbers; (0, 1) without it. Raises JobError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text or "0/1")
    if match and 0 < int(match[2]) >= int(match[1]):
        return int(match[1]) % int(match[2]), int(match[2])
    raise JobError(f"--shard {text}: expected I/N, for example 0/4.", "Four runs take 0/4, 1/4, 2/4 and 3/4.")
