"""`synth verify`: proof from the files that nothing is lost, torn or doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from synth.errors import OutputError
from synth.terminal import say
from synth.verify import Report, StepTotals
from synth.verify import verify as check

_SHOWN = 20


def verify(out: Path, *, deep: bool, as_json: bool) -> None:
    """Print what was proved, one line a step. Raises OutputError naming the first damaged file."""
    report = check(out, deep=deep)
    if as_json:
        say(json.dumps(report.as_json() | {"out": str(out)}, ensure_ascii=False))
    else:
        for line in lines(report, out):
            say(line)
    if report.damage:
        first = report.damage[0]
        more = f" ({len(report.damage)} statements like this one)" if len(report.damage) > 1 else ""
        raise OutputError(
            f"{out / first.file}: {first.what}{more}.",
            "Put the file back from a copy. A shard that is removed is made anew by the next run, if all that was made "
            "from it is removed too.",
        )


def lines(report: Report, out: Path) -> Iterator[str]:
    """The report as text."""
    told = [*report.facts, *((step.step, _ledger(step)) for step in report.steps)]
    width = max(28, *(len(name) + 2 for name, _ in told))
    for name, what in told:
        yield f"{name:<{width}}{what}"
    for title, found in (("damage", report.damage), ("note", report.notes)):
        for each in found[:_SHOWN]:
            yield f"{title}: {each.file}: {each.what}"
        if len(found) > _SHOWN:
            yield f"{title}: {len(found) - _SHOWN} more (--json names them all)"
    if report.damage:
        yield f"damaged: {len({each.file for each in report.damage})} files"
        return
    depth = "every page read" if report.deep else "footers, ids and checksums read; --deep reads every page"
    yield f"sound: nothing lost, torn or doubled ({depth})"
    if not report.complete:
        yield f"not finished; go on with: synth run {out}"


def _ledger(step: StepTotals) -> str:
    of = "?" if step.of is None else f"{step.of:,}"
    text = f"{step.shards:,}/{of} shards  {step.rows_in:,} {step.unit} = {step.rows_out:,} {step.made}"
    if step.made != "scored":
        text += f" + {step.rejected:,} rejected"
    if step.retried:
        text += f" ({step.retried:,} of them asked again as new items)"
    return text + (f", {step.open:,} to do" if step.open else "")
