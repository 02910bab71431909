"""Commands that look at the folder of a run."""

# ruff: noqa: FBT002, PLC0415, PLR0913, PLR0917 - flags are parameters, and each command imports what it needs when called

from __future__ import annotations

from typing import Annotated

import typer

from synth.cli.app import AsJson, RunFolder, app, examples


@app.command(
    epilog=examples(
        "synth show out -n 3",
        "synth show out --rejected",
        "synth show out --view strict",
        "synth show out --where \"cosine < 0.75 and query_language = 'de'\"",
        "synth show out --id 17-0",
    )
)
def show(
    out: RunFolder,
    count: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 5,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rows that were rejected, with every attempt.")] = False,
    where: Annotated[str | None, typer.Option(help="An SQL condition on the columns.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="One pair, item or passage by its id.")] = None,  # noqa: A002 - its flag
    view: Annotated[str, typer.Option(metavar="NAME", help="A view of `synth keep --as`.")] = "kept",
    json: AsJson = False,
) -> None:
    """Show rows: passage, configuration, query, scores, verdict."""
    from synth.commands.show import show as command

    command(out, count=count, rejected=rejected, where=where, row_id=id, view=view, as_json=json)


@app.command(
    epilog=examples(
        "synth status out",
        "synth status out --json",
    )
)
def status(out: RunFolder, json: AsJson = False) -> None:
    """What is done and what is left, step by step."""
    from synth.commands.status import status as command

    command(out, as_json=json)


@app.command(
    epilog=examples(
        "synth verify out",
        "synth verify out --deep --json",
    )
)
def verify(
    out: RunFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Read every page of every file, and hash all inputs.")] = False,
    json: AsJson = False,
) -> None:
    """Prove from the files that nothing is lost, torn or doubled."""
    from synth.commands.verify import verify as command

    command(out, deep=deep, as_json=json)


@app.command(
    epilog=examples(
        "synth gc out --dry-run",
        "synth gc out --view strict",
    )
)
def gc(
    out: RunFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    view: Annotated[str | None, typer.Option(help="Also remove this view, a folder of OUT/views.")] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also remove scores that neither the job nor a view uses.")
    ] = False,
    age: Annotated[str, typer.Option(help="How long nobody must have written there, such as 30m.")] = "1h",
    json: AsJson = False,
) -> None:
    """Remove leftovers that are provably dead.

    Of crashes, of views swapped out, and, when named, of scores and views themselves.
    """
    from synth.commands.gc import gc as command

    command(out, dry_run=dry_run, view=view, scores=scores, age=age, as_json=json)
