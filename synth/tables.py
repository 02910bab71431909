"""Records as Arrow tables: the columns of every step, each with an explicit type, so an empty shard keeps them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import pyarrow as pa

from synth.types import MinedPair, Pair, Passage, Rejected

TEXT = pa.large_string()
"""For whole passages: a shard may hold more than the 2 GiB that a plain string column can address."""

PASSAGES = pa.schema(
    [
        ("position", pa.int64()),
        ("id", pa.string()),
        ("text", TEXT),
        ("title", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("source_row", pa.int64()),
        ("chunk", pa.int32()),
        ("retry_of", pa.string()),
    ]
)
"""`retry_of` is the id of the rejected item that a row asks again, null in every row that came from an input."""

ATTEMPTS = pa.list_(
    pa.struct([("stage", pa.string()), ("seed", pa.int64()), ("reply", pa.string()), ("reason", pa.string())])
)

_REJECTED = [
    ("id", pa.string()),
    ("passage_id", pa.string()),
    ("step", pa.string()),
    ("reason", pa.string()),
    ("detail", pa.string()),
    ("attempts", ATTEMPTS),
]

REJECTED_ROWS = pa.schema([*_REJECTED, ("source", pa.string()), ("source_row", pa.int64()), ("text", TEXT)])
"""Step 0: input rows that became no passage."""

REJECTED_ITEMS = pa.schema(
    [
        *_REJECTED,
        ("source", pa.string()),
        ("passage_language", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)
"""Generation: items that ended without a usable pair."""

_PAIRS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("id", pa.string(), "id"),
    ("task", pa.string(), "task"),
    ("query", TEXT, "query"),
    ("passage", TEXT, "passage.text"),
    ("passage_id", pa.string(), "passage.id"),
    ("source", pa.string(), "passage.source"),
    ("query_language", pa.string(), "language"),
    ("passage_language", pa.string(), "passage.language"),
    ("character", pa.string(), "config.character"),
    ("question_type", pa.string(), "config.question_type"),
    ("difficulty", pa.string(), "config.difficulty"),
    ("length_min", pa.int32(), "requirement.length_min"),
    ("length_max", pa.int32(), "requirement.length_max"),
    ("length_unit", pa.string(), "requirement.length_unit"),
    ("model", pa.string(), "model"),
    ("template", pa.string(), ""),
    ("revision", pa.int32(), ""),
    ("attempts", pa.int32(), "attempts"),
    ("repaired", pa.bool_(), "repaired"),
    ("prompt_tokens", pa.int64(), "usage.prompt_tokens"),
    ("completion_tokens", pa.int64(), "usage.completion_tokens"),
    ("retry_of", pa.string(), ""),
)
"""Where a pair has the value of each column; the others are given with the shard."""

PAIRS = pa.schema([(name, kind) for name, kind, _ in _PAIRS])
"""`retry_of` is the id of the rejected item that a pair was asked for again, as a rule null."""

EXTERNAL_PAIRS = pa.schema(
    [
        ("id", pa.string()),
        ("query", TEXT),
        ("passage", TEXT),
        ("source", pa.string()),
        ("source_row", pa.int64()),
        ("query_language", pa.string()),
        ("passage_language", pa.string()),
        ("group", pa.int64()),
        ("positive", pa.int32()),
        ("label", pa.float64()),
    ]
)
"""Pairs made elsewhere: `group` (the row of all pairs that came from one) and `positive` (the place in its list) only
where the data lists positives, `label` only where a column is named."""

JUDGEMENT = "label"
"""The column that says whether a passage answers its query; a column of this name that means something else moves."""


def passages(table: pa.Table) -> list[Passage]:
    """The records of a `passages/` shard, in row order."""
    columns = [table[name].to_pylist() for name in ("position", "id", "text", "language", "source", "title")]
    return [Passage(*row) for row in zip(*columns, strict=True)]


def _at(record: Any, path: str) -> Any:
    """The value at a path of attributes, None below a record that is not there."""
    for name in path.split("."):
        record = None if record is None else getattr(record, name)
    return record


def carried_name(name: str) -> str:
    """The name among pairs of a column that a corpus carries."""
    return f"input_{name}" if name in PASSAGES.names or name in PAIRS.names or name == JUDGEMENT else name


def pair_table(
    pairs: Sequence[Pair], template: str, revision: int, source: pa.Table, columns: Mapping[str, str] | None = None
) -> pa.Table:
    """A `generated/` shard: `pairs` in item order, the task's own `columns`, and those that `source` carries.

    `source` is the shard's `passages/` table. A carried column whose name is one of ours comes as `input_<name>`.
    """
    first = source["position"][0].as_py() if source.num_rows else 0
    again = source["retry_of"].to_pylist()
    given = {
        "template": [template] * len(pairs),
        "revision": [revision] * len(pairs),
        "retry_of": [again[pair.passage.position - first] for pair in pairs],
    }
    found = (given[name] if name in given else [_at(pair, path) for pair in pairs] for name, _, path in _PAIRS)
    table = pa.table([pa.array(values, kind) for values, (_, kind, _) in zip(found, _PAIRS, strict=True)], PAIRS)
    for name, alias in (columns or {}).items():
        kind = pa.list_(pa.string()) if alias == "list<string>" else pa.type_for_alias(alias)
        table = table.append_column(name, pa.array([pair.columns.get(name) for pair in pairs], kind))
    own, ours = [field for field in source.schema if field.name not in PASSAGES.names], table.column_names
    picked = source.take(pa.array([pair.passage.position - first for pair in pairs], pa.int64())) if own else source
    for field in own:
        name = f"input_{field.name}" if field.name in ours or field.name == JUDGEMENT else field.name
        table = table.append_column(pa.field(name, field.type), picked[field.name])
    return table


def rejected_item_table(rejected: Sequence[Rejected], keep_replies: Literal["none", "rejected", "all"]) -> pa.Table:
    """Rejected items of generation, with every attempt; replies are blanked where the job keeps none."""
    keep = keep_replies != "none"
    rows = [
        {
            "id": each.id,
            "passage_id": each.passage.id,
            "step": "generated",
            "reason": each.reason,
            "detail": each.detail,
            "attempts": [asdict(one) if keep else asdict(one) | {"reply": ""} for one in each.attempts],
            "source": each.passage.source,
            "passage_language": each.passage.language,
            **asdict(each.usage),
        }
        for each in rejected
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_ITEMS)


def rejected_row_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rejected input rows, given as mappings with the columns of REJECTED_ROWS that are not the same for all."""
    return pa.Table.from_pylist([{"step": "passages", "attempts": [], **row} for row in rows], schema=REJECTED_ROWS)


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
        ("extra_positives", pa.list_(NEGATIVE)),
        ("refused", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int32())]))),
    ]
)
"""What mining adds to a kept pair."""
JUDGED = pa.list_(pa.struct([*NEGATIVE, ("quote", TEXT)]))
RELABELLED = pa.struct(
    [
        ("own", pa.string()),
        ("replaced", pa.string()),
        ("judged", pa.int32()),
        ("positives", JUDGED),
        ("ambiguous", JUDGED),
    ]
)
"""What relabelling adds to a pair: the outcome of its own passage, the id of that passage where another has replaced
it, the number of passages judged, and those of the others that are positive or ambiguous."""
_FACETS = (pa.field("facet", pa.string()), pa.field("facet_type", pa.string()))
"""Of a negative, where some are written."""


