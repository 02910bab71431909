"""Single rows of a run, kept or rejected, found by id or condition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from synth.errors import JobError
from synth.results.summary import files_of, rejected_files, scan
from synth.shards import OutputFolder, disk
from synth.shards.shard import decode
from synth.sources import sample_rows
from synth.steps import keep

Parts = Mapping[str, pl.LazyFrame | None]
"""Rows by what to call them; None where there are none."""


_FILE = "__file"
"""Where the path of a row's shard stands."""


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
    files = {name: files_of(folder.step(name)) for name in (view, "generated")}
    files |= {f"rejected by {step}": rejected_files(folder, step) for step in ("passages", "generated", view)}
    try:
        refused = {name: scan(shards, _FILE) for name, shards in files.items()}
        kept, generated = ({name: refused.pop(name)} for name in (view, "generated"))
        parts: Parts = refused if rejected else kept if kept[view] is not None else generated
        if row_id is not None:
            parts = _with_id({**kept, **refused}, row_id) or _with_id(generated, row_id)
            if not parts:
                hint = "Ids of pairs are POSITION-SLOT; of passages, your own."
                raise JobError(f"{folder.path}: nothing has the id {row_id!r}.", hint)
        return _spread(_filtered(parts, where), count)
    except pl.exceptions.PolarsError as exc:  # polars does not name the file that is damaged
        for path in chain.from_iterable(files.values()):
            decode(disk.read_whole(path), path)
        if where is None:
            raise
        raise _unsuited(where, exc, "Compare columns with values of their own type.") from exc


@contextmanager
def sound(files: Iterable[Path]) -> Iterator[None]:
    """Find the file that polars could not read, and raise an OutputError that names it."""
    try:
        yield
    except pl.exceptions.PolarsError:
        for path in files:
            decode(disk.read_whole(path), path)
        raise


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
        try:
            chosen = frame if where is None else _under(where, frame)
        except JobError as exc:
            problems.append(exc)
            continue
        if height := _height(chosen):
            found.append((title, chosen, height))
    if problems and len(problems) == len(frames):
        raise problems[0]
    return found


def _under(where: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows under a condition. Raises JobError where that does not suit the columns; it is tried on no row."""
    schema = frame.collect_schema()
    cure = f"Columns: {', '.join(name for name in schema.names() if name != _FILE)}."
    try:
        chosen = frame.filter(pl.sql_expr(where))
        chosen.collect_schema()
        cure = "Compare columns with values of their own type."
        schema.to_frame().filter(pl.sql_expr(where))
    except pl.exceptions.PolarsError as exc:
        raise _unsuited(where, exc, cure) from exc
    return chosen


def _unsuited(where: str, exc: Exception, cure: str) -> JobError:
    return JobError(f"--where {where}: {str(exc).splitlines()[0].partition(';')[0]}.", cure)


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
        for path in map(Path, picked[_FILE].unique()):
            decode(disk.read_whole(path), path)  # polars compares no checksum
        found += [(title, row) for row in picked.drop(_FILE).to_dicts()]
    return found
