"""`synth prove`: whether training on the pairs of a run makes a model better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from synth.cli.app import AsJson, command
from synth.terminal import say, show, tell


@command(
    "synth prove outputs/mine --test my-test/ -o outputs/proof",
    "synth prove outputs/mine --test my-test/ --off-domain other-test/ --view strict -o outputs/proof",
    "synth prove outputs/mine --test heldout --arm kept --arm random --seeds 5 -o outputs/proof",
    "synth prove outputs/mine --test my-test/ -c configs/prove.yaml -s seed=3 -o outputs/proof",
)
def prove(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    test: Annotated[
        str, typer.Option(metavar="DIR|heldout", help="People's queries with judgements: a BEIR or MTEB folder.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Figures, models and the report.")],
    off_domain: Annotated[
        list[str], typer.Option(metavar="DIR", help="A test on which training should do no harm; repeatable.")
    ] = [],
    arm: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="generated, kept, random, dropped, no-llm or a view; repeatable; default: all."
        ),
    ] = [],
    view: Annotated[
        list[str], typer.Option(metavar="NAME", help="A view of `synth keep --as` as a further arm; repeatable.")
    ] = [],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Cut texts after this many tokens, in training and in tests.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE.yaml", help="Settings of training; -s come on top.")
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of training, as model=FOLDER."),
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Train on a run's pairs, test before and after on people's queries, and say what is shown.

    Arms: generated (all pairs), kept, random (as many as kept), dropped, no-llm (title or sentence as the query), and
    views. All take the same number of steps: one pass over all pairs, up to three of few. The same command resumes.
    """
    from synth.training.prove import ProveArgs
    from synth.training.prove import prove as work
    from synth.training.report import drawn, publish
    from synth.training.runs import settings_of
    from synth.validation import override

    options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
    override(options, settings)
    args = ProveArgs(test, off_domain, arm, view, seeds, settings_of(file=config, options=options), max_tokens)
    record = publish(work(runs, args, out, (lambda _: None) if as_json else tell), out)
    if as_json:
        say(json.dumps(record, ensure_ascii=False))
        return
    show(*drawn(record))
    say(f"report: {out / 'report.md'}, {out / 'report.svg'}")
