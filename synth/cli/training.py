"""Commands that make training rows of kept pairs."""

# ruff: noqa: FBT002, PLC0415, PLR0913, PLR0917 - flags are parameters, and each command imports what it needs when called

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import AsJson, RunFolder, Settings, app, examples

Number = Annotated[str | None, typer.Option(metavar="NUMBER|null", help="A threshold; null for no such rule.")]


@app.command(
    epilog=examples(
        "synth mine out",
        "synth mine out --range 0:50 --num-negatives 3 --random",
        "synth mine out --corpus 'docs/*.jsonl' --by hybrid",
        "synth mine out --reranker '{use: cross_encoder, model: cross-encoder/ms-marco-MiniLM-L6-v2}'",
        "synth mine out --use written --on-short fill",
    )
)
def mine(
    out: RunFolder,
    view: Annotated[str | None, typer.Option(metavar="NAME", help="A view of `synth keep --as`; else kept.")] = None,
    file: Annotated[
        Path | None, typer.Option("-c", metavar="FILE.yaml", help="Options; see docs/negatives.md.")
    ] = None,
    use: Annotated[str | None, typer.Option(metavar="mined|written|given", help="Where negatives come from.")] = None,
    by: Annotated[str | None, typer.Option(metavar="bm25|dense|hybrid", help="What ranks the passages.")] = None,
    corpus: Annotated[
        list[str], typer.Option(metavar="FILE", help="Take them from these files in place of the run's passages.")
    ] = [],  # noqa: B006 - typer copies it
    document: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Passages with one value of it are chunks of one document.")
    ] = None,
    num_negatives: Annotated[str | None, typer.Option(metavar="N", help="Negatives of each pair; else 5.")] = None,
    range: Annotated[str | None, typer.Option("--range", metavar="LOW:HIGH", help="Ranks; else 20:50.")] = None,  # noqa: A002 - its flag
    max_score: Number = None,
    min_score: Number = None,
    absolute_margin: Number = None,
    relative_margin: Number = None,
    window: Annotated[
        str | None, typer.Option(metavar="before|after", help="Ranks count before or after rules.")
    ] = None,
    top: Annotated[bool | None, typer.Option("--top/--random", help="The nearest in the range, or a draw.")] = None,
    same_document: Annotated[
        bool | None, typer.Option("--same-document", help="Allow other chunks of the positive's document.")
    ] = None,
    reranker: Annotated[str | None, typer.Option(metavar="YAML", help="Checks the rest: {use: …, model: …}.")] = None,
    reject_above: Number = None,
    promote_above: Number = None,
    llm: Annotated[str | None, typer.Option(metavar="YAML", help="Writes negatives; else the job's.")] = None,
    on_short: Annotated[
        str | None, typer.Option(metavar="keep|drop|fill", help="What becomes of a pair with too few.")
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer copies it
    json: AsJson = False,
) -> None:
    """Find hard negatives for a run's pairs, and why each is one.

    Near passages that are no answer: ranked exactly, under rank and score rules, none equal or near to a known
    positive. Run again to go on where it stopped.
    """
    from synth.process import economise

    economise()
    from synth.commands.mine import Given
    from synth.commands.mine import mine as command

    options = {
        "use": use,
        "by": by,
        "num_negatives": num_negatives,
        "range": range,
        "max_score": max_score,
        "min_score": min_score,
        "absolute_margin": absolute_margin,
        "relative_margin": relative_margin,
        "window": window,
        "strategy": None if top is None else "top" if top else "random",
        "same_document": same_document,
        "reranker": reranker,
        "reject_above": reject_above,
        "promote_above": promote_above,
        "llm": llm,
        "on_short": on_short,
    }
    command(out, Given(view, corpus, document, file, options, settings), as_json=json)


@app.command(
    epilog=examples(
        "synth export out --to sentence-transformers -o train-data --split test=0.05",
        "synth export out --to ms-swift -o swift --negatives 5 --on-short fill",
        "synth export out --to beir -o benchmark --group doc --document contract_id --split test=0.1",
        "synth export out --to hub -o dataset --view strict --push owner/name",
    )
)
def export(
    out: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="sentence-transformers, ms-swift, flagembedding, tevatron, beir, mteb, jsonl or hub.",
        ),
    ],
    folder: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new folder for the files.")],
    view: Annotated[
        str | None, typer.Option(metavar="NAME", help="A view of `synth keep --as`, or generated; else kept.")
    ] = None,
    split: Annotated[
        list[str], typer.Option(metavar="NAME=SHARE", help="Hold a share out, as test=0.05; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    group: Annotated[
        str | None,
        typer.Option(metavar="passage_id|doc|cluster", help="What never stands in two splits; else cluster."),
    ] = None,
    document: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Pairs with one value of it are of one document.")
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Negatives of a row; else all that were mined; 0: pairs alone."),
    ] = None,
    on_short: Annotated[
        str | None, typer.Option(metavar="drop|fill", help="A row with too few: leave it out, or fill at random.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits and random passages; else the job's.")] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload to the Hugging Face Hub.")] = None,
    settings: Annotated[
        list[str], typer.Option("-s", "--set", metavar="KEY=VALUE", help="An option of the format; see `synth list`.")
    ] = [],  # noqa: B006 - typer copies it
    json: AsJson = False,
) -> None:
    """Write pairs and negatives as a trainer reads them.

    TRAIN.md beside the files says how to train on them. The folder appears when it is complete; an earlier export in
    it is replaced, anything else there is refused.
    """
    from synth.commands.export import Given
    from synth.commands.export import export as command

    given = Given(to, folder, view, split, group, document, negatives, on_short, seed, push, settings)
    command(out, given, as_json=json)
