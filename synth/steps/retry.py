"""Items that ended without a pair, asked again: which they are, their passages, and what their passages have already.

A retried item is a row of its own in `passages/`, with a new position, so every draw for it is a new one; `retry_of`
names the old item, whose rejected row stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from synth.run import history
from synth.shards import OutputFolder
from synth.tables import PASSAGES
from synth.types import QueryConfig, Written


def rejected_items(folder: OutputFolder) -> list[str]:
    """Ids of all rejected items of generation that no revision has asked again, in the order of positions."""
    generated = folder.step("generated")
    retried = {item for record in history.read_revisions(folder) for item in record.retry}
    found = [
        item
        for index in sorted(generated.done())
        if (table := generated.rejects(index)) is not None
        for item in table["id"].to_pylist()
        if item not in retried
    ]
    return sorted(found, key=_place)


def passages_of(folder: OutputFolder, items: Sequence[str], first: int) -> pa.Table:
    """A `passages/` table with one row for each rejected item, at positions from `first` on.

    Raises OutputError when a shard that holds one of the passages is damaged or gone.
    """
    step, where = folder.step("passages"), history.read_parts(folder)
    by_shard: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_shard[where.shard_of(_place(item)[0])].append(number)
    tables, numbers = [], []
    for index, wanted in sorted(by_shard.items()):
        shard = step.read(index)
        rows = [_place(items[number])[0] - shard.meta.first for number in wanted]
        tables.append(shard.table.take(pa.array(rows, pa.int64())))
        numbers += wanted
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    table = pa.concat_tables(tables).take(pa.array(order, pa.int64()))
    own = {
        "position": pa.array(range(first, first + len(items)), PASSAGES.field("position").type),
        "retry_of": pa.array(items, PASSAGES.field("retry_of").type),
    }
    for name, column in own.items():
        table = table.set_column(table.schema.get_field_index(name), PASSAGES.field(name), column)
    return table


def slot_of(item: str) -> int:
    """The slot of an item, by its id."""
    return _place(item)[1]


def written_before(folder: OutputFolder, items: Sequence[str]) -> Mapping[str, Sequence[Written]]:
    """For each retried item the queries that its passage has got when it was first asked, with their configurations."""
    where = history.read_parts(folder)
    origin = {item: _origin(folder, where, item) for item in items}
    found: dict[int, list[Written]] = defaultdict(list)
    wanted = set(origin.values())
    generated = folder.step("generated")
    for index in sorted({where.shard_of(position) for position in wanted}):
        if not generated.file(index).exists():
            continue
        columns = ["id", "query", "character", "question_type", "difficulty"]
        table = generated.read_columns(index, columns)
        positions = pc.list_element(pc.split_pattern(table["id"], "-"), 0).cast(pa.int64())
        for position, row in zip(positions.to_pylist(), table.to_pylist(), strict=True):
            if position in wanted:
                config = QueryConfig(row["character"], row["question_type"], row["difficulty"])
                found[position].append(Written(config, row["query"]))
    return {item: found[position] for item, position in origin.items()}


def _origin(folder: OutputFolder, where: history.Parts, item: str) -> int:
    """The position at which the passage of an item was first asked."""
    position = _place(item)[0]
    while where.of_shard(index := where.shard_of(position)).retry:
        step = folder.step("passages")
        again = step.read_columns(index, ["retry_of"])["retry_of"]
        position = _place(again[position - step.meta(index).first].as_py())[0]
    return position


def _place(item: str) -> tuple[int, int]:
    position, _, slot = item.rpartition("-")
    return int(position), int(slot)
