"""Lazy frames over the shards of a run, and the counts that shard metadata give for free."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from synth.shards import OutputFolder, StepFolder
from synth.tables import PAIRS


def scan(step: StepFolder) -> pl.LazyFrame | None:
    """All finished shards of a step in order; None while there is none."""
    done = sorted(step.done())
    if not done:
        return None
    return pl.scan_parquet([step.file(index) for index in done], missing_columns="insert", extra_columns="ignore")


def scan_rejects(folder: OutputFolder, step: str) -> pl.LazyFrame | None:
    """Rejected rows of a step; None where it rejected nothing."""
    files = sorted((folder.path / "rejected" / step).glob("????????.parquet"))
    return pl.scan_parquet(files, missing_columns="insert", extra_columns="ignore") if files else None


def totals(step: StepFolder) -> tuple[int, int, int]:
    """Rows (in, out, rejected) over all shards of a step, from their footers."""
    metas = [step.meta(index) for index in step.done()]
    return sum(m.rows_in for m in metas), sum(m.rows_out for m in metas), sum(m.rejected for m in metas)


def score_columns(names: Iterable[str], carried: Iterable[str] = ()) -> list[str]:
    """Of a kept shard's columns those that scorers made."""
    known = {*PAIRS.names, *carried}
    return [name for name in names if name not in known and not name.startswith("input_")]


def scores_in(folder: OutputFolder, view: str) -> frozenset[str]:
    """The columns that the rows of a view have beside those of their pairs; none while it has no shard."""
    index = min(folder.step(view).done(), default=None)
    if index is None:
        return frozenset()
    return frozenset(folder.step(view).schema(index).names) - frozenset(folder.step("generated").schema(index).names)


def reasons(folder: OutputFolder, step: str) -> dict[str, int]:
    """Rejected rows of a step by their reason, the most frequent first, ties by name."""
    frame = scan_rejects(folder, step)
    if frame is None:
        return {}
    counted = frame.group_by("reason").len().sort(["len", "reason"], descending=[True, False]).collect()
    return {str(reason): int(count) for reason, count in counted.iter_rows()}
