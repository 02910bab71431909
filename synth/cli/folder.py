"""Commands on the folder of a run that ask no model: `synth show`, `status`, `verify` and `gc`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli.app import AsJson, RunFolder, command
from synth.errors import JobError, OutputError
from synth.terminal import columns, facts, heading, say, tell, words
from synth.terminal import show as draw

if TYPE_CHECKING:
    from synth.shards import OutputFolder
    from synth.verify import Report

_ADDED = {"relabelled": "relabel", "mined": "mine"}
"""Steps that are added to a finished run, and their commands."""
_SHOWN = 20
"""Problems of each kind that `verify` prints."""


@command(
    "synth show out -n 3",
    "synth show out --rejected",
    "synth show out --view strict",
    "synth show out --where \"cosine < 0.75 and query_language = 'de'\"",
    "synth show out --id 17-0",
)
def show(
    out: RunFolder,
    count: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 5,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rows that were rejected, with every attempt.")] = False,
    where: Annotated[str | None, typer.Option(help="An SQL condition on the columns.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="One pair, item or passage by its id.")] = None,
    view: Annotated[str, typer.Option(metavar="NAME", help="A view of `synth keep --as`.")] = "kept",
    as_json: AsJson = False,
) -> None:
    """Show rows: passage, configuration, query, scores, verdict."""
    from synth.results.render import row_view
    from synth.results.rows import rows, view_folder
    from synth.results.summary import scores_in
    from synth.runs.history import History
    from synth.shards import OutputFolder

    folder = OutputFolder.open(out)
    History.read(folder)  # raises for a folder that is not a run's
    found = rows(folder, count=count, view=view, rejected=rejected, where=where, row_id=row_id)
    scores = scores_in(folder, view_folder(folder, view))
    for source, row in found:
        if as_json:
            say(json.dumps({"from": source, **row}, ensure_ascii=False, default=str))
            continue
        draw(*row_view(row, source, scores), words())
    if not found and not as_json:
        tell("no such rows" if where else "no row was rejected" if rejected else "no rows yet")


@command("synth status out", "synth status out --json")
def status(out: RunFolder, as_json: AsJson = False) -> None:
    """What is done and what is left, step by step."""
    from synth.runs.run import OpenRun
    from synth.shards import OutputFolder
    from synth.steps.rounds import standing

    folder = OutputFolder.open(out)
    steps, working = list(_steps(folder)), list(_open_shards(folder.path / "wip"))
    run = OpenRun.recorded(folder)
    target = standing(run) if run.job.file.target is not None else None
    if as_json:
        known = {"target": asdict(target)} if target is not None else {}
        say(json.dumps({"steps": steps, "open": working} | known))
        return
    rows, behind = [], set()
    for step in steps:
        done, of, *counts = (step[name] for name in ("shards", "of", "rows_in", "rows_out", "rejected"))
        rows.append((step["step"], f"{done:,}/{'?' if of is None else f'{of:,}'}", *(f"{n:,}" for n in counts)))
        behind |= {step["step"]} if of is None or done < of else set()
    draw(columns(("step", "shards", "rows in", "rows out", "rejected"), rows))
    for step in steps:
        if step["rules"] is not None:
            say(f"{step['step']}: {step['rules']}")
    for each in working:
        state = "being worked on" if each["held"] else "left by a stopped run; the next run resumes it"
        say(f"{each['step']} {each['shard']}: {state}, last reply {each['idle_seconds']:,.0f} s ago")
    for line in target.lines() if target is not None else ():
        say(f"target: {line}")
    going_on = target is not None and not target.ended
    if going_on or any(name not in _ADDED and not name.startswith("views/") for name in behind):
        say(f"resume with: synth run {out}")
    elif added := [verb for name, verb in _ADDED.items() if name in behind]:
        say(f"resume with: synth {added[0]} {out}")


def _steps(folder: OutputFolder) -> Iterator[dict[str, Any]]:
    """Every step: finished and expected shards (None while step 0 is unfinished), rows, and the rules of a view."""
    from synth.results.summary import totals
    from synth.runs.history import History
    from synth.steps import keep

    history = History.read(folder)
    done = history.totals()
    scores = sorted(f"scores/{each.name}" for each in (folder.path / "scores").glob("*") if each.is_dir())
    views = [keep.DEFAULT, *keep.names(folder)]
    added = [name for name in _ADDED if (folder.path / name).is_dir()]
    for name in [*([] if history.last.existing else ["passages"]), "generated", *scores, *views, *added]:
        step, record = folder.step(name), keep.record_of(folder, name) if name in views else None
        counts = dict(zip(("rows_in", "rows_out", "rejected"), totals(step), strict=True))
        shards = {"shards": len(step.done()), "of": done["shards"] if done else None}
        yield {"step": name, **shards, **counts, "rules": record.rules.describe() if record else None}


def _open_shards(wip: Path) -> Iterator[dict[str, Any]]:
    """Every shard with a journal: seconds since its last call, whether a process holds it."""
    from synth.shards.journal import locked

    for path in sorted(wip.glob("*.jnl")):
        step, _, shard = path.name.removesuffix(".jnl").rpartition("-")
        with suppress(FileNotFoundError):  # committed a moment ago
            size, held = path.stat(), locked(path) is True
            idle = max(0.0, time.time() - size.st_mtime)
            yield {"step": step, "shard": shard, "journal_bytes": size.st_size, "idle_seconds": idle, "held": held}


@command("synth verify out", "synth verify out --deep --json")
def verify(
    out: RunFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Read every page of every file, and hash all inputs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove from the files that nothing is lost, torn or doubled."""
    from synth.mixture import runs_in
    from synth.verify import verify as check

    runs = {each.name: each for each in runs_in(out)}
    reports = {}
    for name, path in (runs or {"": out}).items():
        reports[name] = check(path, deep=deep)
        if not as_json:
            draw(*[heading(name, "═")] if name else [])
            _print(reports[name], path)
    if as_json:
        found = [report.as_json() | {"out": str(runs.get(name, out))} for name, report in reports.items()]
        several = {"out": str(out), "tasks": dict(zip(reports, found, strict=True))}
        say(json.dumps(several if runs else found[0], ensure_ascii=False))
    if damage := [(runs.get(name, out), each) for name, report in reports.items() for each in report.damage]:
        path, first = damage[0]
        more = f" ({len(damage)} problems in all)" if len(damage) > 1 else ""
        raise OutputError(
            f"{path / first.file}: {first.what}{more}.",
            "Restore the file from a copy. A shard that you remove is made again by the next run, if everything made "
            "from it is removed too.",
        )


