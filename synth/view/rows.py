"""The rows of a run by part, filtered, sorted and read a page at a time; all that stays in memory is row numbers."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from synth.errors import JobError
from synth.marks import Mark
from synth.results.rows import sound
from synth.results.summary import files_of, rejected_files, rows_at, scan
from synth.runs.history import History
from synth.shards import OutputFolder
from synth.steps import keep
from synth.types import position_and_slot

MARK, COMMENT = "my mark", "my comment"
"""Columns that a table has beside those of its rows."""
_FIRST = ("id", MARK, "reason", "query", COMMENT, "detail", "question_type", "query_language", "cosine")
_LAST = ("passage", "text", "attempts", "negatives", "extra_positives", "refused")
_NUMBER = "__row"
_CELL = 240
"""Characters of a text that a cell shows."""
_EXACT = 2**53
"""JavaScript knows no larger integer exactly."""
_NONE = "none"
_COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are looked at together: those of a step or view, or those that it rejected."""

    name: str
    files: tuple[Path, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        with sound(self.files):
            return int(self._frame({}).select(pl.len()).collect().item())

    @property
    def state(self) -> tuple[tuple[str, int], ...]:
        """Changes when its files do."""
        return tuple((str(path), path.stat().st_mtime_ns) for path in self.files)

    def columns(self) -> list[dict[str, str]]:
        """Name and kind (text, number, bool or mark) of each, in the order in which people want to see them."""
        schema = self._frame({}).collect_schema()
        order = {name: n for n, name in enumerate(_FIRST)} | {name: 1000 + n for n, name in enumerate(_LAST)}
        names = sorted(schema.names(), key=lambda name: order.get(name, len(_FIRST)))
        return [{"name": name, "kind": _kind(name, schema[name])} for name in names if name != _NUMBER]

    def find(self, ask: Ask, marks: Mapping[str, Mark]) -> NDArray[np.uint32]:
        """Numbers of the rows that are asked for, in their order. Raises JobError for a filter that cannot be one."""
        frame = self._frame(marks)
        schema = frame.collect_schema()
        for name, text in ask.filters:
            frame = frame.filter(_condition(_known(name, schema), schema[name], text))
        if ask.search:
            texts = (name for name, kind in schema.items() if kind == pl.String)
            frame = frame.filter(pl.any_horizontal(_contains(pl.col(name), ask.search) for name in texts))
        if ask.sort:
            name, down = ask.sort
            by = _text(_known(name, schema)) if schema[name].is_nested() else pl.col(name)
            frame = frame.sort(by, descending=down, nulls_last=True, maintain_order=True)
        with sound(self.files):
            return frame.select(_NUMBER).collect()[_NUMBER].to_numpy()

    def page(self, numbers: Sequence[int], marks: Mapping[str, Mark]) -> list[dict[str, Any]]:
        """These rows in this order, long texts cut; cells are `c0`, `c1` … by the number of their column."""
        names = [each["name"] for each in self.columns()]
        found = dict(zip(sorted(numbers), rows_at(self.files, numbers), strict=True))
        rows = []
        for number in numbers:
            row = found[number] | _marked(found[number], marks)
            rows.append({"row": number} | {f"c{n}": _cell(row.get(name)) for n, name in enumerate(names)})
        return rows

    def whole(self, number: int, marks: Mapping[str, Mark]) -> dict[str, Any]:
        """One row with all it has. Raises JobError where there is none with this number."""
        found = rows_at(self.files, [number])
        if not found:
            raise JobError("this row has gone: the run went on. Load the page again.")
        return {name: _plain(value) for name, value in found[0].items()} | _marked(found[0], marks)

    def _frame(self, marks: Mapping[str, Mark]) -> pl.LazyFrame:
        frame = scan(self.files)
        assert frame is not None  # noqa: S101 - a part has files
        frame = frame.with_row_index(_NUMBER)
        given = [(each.id, each.mark, each.comment) for each in marks.values()]
        known = pl.LazyFrame(given, dict.fromkeys(("id", MARK, COMMENT), pl.String), orient="row")
        return frame.drop(MARK, COMMENT, strict=False).join(known, on="id", how="left", maintain_order="left")


@dataclass(frozen=True, slots=True)
class Ask:
    """Which rows a page of the table wants: conditions by column, a text in any column, and (column, descending)."""

    filters: tuple[tuple[str, str], ...] = ()
    search: str = ""
    sort: tuple[str, bool] | None = None


def parts(folder: OutputFolder) -> dict[str, Part]:
    """All that the run has rows of, by name. Raises JobError where it has none yet, OutputError for no run's folder."""
    History.read(folder)
    steps = [keep.DEFAULT, *keep.names(folder), "generated", "mined"]
    files = {name: files_of(folder.step(name)) for name in steps}
    files |= {f"rejected/{name}": rejected_files(folder, name) for name in (*steps, "passages")}
    found = {name: Part(name, tuple(some)) for name, some in files.items() if some}
    if not found:
        raise JobError(f"{folder.path}: has no rows yet.", f"Run it first: synth run {folder.path}")
    return found


def passage_of(folder: OutputFolder, item: str) -> dict[str, Any]:
    """The passage of an item, and its title; empty in a pass over existing data. Raises OutputError."""
    history = History.read(folder)
    if history.last.existing:
        return {}
    position, _ = position_and_slot(item)
    step, index = folder.step("passages"), history.parts().shard_of(position)
    table = step.read_columns(index, ["text", "title"]).rename_columns(["passage", "title"])
    row: dict[str, Any] = table.slice(position - step.meta(index).first, 1).to_pylist()[0]
    return row


def _known(name: str, schema: pl.Schema) -> str:
    if name not in schema:
        raise JobError(f"{name}: has gone as a column. Load the page again.")
    return name


def _kind(name: str, kind: pl.DataType) -> str:
    if name == MARK:
        return "mark"
    return "number" if kind.is_numeric() else "bool" if kind == pl.Boolean else "text"


def _text(name: str) -> pl.Expr:
    """A column of lists or records as JSON."""
    return pl.struct(name).struct.json_encode()


def _contains(column: pl.Expr, text: str) -> pl.Expr:
    return column.str.to_lowercase().str.contains(text.lower(), literal=True)


def _condition(name: str, kind: pl.DataType, text: str) -> pl.Expr:
    """What was typed above a column: a part of a text, one of a few values, or a comparison of numbers."""
    text, column = text.strip(), pl.col(name)
    if _kind(name, kind) in ("mark", "bool"):
        return column.cast(pl.String).fill_null(_NONE) == text
    if not kind.is_numeric():
        plain = column if kind == pl.String else _text(name) if kind.is_nested() else column.cast(pl.String)
        return _contains(plain, text)
    if text == _NONE:
        return column.is_null()
    try:
        if ".." in text:
            low, _, high = text.partition("..")
            return column.is_between(float(low), float(high))
        sign = next((each for each in _COMPARED if text.startswith(each)), "")
        found: pl.Expr = _COMPARED[sign or "="](column, float(text.removeprefix(sign)))
    except ValueError as exc:
        raise JobError(f"{name}: {text} is not a condition on numbers. Write 5, >0.7, <=3, 0.6..0.8 or none.") from exc
    return found


def _marked(row: Mapping[str, Any], marks: Mapping[str, Mark]) -> dict[str, Any]:
    mark = marks.get(str(row.get("id")))
    return {MARK: mark and mark.mark, COMMENT: mark and mark.comment}


def _cell(value: Any) -> Any:
    value = _plain(value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return f"{text[:_CELL]}…" if isinstance(text, str) and len(text) > _CELL else text


def _plain(value: Any) -> Any:
    """As JSON and JavaScript know it: what is not finite is null, large integers and all else are text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < _EXACT):
        return value
    return str(value)
