"""Two runs, or two views, side by side: every figure with its difference, and the rows that only one of them keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from synth.report import make
from synth.report.parts import Kind, Report, Samples, Section, Table, Value
from synth.results.rows import view_folder
from synth.results.summary import files_of, scan
from synth.shards import OutputFolder
from synth.terminal import shorten, tell
from synth.types import Notify

_SAMPLES = 5
_TEXT = 200
_MOST = 3
"""So many kept pairs of a passage, and more, count as one."""
_SIDES = ("a", "b")


@dataclass(frozen=True, slots=True)
class Side:
    """A view of a run."""

    folder: OutputFolder
    view: str

    @classmethod
    def at(cls, path: Path) -> Side:
        """The folder of a run, or of one of its views, `OUT/views/NAME`. Raises OutputError where it is neither."""
        if path.parent.name == "views" and (path.parent.parent / "job.json").exists():
            return cls(OutputFolder.open(path.parent.parent), path.name)
        return cls(OutputFolder.open(path), "kept")

    def rows(self) -> pl.LazyFrame:
        """The kept rows: query, passage, and a key for each pair and each passage."""
        frame = scan(files_of(self.folder.step(view_folder(self.folder, self.view))))
        if frame is None:
            frame = pl.LazyFrame(schema={"query": pl.String, "passage": pl.String})
        keys = {"pair": pl.struct("query", "passage").hash(), "key": pl.col("passage").hash()}
        return frame.select("query", "passage", **keys)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure, or a number of a table, of both reports; `gap` is b minus a, None where one of them is unknown."""

    section: str
    figure: str
    kind: Kind
    a: Value
    b: Value
    gap: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures, rows and passages kept by both and by one (`counts`), and rows that only one keeps (`samples`).

    `passages` counts passages by how many kept pairs they have in a (rows) and in b (columns).
    """

    a: Report
    b: Report
    figures: Sequence[Difference]
    counts: Mapping[str, int]
    passages: Table
    samples: Sequence[Samples]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        figures = [
            {"section": each.section, "figure": each.figure, "a": each.a, "b": each.b, "difference": each.gap}
            for each in self.figures
        ]
        sides = {name: {"out": str(side.path), "view": side.view} for name, side in (("a", self.a), ("b", self.b))}
        rows = {each.key: [dict(row) for row in each.rows] for each in self.samples}
        passages = self.passages.as_json()
        return {**sides, "figures": figures, "kept": dict(self.counts), "passages": passages, "samples": rows}

    def _repr_html_(self) -> str:
        rows = [(each.section, each.figure, each.a, each.b, each.gap) for each in self.figures]
        frame = pl.DataFrame(rows, ["section", "figure", "a", "b", "difference"], orient="row", strict=False)
        return frame._repr_html_()


def compare(a: Side, b: Side, notify: Notify = tell) -> Comparison:
    """Measure both. Raises what `make` raises."""
    one, other = (make(each.folder, each.view, notify=notify) for each in (a, b))
    kept = [each.rows().collect() for each in (a, b)]
    pairs = [frame["pair"].unique() for frame in kept]
    both = len(pairs[0].filter(pairs[0].is_in(pairs[1].implode())))
    per = [
        frame.group_by("key").agg(pl.len().clip(0, _MOST).alias(name)) for name, frame in zip(_SIDES, kept, strict=True)
    ]
    joined = per[0].join(per[1], on="key", how="full", coalesce=True).fill_null(0)
    counts = {"rows_a": kept[0].height, "rows_b": kept[1].height, "rows_both": both}
    counts |= {f"rows_only_{name}": len(each) - both for name, each in zip(_SIDES, pairs, strict=True)}
    counts |= {
        "passages_both": joined.filter((pl.col("a") > 0) & (pl.col("b") > 0)).height,
        "passages_only_a": joined.filter(pl.col("b") == 0).height,
        "passages_only_b": joined.filter(pl.col("a") == 0).height,
    }
    names = [*map(str, range(_MOST)), f"{_MOST} or more"]
    cells = {(row["a"], row["b"]): row["len"] for row in joined.group_by("a", "b").len().to_dicts()}
    grid = [(name, *(cells.get((n, m), 0) for m in range(_MOST + 1))) for n, name in enumerate(names)]
    head = ["kept pairs in a", *(f"b: {name}" for name in names)]
    table = Table("passages", "passages by kept pairs", head, ["count"] * len(names), grid)
    samples = [
        Samples(f"only_{name}", f"kept by {name} alone", _only(mine, other))
        for name, mine, other in zip(_SIDES, kept, reversed(pairs), strict=True)
    ]
    return Comparison(one, other, list(_differences(one, other)), counts, table, samples)


def _only(mine: pl.DataFrame, other: pl.Series) -> list[dict[str, Value]]:
    rows = mine.filter(~pl.col("pair").is_in(other.implode()))
    picked = rows.gather_every(max(1, -(-rows.height // _SAMPLES))).select("query", "passage").to_dicts()
    return [{name: shorten(text or "", _TEXT) for name, text in row.items()} for row in picked]


def _differences(a: Report, b: Report) -> Iterator[Difference]:
    for one, other in zip(a.sections, b.sections, strict=True):
        mine, theirs = ({name: (kind, value) for name, kind, value in _numbers(each)} for each in (one, other))
        for name in dict.fromkeys([*mine, *theirs]):
            kind = (mine.get(name) or theirs[name])[0]
            before, after = (side[name][1] if name in side else None for side in (mine, theirs))
            known = isinstance(before, int | float) and isinstance(after, int | float)
            yield Difference(one.key, name, kind, before, after, after - before if known else None)  # type: ignore[operator] # numbers


def _numbers(section: Section) -> Iterator[tuple[str, Kind, Value]]:
    """Every figure, and every number of a table by its row and column."""
    for each in section.figures:
        yield each.label, each.kind, each.value
    for table in section.tables:
        for row in table.rows:
            for name, cell, value in zip(table.head[1:], table.kinds, row[1:], strict=True):
                if cell != "text":
                    yield f"{table.title}, {row[0]}: {name}", cell, value
