"""`synth merge`: several models of one architecture as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import command
from synth.terminal import say


@command(
    "synth merge sentence-transformers/all-MiniLM-L6-v2 model -o merged --t 0.5",
    "synth merge model/seed-0 model/seed-1 model/seed-2 -o averaged --by mean",
)
def merge(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Folders or Hub names.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL", help="A new folder for the model.")],
    by: Annotated[
        str, typer.Option(metavar="slerp|mean", help="Along the arc between two models, or the average of any number.")
    ] = "slerp",
    t: Annotated[float | None, typer.Option("--t", help="Share of the second model in a slerp; default: 0.5.")] = None,
) -> None:
    """Merge models that were trained from one base.

    Half-way between a base and its fine-tune undoes some overfitting and forgetting; the average of several seeds is
    steadier than each. LoRA adapters are merged into their weights first; norms are always averaged.
    """
    from synth.training.merge import merge as work

    say(f"merged: {work(models, out, by=by, t=t)}")