_DETAILS = {
    "no_query": "the query is empty",
    "no_positive": "the pair has no passage that answers its query",
    "no_vector": "the embedder gives its query, or all of its positives, no usable vector",
    "no_answer": "its passage does not answer the query, and no other one does",
    "too_few": "fewer than {wanted} negatives are left",
}


def with_columns(table: pa.Table, found: Sequence[MinedPair], *, facets: bool = False) -> pa.Table:
    """The table with what was found for each row; a column of the data with one of these names is `input_<name>`.

    With `facets` negatives also have the requirement that they miss.
    """
    values = (
        [[each._asdict() for each in one.negatives] for one in found],
        [[each._asdict() for each in one.extra_positives] for one in found],
        [[{"reason": reason, "count": count} for reason, count in sorted(one.refused.items())] for one in found],
    )
    wide = pa.list_(pa.struct([*NEGATIVE, *_FACETS]))
    for column, rows in zip(COLUMNS, values, strict=True):
        kind = wide if facets and column.name == "negatives" else column.type
        table = append(table, pa.field(column.name, kind), pa.array(rows, kind))
    return table


def parted(table: pa.Table, reasons: Sequence[str | None], step: str, wanted: int) -> tuple[pa.Table, pa.Table | None]:
    """The rows that stay, and those that have a reason to go, with step, reason and detail; None for none of them."""
    rejects = table.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    if not rejects.num_rows:
        return table, None
    given = [reason for reason in reasons if reason is not None]
    details = [_DETAILS[reason].format(wanted=wanted) for reason in given]
    for name, texts in (("step", [step] * len(given)), ("reason", given), ("detail", details)):
        rejects = append(rejects, pa.field(name, pa.string()), pa.array(texts, pa.string()))
    return table.filter(pa.array([reason is None for reason in reasons], pa.bool_())), rejects


def append(table: pa.Table, column: pa.Field, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with one more column; a column that has its name becomes `input_<name>`."""
    if column.name in table.column_names:
        table = table.rename_columns([f"input_{n}" if n == column.name else n for n in table.column_names])
    return table.append_column(column, values)
