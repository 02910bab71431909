"""Comma-separated values (RFC 4180) with all columns of the pairs, for spreadsheets and data frames."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
import pyarrow as pa

from synth.exports._export import Export, Files, as_json
from synth.exports._rows import MINED, Facts, Source, whole
from synth.types import Layout

__all__ = ["Csv"]


class Csv(Export):
    """`train.csv` with a header; texts are in quotes, lists and records are JSON.

    An empty text is `""`, an unknown value nothing; `meta/columns.json` has the types. Values are written as they are,
    also those that a spreadsheet takes for a formula.
    """

    title: ClassVar[str] = "CSV"
    any_number: ClassVar[bool] = True

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """All rows, and the types of their columns, which a reader cannot infer from texts."""
        mined = facts.negatives() or facts.counts.extra_positives
        types = {name: _type(kind) for name, kind in source.fields().items()}
        types |= dict.fromkeys(MINED[:2], "string") if mined else {}
        files.line("meta/columns.json", types)
        for split in facts.counts.rows:
            files.text(f"{split}.csv", _lines(pl.DataFrame(schema=list(types)), header=True))
        for batch in source.batches(facts.shape):
            rows = whole(batch) if mined else batch.table
            columns = []
            for name, kind in types.items():
                values = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
                columns.append(pl.Series(name, map(_text, values) if kind == "string" else values))
            files.text(f"{batch.split}.csv", _lines(pl.DataFrame(columns), header=False))

    def train(self, facts: Facts) -> str:
        return self.render("csv.md.j2", facts)


def _lines(rows: pl.DataFrame, *, header: bool) -> str:
    return rows.write_csv(include_header=header, line_terminator="\r\n", quote_style="non_numeric")


def _type(kind: pa.DataType) -> str:
    """As pandas calls it."""
    if pa.types.is_boolean(kind):
        return "boolean"
    return "Int64" if pa.types.is_integer(kind) else "Float64" if pa.types.is_floating(kind) else "string"


def _text(value: object) -> str | None:
    return as_json(value) if isinstance(value, list | dict) else None if value is None else str(value)
