"""Comma-separated values (RFC 4180) with all columns of the pairs, for spreadsheets and data frames."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from synth.exports._export import Export, Files, as_json
from synth.exports._rows import MINED, Facts, Source, whole
from synth.types import Layout

__all__ = ["Csv"]


class Csv(Export):
    """`train.csv` with a header; texts are in quotes, lists and records are JSON.

    An empty text is `""`, an unknown value nothing; `meta/columns.json` has the types. Values are written as they
    are, also those that a spreadsheet takes for a formula.
    """

    title: ClassVar[str] = "CSV"
    any_number: ClassVar[bool] = True

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """All rows, and the types of their columns, which a reader cannot infer from texts."""
        types = _types(source, facts)
        files.line("meta/columns.json", {name: _NAMES[kind] for name, kind in types.items()})
        for split in facts.counts.rows:
            files.text(f"{split}.csv", ",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in types) + "\r\n")
        for batch in source.batches(facts.shape):
            rows = whole(batch) if MINED[0] in types else batch.table
            columns = []
            for name, kind in types.items():
                values = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
                if kind == pl.String:
                    values = [each if each is None or isinstance(each, str) else as_json(each) for each in values]
                columns.append(pl.Series(name, values, kind))
            text = pl.DataFrame(columns).write_csv(
                include_header=False, line_terminator="\r\n", quote_style="non_numeric"
            )
            files.text(f"{batch.split}.csv", text)

    def train(self, facts: Facts) -> str:
        return self.render("csv.md.j2", facts)


_NAMES = {pl.String: "string", pl.Int64: "Int64", pl.Float64: "Float64", pl.Boolean: "boolean"}
"""As pandas calls them."""


def _types(source: Source, facts: Facts) -> dict[str, type[pl.DataType]]:
    """The columns of all shards: integers, floats, booleans, and text for everything else."""
    found: dict[str, type[pl.DataType]] = {}
    for index in source.shards:
        frame = pl.from_arrow(source.step.schema(index).empty_table())
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table
        for name, kind in frame.schema.items():
            plain = pl.Int64 if kind.is_integer() else pl.Float64 if kind.is_float() else pl.String
            found.setdefault(name, pl.Boolean if kind == pl.Boolean else plain)
    with_passages = facts.negatives() or facts.counts.extra_positives
    mined = MINED if source.mined else ()
    return {name: kind for name, kind in found.items() if name not in mined} | (
        dict.fromkeys(MINED[:2], pl.String) if with_passages else {}
    )
