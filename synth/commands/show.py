"""`synth show`: rows of a run as they stand on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from synth.errors import JobError
from synth.results.render import row_lines
from synth.results.summary import scan, scan_rejects, scores_in
from synth.run import run as runs
from synth.shards import OutputFolder
from synth.steps import keep
from synth.terminal import say, tell

_STEPS = ("passages", "generated")


class _Part(NamedTuple):
    """Rows of one kind: what to call them, and where they are."""

    title: str
    frame: pl.LazyFrame


def show(  # noqa: PLR0913 - one parameter per flag
    out: Path, *, count: int, rejected: bool, where: str | None, row_id: str | None, view: str, as_json: bool
) -> None:
    """Print up to `count` rows spread over the run: those that a view holds, or rejected ones of every step.

    With `row_id` all that bears this id, whatever became of it. Raises JobError when nothing has the id, or when
    `where` is no condition on the columns there are, or when there is no such view.
    """
    folder = OutputFolder.open(out)
    runs.read_record(folder)
    scores = scores_in(folder, _view(folder, view))
    found = [
        (part.title, row)
        for part, frame, share in _shared(
            _parts(folder, _view(folder, view), rejected=rejected, row_id=row_id), where, count
        )
        for row in _spread(frame, share)
    ]
    for title, row in found:
        if as_json:
            say(json.dumps({"from": title, **row}, ensure_ascii=False, default=str))
            continue
        for line in row_lines(row, title, scores):
            say(line)
        say("")
    if not found and row_id is not None:
        raise JobError(f"{out}: nothing has the id {row_id!r}.", "Pairs are called POSITION-SLOT, passages as you do.")
    if not found and not as_json:
        tell("no such rows" if where else "no row was rejected" if rejected else "no rows yet")


def _parts(folder: OutputFolder, view: str, *, rejected: bool, row_id: str | None) -> list[_Part]:
    """Where to look. While nothing has been sorted by the rules yet, generated pairs stand in for kept ones."""
    kept = [(view, scan(folder.step(view)))]
    generated = [("generated", scan(folder.step("generated")))]
    refused = [(f"rejected by {step}", scan_rejects(folder, step)) for step in (*_STEPS, view)]
    if row_id is not None:
        parts = [_Part(title, _with_id(frame, row_id)) for title, frame in kept + refused if frame is not None]
        found = [part for part in parts if _height(part.frame)]
        others = [_Part(title, _with_id(frame, row_id)) for title, frame in generated if frame is not None]
        return found or others
    wanted = refused if rejected else kept if kept[0][1] is not None else generated
    return [_Part(title, frame) for title, frame in wanted if frame is not None]


def _view(folder: OutputFolder, name: str) -> str:
    """The folder of a view: `kept`, or `views/<name>`."""
    known = keep.names(folder)
    if name != keep.DEFAULT and f"views/{name}" not in known:
        there = ", ".join([keep.DEFAULT, *(each.removeprefix("views/") for each in known)])
        raise JobError(f"{folder.path}: there is no view {name}.", f"There are: {there}.")
    return name if name == keep.DEFAULT else f"views/{name}"


def _with_id(frame: pl.LazyFrame, row_id: str) -> pl.LazyFrame:
    known = [name for name in ("id", "passage_id") if name in frame.collect_schema().names()]
    return frame.filter(pl.any_horizontal(pl.col(name).cast(pl.String) == row_id for name in known))


def _shared(parts: Sequence[_Part], where: str | None, count: int) -> list[tuple[_Part, pl.LazyFrame, int]]:
    """Each part that has rows, cut by the condition, with the number of rows to show of it: equal shares."""
    usable: list[tuple[_Part, pl.LazyFrame, int]] = []
    problems: list[JobError] = []
    for part in parts:
        try:
            frame = _filtered(part.frame, where)
            height = _height(frame)
        except JobError as exc:
            problems.append(exc)
            continue
        usable += [(part, frame, height)] if height else []
    if problems and len(problems) == len(parts):
        raise problems[0]
    left, shares = count, []
    for n, (part, frame, height) in enumerate(sorted(usable, key=lambda each: each[2])):
        share = min(height, -(-left // (len(usable) - n)))
        left -= share
        shares.append((part, frame, share))
    return shares


def _filtered(frame: pl.LazyFrame, where: str | None) -> pl.LazyFrame:
    if where is None:
        return frame
    names = frame.collect_schema().names()
    try:
        chosen = frame.filter(pl.sql_expr(where))
        chosen.collect_schema()
    except pl.exceptions.PolarsError as exc:
        what = str(exc).splitlines()[0].partition(";")[0]
        raise JobError(f"--where {where}: {what}.", f"Columns: {', '.join(names)}.") from exc
    return chosen


def _height(frame: pl.LazyFrame) -> int:
    try:
        return int(frame.select(pl.len()).collect().item())
    except pl.exceptions.PolarsError as exc:
        raise JobError(
            f"--where: {str(exc).splitlines()[0]}.", "Compare columns with values of their own type."
        ) from exc


def _spread(frame: pl.LazyFrame, count: int) -> list[dict[str, Any]]:
    """`count` rows spread evenly, so that they do not all come from the first passage."""
    height = _height(frame)
    wanted = sorted({(2 * n + 1) * height // (2 * count) for n in range(count)}) if count else []
    if not wanted:
        return []
    return frame.with_row_index("__row").filter(pl.col("__row").is_in(wanted)).drop("__row").collect().to_dicts()
