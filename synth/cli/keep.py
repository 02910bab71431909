"""`synth keep`: other rules over stored scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import Above, AsJson, Below, Is, Max, Min, RunFolder, command
from synth.terminal import say, tell


@command(
    "synth keep out --above cosine=0.6           the default view, other rules",
    "synth keep out --above cosine=0.75 --is language_ok=true --as strict",
    "synth keep out --rules rules.yaml --as calibrated",
)
def keep(
    out: RunFolder,
    above: Above = [],
    below: Below = [],
    at_least: Min = [],
    at_most: Max = [],
    equal: Is = [],
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="A `keep:` mapping, instead of flags.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe: `synth list presets`.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="A view of its own, OUT/views/NAME; default: kept/ itself."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processors to use; default: all, at most 8.")] = None,
    as_json: AsJson = False,
) -> None:
    """Apply other rules to stored scores; no model is called.

    Killed, the same command resumes; the default view is exchanged at once, when the new one is complete.
    """
    from synth.results.advice import advice
    from synth.results.keep import apply
    from synth.rules.ruleset import chosen
    from synth.runs.run import job_of
    from synth.shards import OutputFolder

    flags = {"above": above, "below": below, "min": at_least, "max": at_most, "is": equal}
    wanted = chosen(flags, rules, job_of(out)[0].scores, preset)
    folder = OutputFolder.open(out, write=True, notify=tell)
    done = apply(folder, wanted, name, workers)
    if as_json:
        say(json.dumps(asdict(done) | {"out": str(folder.path)}, ensure_ascii=False))
        return
    same = not done.made and not done.swapped
    say(f"{f'nothing to do: {done.view} already holds these rules' if same else done.view}: {wanted.describe()}")
    share = f" ({done.kept / done.rows:.1%})" if done.rows else ""
    dropped = ", ".join(f"{count:,} by {reason}" for reason, count in done.dropped_by.items())
    shards = "1 shard" if done.shards == 1 else f"{done.shards:,} shards"
    say(f"kept {done.kept:,} of {done.rows:,}{share} in {shards}; dropped {dropped or 'nothing'}")
    for line in advice(folder, done.view):
        say(line)
    if done.swapped:
        say("the previous shards stay in a hidden folder for readers that have it open; `synth gc` removes it")
    say(f"look at them: synth show {out}" + (f" --view {name}" if name else ""))
