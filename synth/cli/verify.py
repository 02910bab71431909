"""`synth verify`: proof from the files that nothing is lost, torn or doubled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, RunFolder, app, examples
from synth.errors import OutputError
from synth.terminal import facts, say, show, words

if TYPE_CHECKING:
    from synth.verify import Report, StepTotals

_SHOWN = 20


@app.command(
    epilog=examples(
        "synth verify out",
        "synth verify out --deep --json",
    )
)
def verify(
    out: RunFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Read every page of every file, and hash all inputs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove from the files that nothing is lost, torn or doubled."""
    from synth.verify import verify as check

    report = check(out, deep=deep)
    if as_json:
        say(json.dumps(report.as_json() | {"out": str(out)}, ensure_ascii=False))
    else:
        _print(report, out)
    if report.damage:
        first = report.damage[0]
        more = f" ({len(report.damage)} problems in all)" if len(report.damage) > 1 else ""
        raise OutputError(
            f"{out / first.file}: {first.what}{more}.",
            "Restore the file from a copy. A shard that you remove is made again by the next run, if everything made "
            "from it is removed too.",
        )


def _print(report: Report, out: Path) -> None:
    show(facts([*report.facts, *((step.step, _ledger(step)) for step in report.steps)]))
    for title, found in (("damage", report.damage), ("note", report.notes)):
        for each in found[:_SHOWN]:
            show(words(f"{title}: {each.file}: {each.what}"))
        if len(found) > _SHOWN:
            show(words(f"{title}: {len(found) - _SHOWN} more (--json names them all)"))
    if report.damage:
        show(words(f"damaged: {len({each.file for each in report.damage})} files"))
        return
    depth = "every page read" if report.deep else "footers, ids and checksums read; --deep reads every page"
    show(words(f"sound: nothing lost, torn or doubled ({depth})"))
    if not report.complete:
        say(f"not finished; resume with: synth run {out}")


def _ledger(step: StepTotals) -> str:
    of = "?" if step.of is None else f"{step.of:,}"
    text = f"{step.shards:,}/{of} shards  {step.rows_in:,} {step.unit} = {step.rows_out:,} {step.made}"
    if step.made != "scored":
        text += f" + {step.rejected:,} rejected"
    if step.retried:
        text += f" ({step.retried:,} of them asked again as new items)"
    return text + (f", {step.open:,} to do" if step.open else "")
