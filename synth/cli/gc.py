"""`synth gc`: removes what is provably dead, and prints what."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from synth.cli.app import AsJson, RunFolder, app, examples
from synth.errors import JobError
from synth.terminal import say


@app.command(
    epilog=examples(
        "synth gc out --dry-run",
        "synth gc out --view strict",
    )
)
def gc(
    out: RunFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    view: Annotated[str | None, typer.Option(help="Also remove this view, a folder of OUT/views.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also remove scores that no job or view uses.")] = False,
    age: Annotated[str, typer.Option(help="Spare files written more recently than this, such as 30m.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Remove leftovers that are provably dead.

    Leftovers of crashes and replaced views, and, when named, scores and views themselves.
    """
    from synth.gc import Wanted, collect

    result = collect(out, Wanted(view=view, scores=scores, age=_seconds(age)), dry_run=dry_run)
    if as_json:
        removed = [asdict(each) for each in result.removed]
        say(json.dumps({"removed": removed, "left": result.left, "bytes": result.bytes, "dry_run": dry_run}))
        return
    done = "would remove" if dry_run else "removed"
    for each in result.removed:
        say(f"{done} {each.path} ({each.bytes:,} bytes): {each.why}")
    for line in result.left:
        say(f"left {line}")
    say(f"{done} {len(result.removed)} files and folders, {result.bytes:,} bytes")


def _seconds(age: str) -> float:
    from synth.validation import parse_duration

    try:
        seconds = parse_duration(age)
        return float(seconds if isinstance(seconds, float) else age)
    except ValueError as exc:
        raise JobError(f"--age {age}: not a duration.", "Write 30m, 2h or seconds.") from exc
