"""Single rows of a run, kept or rejected, found by id or condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from synth.errors import JobError
from synth.results.summary import files_of, rejected_files, scan
from synth.shards import OutputFolder
from synth.sources import sample_rows
from synth.steps import keep

Parts = Mapping[str, pl.LazyFrame | None]
"""Rows by what to call them; None where there are none."""


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

    With `row_id` everything with this id. While nothing has been sorted by the rules yet, generated pairs are shown
    instead. Raises JobError when nothing has the id, when `where` is not a condition on the columns, or when the view
    does not exist.
    """
    view = view_folder(folder, view)
    kept, generated = ({name: scan(files_of(folder.step(name)))} for name in (view, "generated"))
    steps = ("passages", "generated", view)
    refused = {f"rejected by {step}": scan(rejected_files(folder, step)) for step in steps}
    if row_id is None:
        parts = refused if rejected else kept if kept[view] is not None else generated
        return _spread(_filtered(parts, where), count)
    found = _with_id({**kept, **refused}, row_id) or _with_id(generated, row_id)
    if not found:
        raise JobError(
            f"{folder.path}: nothing has the id {row_id!r}.", "Ids of pairs are POSITION-SLOT; of passages, your own."
        )
    return _spread(_filtered(found, where), count)


def view_folder(folder: OutputFolder, name: str) -> str:
    """The folder of a view: `kept`, or `views/<name>`."""
    known = keep.names(folder)
    if name != keep.DEFAULT and f"views/{name}" not in known:
        there = ", ".join([keep.DEFAULT, *(each.removeprefix("views/") for each in known)])
        raise JobError(f"{folder.path}: has no view {name}.", f"Views: {there}.")
    return name if name == keep.DEFAULT else f"views/{name}"


def _with_id(parts: Parts, row_id: str) -> dict[str, pl.LazyFrame]:
    found: dict[str, pl.LazyFrame] = {}
    for title, frame in parts.items():
        if frame is not None:
            known = [name for name in ("id", "passage_id") if name in frame.collect_schema().names()]
            here = frame.filter(pl.any_horizontal(pl.col(name).cast(pl.String) == row_id for name in known))
            found |= {title: here} if _height(here) else {}
    return found


def _filtered(parts: Parts, where: str | None) -> list[tuple[str, pl.LazyFrame, int]]:
    """Each part that has rows under the condition, with their number. Raises JobError when it suits no part."""
    found: list[tuple[str, pl.LazyFrame, int]] = []
    problems: list[JobError] = []
    frames = [(title, frame) for title, frame in parts.items() if frame is not None]
    for title, frame in frames:
        cure = f"Columns: {', '.join(frame.collect_schema().names())}."
        try:
            chosen = frame if where is None else frame.filter(pl.sql_expr(where))
            chosen.collect_schema()
            cure = "Compare columns with values of their own type."
            height = _height(chosen)
        except pl.exceptions.PolarsError as exc:
            problems.append(JobError(f"--where {where}: {str(exc).splitlines()[0].partition(';')[0]}.", cure))
            continue
        found += [(title, chosen, height)] if height else []
    if problems and len(problems) == len(frames):
        raise problems[0]
    return found


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def _spread(parts: list[tuple[str, pl.LazyFrame, int]], count: int) -> list[tuple[str, dict[str, Any]]]:
    """`count` rows in equal shares of all parts, spread evenly over each, not all from its first passage."""
    found: list[tuple[str, dict[str, Any]]] = []
    for n, (title, frame, height) in enumerate(sorted(parts, key=lambda each: each[2])):
        share = min(height, -(-(count - len(found)) // (len(parts) - n)))
        if not share:
            break
        wanted = sorted(sample_rows(height, share))
        picked = frame.with_row_index("__row").filter(pl.col("__row").is_in(wanted)).drop("__row").collect()
        found += [(title, row) for row in picked.to_dicts()]
    return found
