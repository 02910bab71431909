"""Single rows of a run, kept or rejected, found by id or condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from synth.errors import JobError
from synth.results.summary import scan, scan_rejects
from synth.shards import OutputFolder
from synth.steps import keep

_STEPS = ("passages", "generated")


class _Part(NamedTuple):
    """Rows of one kind: what to call them, and where they are."""

    title: str
    frame: pl.LazyFrame


def rows(
    folder: OutputFolder,
    *,
    count: int,
    view: str = keep.DEFAULT,
    rejected: bool = False,
    where: str | None = None,
    row_id: str | None = None,
) -> list[tuple[str, dict[str, Any]]]:
    """Up to `count` rows spread over the run, each with where it is from: kept by a view, or rejected by any step.

    With `row_id` everything with this id. Raises JobError when nothing has the id, when `where` is not a condition on
    the columns, or when the view does not exist.
    """
    parts = _parts(folder, view_folder(folder, view), rejected=rejected, row_id=row_id)
    found = [(part.title, row) for part, frame, share in _shared(parts, where, count) for row in _spread(frame, share)]
    if not found and row_id is not None:
        raise JobError(
            f"{folder.path}: nothing has the id {row_id!r}.", "Ids of pairs are POSITION-SLOT; of passages, your own."
        )
    return found


def _parts(folder: OutputFolder, view: str, *, rejected: bool, row_id: str | None) -> list[_Part]:
    """Where to look. While nothing has been sorted by the rules yet, generated pairs are shown instead."""
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


def view_folder(folder: OutputFolder, name: str) -> str:
    """The folder of a view: `kept`, or `views/<name>`."""
    known = keep.names(folder)
    if name != keep.DEFAULT and f"views/{name}" not in known:
        there = ", ".join([keep.DEFAULT, *(each.removeprefix("views/") for each in known)])
        raise JobError(f"{folder.path}: has no view {name}.", f"Views: {there}.")
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
