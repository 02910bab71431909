"""Commands for a beginning: a job file, and what can stand in it."""

# ruff: noqa: FBT002, PLC0415 - flags are typer's booleans, and each command imports what it needs when called

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import AsJson, app, examples


@app.command(
    epilog=examples(
        "synth init",
        'synth init my-job.yaml --corpus "data/*.parquet"',
    )
)
def init(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The file to write.")] = Path("job.yaml"),
    corpus: Annotated[str, typer.Option(help="Where the passages are.")] = "data/*.jsonl",
) -> None:
    """Write a commented job file to start from."""
    from synth.commands.init import init as command

    command(job, corpus)


@app.command(
    "list",
    epilog=examples("synth list", "synth list llm vllm_server", "synth list scores cosine", "synth list corpus"),
)
def list_(
    kind: Annotated[str | None, typer.Argument(help="A kind, or a section of the job.", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(help="One stage: all its options.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """The stages a job can name with `use:`, and their options."""
    from synth.commands.list import list_stages as command

    command(kind, name, as_json=json)