def _print(report: Report, out: Path) -> None:
    rows = list(report.facts)
    for step in report.steps:
        of = "?" if step.of is None else f"{step.of:,}"
        text = f"{step.shards:,}/{of} shards  {step.rows_in:,} {step.unit} = {step.rows_out:,} {step.made}"
        text += f" + {step.rejected:,} rejected" if step.made != "scored" else ""
        text += f" ({step.retried:,} of them asked again as new items)" if step.retried else ""
        rows.append((step.step, text + (f", {step.open:,} to do" if step.open else "")))
    draw(facts(rows))
    for title, found in (("damage", report.damage), ("note", report.notes)):
        for each in found[:_SHOWN]:
            draw(words(f"{title}: {each.file}: {each.what}"))
        if len(found) > _SHOWN:
            draw(words(f"{title}: {len(found) - _SHOWN} more (--json names them all)"))
    if report.damage:
        draw(words(f"damaged: {len({each.file for each in report.damage})} files"))
        return
    depth = "every page read" if report.deep else "footers, ids and checksums read; --deep reads every page"
    draw(words(f"sound: nothing lost, torn or doubled ({depth})"))
    if not report.complete:
        say(f"not finished; resume with: synth run {out}")


@command("synth gc out --dry-run", "synth gc out --view strict")
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
    from synth.gc import collect
    from synth.validation import parse_duration

    try:
        seconds = parse_duration(age)
        spared = float(seconds if isinstance(seconds, float) else age)
    except ValueError as exc:
        raise JobError(f"--age {age}: not a duration.", "Write 30m, 2h or seconds.") from exc
    result = collect(out, view=view, scores=scores, age=spared, dry_run=dry_run)
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
