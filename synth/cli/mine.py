"""`synth mine`: hard negatives for the pairs of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, RunFolder, Settings, command
from synth.terminal import say, tell

if TYPE_CHECKING:
    from synth.runners.mining import MineArgs

Number = Annotated[str | None, typer.Option(metavar="NUMBER|null", help="A threshold; null: no such rule.")]


@command(
    "synth mine out",
    "synth mine out --range 0:50 --num-negatives 3 --sample random",
    "synth mine out --corpus 'docs/*.jsonl' --by hybrid",
    "synth mine out --reranker '{use: cross_encoder, model: NAME}'",
    "synth mine out -c teacher.yaml --range 0:200 --sample quantiles",
    "synth mine out --use written --on-short fill",
)
def mine(
    out: RunFolder,
    view: Annotated[str | None, typer.Option(metavar="NAME", help="A view of `keep --as`; default: kept.")] = None,
    file: Annotated[
        Path | None, typer.Option("-c", metavar="FILE.yaml", help="Options; see docs/negatives.md.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe: `synth list presets`.")
    ] = None,
    use: Annotated[str | None, typer.Option(metavar="mined|written|given", help="Where negatives come from.")] = None,
    by: Annotated[str | None, typer.Option(metavar="bm25|dense|hybrid", help="What ranks the passages.")] = None,
    corpus: Annotated[
        list[str], typer.Option(metavar="FILE", help="Take negatives from these files instead of the run's passages.")
    ] = [],
    document: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Passages with the same value are chunks of one document.")
    ] = None,
    num_negatives: Annotated[str | None, typer.Option(metavar="N", help="Negatives per pair; default: 5.")] = None,
    ranks: Annotated[str | None, typer.Option("--range", metavar="LOW:HIGH", help="Ranks; default: 20:50.")] = None,
    max_score: Number = None,
    min_score: Number = None,
    absolute_margin: Number = None,
    relative_margin: Number = None,
    window: Annotated[
        str | None, typer.Option(metavar="before|after", help="Count ranks before or after the rules.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="top|random|quantiles", help="Which of those in range; default: top.")
    ] = None,
    same_document: Annotated[
        bool | None, typer.Option("--same-document", help="Allow other chunks of the positive's document.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="YAML", help="Checks the candidates: {use: …, model: …}.")
    ] = None,
    reject_above: Number = None,
    promote_above: Number = None,
    llm: Annotated[str | None, typer.Option(metavar="YAML", help="Writes negatives; default: the job's.")] = None,
    on_short: Annotated[
        str | None, typer.Option(metavar="keep|drop|fill", help="What to do with a pair that has too few.")
    ] = None,
    settings: Settings = [],
    as_json: AsJson = False,
) -> None:
    """Find hard negatives for a run's pairs, and why each is one.

    Similar passages that do not answer the query: ranked exactly, filtered by rank and score rules, none equal or
    close to a known positive. Run again to resume.
    """
    from synth.process import economise

    economise()
    from synth.runners.mining import MineArgs

    options = {
        "use": use,
        "by": by,
        "num_negatives": num_negatives,
        "range": ranks,
        "max_score": max_score,
        "min_score": min_score,
        "absolute_margin": absolute_margin,
        "relative_margin": relative_margin,
        "window": window,
        "sample": sample,
        "same_document": same_document,
        "reranker": reranker,
        "reject_above": reject_above,
        "promote_above": promote_above,
        "llm": llm,
        "on_short": on_short,
    }
    mine_run(out, MineArgs(view, corpus, document, file, options, settings, preset), as_json=as_json)


def mine_run(out: Path, args: MineArgs, *, as_json: bool) -> None:
    """Mine, and print what was found and what was refused. Raises SynthError for every way it can end but well."""
    from synth.cli.stopping import until_signal
    from synth.runners.mining import carry_out, plan_of

    plan = plan_of(out, args, tell)
    options = plan.options
    began = time.monotonic()
    counts, made = until_signal(carry_out, plan, f"synth mine {out}", quiet=as_json)
    mined = plan.run.folder.path / "mined"
    if as_json:
        say(json.dumps(asdict(counts) | {"made": made, "out": str(mined)}))
        return
    took = f"shards made: {made:,}, in {time.monotonic() - began:,.1f} s"
    say(took if made else "nothing to do: mined/ already holds this")
    fewer = f"{counts.too_few:,} with fewer (on_short: {options.on_short}), {sum(counts.dropped.values()):,} dropped"
    say(f"{counts.rows:,} pairs: {counts.full:,} with {options.num_negatives} negatives, {fewer}")
    say(f"{counts.negatives:,} negatives, {counts.extra_positives:,} extra positives")
    if options.has_facets:
        told = "too few to tell them from mined ones, or scikit-learn is missing"
        if counts.written_auc is not None:
            told = f"a linear model tells them from mined ones with AUC {counts.written_auc:.2f} (0.5: not at all)"
        say(f"{counts.written:,} written negatives: {told}")
    say(f"refused: {listed(counts.refused)}")
    if counts.dropped:
        say(f"dropped: {listed(counts.dropped)}; see rejected/mined")
    if counts.too_few and not counts.negatives:
        say(f"no pair got a negative: {options.advice}")
    say(f"pairs with negatives: {mined}")


def listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "nothing"
