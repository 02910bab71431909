"""The columns that mining adds to kept pairs, and the rows that leave them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from synth.negatives import Found
from synth.tables import TEXT

NEGATIVE = pa.struct(
    [
        ("passage", TEXT),
        ("passage_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("margin", pa.float64()),
        ("reranker", pa.float64()),
        ("source", pa.string()),
    ]
)
COLUMNS = pa.schema(
    [
        ("negatives", pa.list_(NEGATIVE)),
        ("further_positives", pa.list_(NEGATIVE)),
        ("refused", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int32())]))),
    ]
)
"""What mining adds to a kept pair."""


_DETAILS = {
    "no_query": "the query is empty",
    "no_positive": "the pair has no passage that answers its query",
    "no_vector": "the embedder gives its query, or all of its positives, no usable vector",
    "short": "fewer than {wanted} negatives are left",
}


def with_columns(table: pa.Table, found: Sequence[Found]) -> pa.Table:
    """The table with what was found for each row; a column of the data with one of these names is `input_<name>`."""
    values = (
        [[each._asdict() for each in one.negatives] for one in found],
        [[each._asdict() for each in one.positives] for one in found],
        [[{"reason": reason, "count": count} for reason, count in sorted(one.refused.items())] for one in found],
    )
    for column, rows in zip(COLUMNS, values, strict=True):
        table = _append(table, column, pa.array(rows, column.type))
    return table


def parted(table: pa.Table, reasons: Sequence[str | None], wanted: int) -> tuple[pa.Table, pa.Table | None]:
    """The rows that stay, and those that have a reason to go, with step, reason and detail; None for none of them."""
    rejects = table.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    if not rejects.num_rows:
        return table, None
    given = [reason for reason in reasons if reason is not None]
    own = {
        "step": ["mined"] * len(given),
        "reason": given,
        "detail": [_DETAILS[reason].format(wanted=wanted) for reason in given],
    }
    for name, texts in own.items():
        rejects = _append(rejects, pa.field(name, pa.string()), pa.array(texts, pa.string()))
    return table.filter(pa.array([reason is None for reason in reasons], pa.bool_())), rejects


def _append(table: pa.Table, column: pa.Field, values: pa.Array) -> pa.Table:
    if column.name in table.column_names:
        table = table.rename_columns([f"input_{n}" if n == column.name else n for n in table.column_names])
    return table.append_column(column, values)
