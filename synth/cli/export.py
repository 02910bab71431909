"""`synth export`: the pairs of a run as files that a trainer opens as they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, RunFolder, command
from synth.terminal import say, tell

if TYPE_CHECKING:
    from synth.results.export import ExportArgs


@command(
    "synth export out --to sentence-transformers -o train-data --split test=0.05",
    "synth export out --to sentence-transformers -o distil -s form=kl",
    "synth export out --to ms-swift -o swift --negatives 5 --on-short fill",
    "synth export out -o beir --to beir --document doc_id --split test=0.1",
    "synth export out --to hub -o dataset --view strict --push owner/name",
)
def export(
    out: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="sentence-transformers, ms-swift, flagembedding, pylate, tevatron, beir, mteb, jsonl, hub, csv or"
            " argilla.",
        ),
    ],
    folder: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new folder for the files.")],
    view: Annotated[
        str | None, typer.Option(metavar="NAME", help="A view of `synth keep --as`, or generated; default: kept.")
    ] = None,
    split: Annotated[
        list[str], typer.Option(metavar="NAME=SHARE", help="Hold a share out, as test=0.05; may be repeated.")
    ] = [],
    group: Annotated[
        str | None,
        typer.Option(metavar="passage_id|doc|cluster", help="What must not be in two splits; default: cluster."),
    ] = None,
    document: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Pairs with the same value are of one document.")
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Negatives per row; default: all that were mined; 0: pairs alone."),
    ] = None,
    on_short: Annotated[
        str | None, typer.Option(metavar="drop|fill", help="A row with too few: leave it out, or fill at random.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of splits and random passages; default: the job's.", show_default=False)
    ] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload to the Hugging Face Hub.")] = None,
    settings: Annotated[
        list[str], typer.Option("-s", "--set", metavar="KEY=VALUE", help="An option of the format; see `synth list`.")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Write pairs and negatives as a trainer reads them.

    TRAIN.md beside the files explains how to train on them. The folder appears when it is complete; an earlier export
    in it is replaced, any other content is refused.
    """
    from synth.results.export import ExportArgs

    args = ExportArgs(to, folder, view, split, group, document, negatives, on_short, seed, push, settings)
    export_run(out, args, as_json=as_json)


def export_run(out: Path, args: ExportArgs, *, as_json: bool) -> None:
    """Export, and print what the files hold. Raises SynthError for every way it can end but well."""
    from synth.results.export import export as work

    options, facts = work(out, args, (lambda _: None) if as_json else tell)
    counts = facts.counts
    if as_json:
        plain = asdict(counts) | {"lengths": {str(n): rows for n, rows in sorted(counts.lengths.items())}}
        say(json.dumps({"to": args.to, "out": str(args.out), "negatives_a_row": facts.negatives()} | plain))
        return
    rows = ", ".join(f"{split} {count:,}" for split, count in counts.rows.items())
    say(f"{args.out}: {options.title}, {rows} rows of {counts.pairs:,} pairs, {facts.negatives()} negatives at most")
    for count, what in (
        (counts.denied, "pairs left out: label 0 or less, judged not relevant"),
        (counts.unusable - counts.denied, "pairs left out: without a query or a passage"),
        (counts.too_few, f"pairs left out: fewer than {facts.shape.least} negatives (--negatives, --on-short fill)"),
        (counts.untaught, "pairs left out: no reranker's score of every passage"),
        (counts.filled, "pairs filled with random passages of others"),
        (counts.held_out, "passages left out of train, because another split shows them"),
        (counts.extra_positives, "extra positives, found by a reranker or by synth relabel"),
    ):
        if count:
            say(f"  {count:,} {what}")
    say(f"how to train on them: {args.out / 'TRAIN.md'}")
