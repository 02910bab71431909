"""`synth show`: rows of a run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from synth.cli.app import AsJson, RunFolder, app, examples
from synth.terminal import say, tell, words
from synth.terminal import show as draw


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
    row_id: Annotated[str | None, typer.Option("--id", help="One pair, item or passage by its id.")] = None,
    view: Annotated[str, typer.Option(metavar="NAME", help="A view of `synth keep --as`.")] = "kept",
    as_json: AsJson = False,
) -> None:
    """Show rows: passage, configuration, query, scores, verdict."""
    from synth.results.render import row_view
    from synth.results.rows import rows, view_folder
    from synth.results.summary import scores_in
    from synth.runs.history import History
    from synth.shards import OutputFolder

    folder = OutputFolder.open(out)
    History.read(folder)  # raises for a folder that is not a run's
    found = rows(folder, count=count, view=view, rejected=rejected, where=where, row_id=row_id)
    scores = scores_in(folder, view_folder(folder, view))
    for source, row in found:
        if as_json:
            say(json.dumps({"from": source, **row}, ensure_ascii=False, default=str))
            continue
        draw(*row_view(row, source, scores), words())
    if not found and not as_json:
        tell("no such rows" if where else "no row was rejected" if rejected else "no rows yet")
