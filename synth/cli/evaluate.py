"""`synth evaluate`: how good models are on tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synth.cli.app import AsJson, command
from synth.terminal import columns, say, show, tell, words


@command(
    "synth evaluate all-MiniLM-L6-v2 outputs/model --test my-test/",
    "synth evaluate outputs/model --test heldout:outputs/mine -o outputs/evaluation",
    "synth evaluate outputs/model --test my-test/ --rerank '{use: cross_encoder, model: NAME}' --top-k 50",
)
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Folders, or names on the hub; the first is the reference.")
    ],
    test: Annotated[
        list[str],
        typer.Option(
            metavar="DIR",
            help="A BEIR or MTEB folder, heldout:RUN, mteb:TASK, or a file for STS, translations, classification.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Per-query figures and TREC run files.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="'{use: …}'", help="Rerank what was retrieved; see `synth list rerank`.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Documents of each query that are reranked.")] = 50,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Cut texts after this many tokens; default: the model's own limit.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best available.")] = None,
    as_json: AsJson = False,
) -> None:
    """How good models are on a test: nDCG@10, recall@100 and MRR@10 of retrieval.

    The change to the first model has a 95 % interval (bootstrap over queries) and a p-value (permutation test).
    """
    import yaml

    from synth.errors import JobError
    from synth.training.evaluate import EvaluateArgs, reranker
    from synth.training.evaluate import evaluate as work

    try:
        spec = yaml.safe_load(rerank or "null")
    except yaml.YAMLError as exc:
        raise JobError(f"--rerank {rerank}: is not YAML.", "For example '{use: cross_encoder, model: NAME}'") from exc
    args = EvaluateArgs(reranker(spec), top_k, max_tokens, device)
    records = work(models, test, args, out, (lambda _: None) if as_json else tell)
    if as_json:
        say(json.dumps(records))
        return
    for name in dict.fromkeys(each["test"] for each in records):
        _print([each for each in records if each["test"] == name])
    if out is not None:
        say(f"per query: {out / 'per_query.parquet'}")


def _print(records: Sequence[Mapping[str, Any]]) -> None:
    metrics = [name for name, value in records[0].items() if isinstance(value, float)]
    rows = []
    for each in records:
        row = [each["model"], *(f"{each[name]:.4f}" for name in metrics)]
        if change := each.get("change"):
            row += [f"{change['mean']:+.4f}", f"[{change['low']:+.4f}, {change['high']:+.4f}]", f"{change['p']:.4f}"]
            row += [f"{change['better']:.0%} / {change['worse']:.0%}"]
        rows.append([*row, *[""] * (len(metrics) + 5 - len(row))])
    head = [records[0]["test"], *metrics, f"change of {metrics[0]}", "95 % interval", "p", "better / worse"]
    width = len(head) if any("change" in each for each in records) else len(metrics) + 1
    show(columns(head[:width], [row[:width] for row in rows]))
    documents = f", {records[0]['documents']:,} documents" if "documents" in records[0] else ""
    synthetic = (
        "; these queries were generated, so they show little about people's"
        if records[0].get("synthetic_queries")
        else ""
    )
    show(words(f"{records[0]['queries']:,} queries{documents}{synthetic}\n"))
