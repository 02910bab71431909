"""Beside the trainer's rows: what each one is and why its negatives are negatives, row by row the same order."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from synth.exports._rows import Batch, Negative
from synth.tables import TEXT

NEGATIVE = pa.struct(
    [
        ("passage_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("margin", pa.float64()),
        ("reranker", pa.float64()),
        ("source", pa.string()),
    ]
)
WITH_TEXT = pa.struct([("passage", TEXT), *NEGATIVE])


def meta(batch: Batch, repeats: Sequence[int] | None = None) -> pa.Table:
    """A row for each row of the trainer's file: ids, all that is known of the pair, and its negatives' numbers.

    `repeats`: how often a pair stands there, once with each of its positives; None where one row holds them all.
    """
    own = _without(batch.table, {"query", "passage", "positive"})
    counts = [1] * len(batch.rows) if repeats is None else repeats
    places = [n for n, count in enumerate(counts) for _ in range(count)]
    table = own.take(pa.array(places, pa.int64()))
    if repeats is not None:
        ids = [name for row in batch.rows for name in (row.passage_id, *(each.passage_id for each in row.positives))]
        table = table.append_column("positive", pa.array(ids, pa.string()))
    found = [[_numbers(each) for each in batch.rows[n].negatives] for n in places]
    return table.append_column("negatives", pa.array(found, pa.list_(NEGATIVE)))


def whole(batch: Batch) -> pa.Table:
    """The pairs with all of their columns, their negatives and further positives with texts and numbers."""
    table = batch.table
    for name, lists in (
        ("negatives", [row.negatives for row in batch.rows]),
        ("further_positives", [row.positives for row in batch.rows]),
    ):
        found = [[each._asdict() for each in row] for row in lists]
        table = table.append_column(name, pa.array(found, pa.list_(WITH_TEXT)))
    return table


def _without(table: pa.Table, names: set[str]) -> pa.Table:
    return table.select([name for name in table.column_names if name not in names])


def _numbers(each: Negative) -> dict[str, object]:
    plain = each._asdict()
    del plain["passage"]
    return plain
