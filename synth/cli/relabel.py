"""`synth relabel`: which passages near each query answer it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, RunFolder, Settings, command
from synth.terminal import say, tell

if TYPE_CHECKING:
    from synth.runners.mining import MineArgs


@command(
    "synth relabel out --reranker '{use: cross_encoder, model: NAME}'",
    "synth relabel out -c judges.yaml --pool 50",
    "synth relabel out --reranker '{use: …}' --llm '{use: openai, model: NAME}'",
)
def relabel(
    out: RunFolder,
    reranker: Annotated[str | None, typer.Option(metavar="YAML", help="Judges first: {use: …, model: …}.")] = None,
    llm: Annotated[str | None, typer.Option(metavar="YAML", help="Judges what it is unsure of; default: none.")] = None,
    view: Annotated[str | None, typer.Option(metavar="NAME", help="A view of `keep --as`; default: kept.")] = None,
    file: Annotated[Path | None, typer.Option("-c", metavar="FILE.yaml", help="See docs/negatives.md.")] = None,
    pool: Annotated[str | None, typer.Option(metavar="N", help="Passages besides the own one; default: 20.")] = None,
    positive_above: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Scores of answers; default: 0.9.")
    ] = None,
    negative_below: Annotated[str | None, typer.Option(metavar="NUMBER", help="Scores of none; default: 0.1.")] = None,
    margin: Annotated[str | None, typer.Option(metavar="NUMBER", help="Lead that replaces it; default: 0.2.")] = None,
    corpus: Annotated[list[str], typer.Option(metavar="FILE", help="Passages of files, not of the run.")] = [],
    settings: Settings = [],
    as_json: AsJson = False,
) -> None:
    """Judge the passages near each query, and choose positives anew.

    A reranker and, where it is unsure, a language model call each passage positive, negative or ambiguous. A pair gets
    all positives, loses a passage that answers nothing, and gets no ambiguous one as a negative. Run again to resume.
    """
    from synth.process import economise

    economise()
    from synth.runners.mining import MineArgs

    options = {
        "reranker": reranker,
        "llm": llm,
        "pool": pool,
        "positive_above": positive_above,
        "negative_below": negative_below,
        "margin": margin,
    }
    relabel_run(out, MineArgs(view, corpus, None, file, options, settings), as_json=as_json)


def relabel_run(out: Path, args: MineArgs, *, as_json: bool) -> None:
    """Relabel, and print what became of the pairs. Raises SynthError for every way it can end but well."""
    from synth.cli.mine import listed
    from synth.cli.stopping import until_signal
    from synth.runners.mining import carry_out, relabel_plan_of

    plan = relabel_plan_of(out, args, tell)
    began = time.monotonic()
    counts, made = until_signal(carry_out, plan, f"synth relabel {out}", quiet=as_json)
    found = plan.run.folder.path / "relabelled"
    if as_json:
        say(json.dumps(asdict(counts) | {"made": made, "out": str(found)}))
        return
    took = f"shards made: {made:,}, in {time.monotonic() - began:,.1f} s"
    say(took if made else "nothing to do: relabelled/ already holds this")
    say(f"{counts.rows:,} pairs, by their own passage: {listed(counts.own)}")
    say(f"{counts.replaced:,} passages replaced by a better one, {counts.several:,} pairs with several positives")
    parts = f"positive {counts.positives:,}, ambiguous {counts.ambiguous:,}, negative {counts.negatives:,}"
    say(f"{counts.judged:,} passages judged: {parts}")
    if counts.dropped:
        say(f"dropped: {listed(counts.dropped)}; see rejected/relabelled")
    say(f"pairs with their positives: {found}")
