"""Rows of any file in chunks: the columns that become ours as Python values, the carried ones as Arrow, untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from synth.pairs.records import BLOCK, Chunk
from synth.pairs.types import array
from synth.sources import InputFile, ReadLimits, csvs, jsonl, parquet
from synth.sources.columns import Columns, value_at
from synth.sources.records import Fault, RawRow


def read(file: InputFile, wanted: Sequence[str], own: pa.Schema, limits: ReadLimits) -> Iterator[Chunk]:
    """Every row of a file; `wanted` may be dotted, a column that the file lacks gives None.

    `own` has the carried columns of this file as `file_schema` says. Raises InputError where it cannot be read on.
    """
    if file.kind == "parquet":
        yield from _of_parquet(file, wanted, own, limits)
    elif file.kind == "jsonl":
        yield from _blocks(_of_json(file, limits), wanted, own)
    else:
        header = csvs.header(file.path, limits)
        columns = Columns(header[0] if header else "", None, None, None, tuple(header))
        rows = ((raw.fault or _named(header, raw)) for raw in csvs.read(file, columns, limits, None)) if header else ()
        yield from _blocks(iter(rows), wanted, own)


def _named(header: Sequence[str], raw: RawRow) -> Mapping[str, Any]:
    return dict(zip(header, raw.carried, strict=True))


def _of_json(file: InputFile, limits: ReadLimits) -> Iterator[Mapping[str, Any] | Fault]:
    return iter(jsonl.objects(file.path, limits))


def _blocks(rows: Iterator[Mapping[str, Any] | Fault], wanted: Sequence[str], own: pa.Schema) -> Iterator[Chunk]:
    first = 0
    while block := list(islice(rows, BLOCK)):
        faults = {place: row for place, row in enumerate(block) if isinstance(row, Fault)}
        known: list[Mapping[str, Any]] = [{} if isinstance(row, Fault) else row for row in block]
        values = {name: [value_at(row, name) for row in known] for name in wanted}
        arrays = [array([row.get(each.name) for row in known], each, faults) for each in own]
        table = pa.Table.from_arrays(arrays, schema=pa.schema([(each.name, each.type) for each in own]))
        yield Chunk(range(first, first + len(block)), values, _counted(table, len(block)), faults)
        first += len(block)


def _of_parquet(file: InputFile, wanted: Sequence[str], own: pa.Schema, limits: ReadLimits) -> Iterator[Chunk]:
    known = parquet.schema(file.path)
    present = [name for name in wanted if name in known.names or name.partition(".")[0] in known.names]
    names = list(dict.fromkeys([*present, *own.names]))
    for first, batch, where in parquet.batches(file, names, limits):
        faults: dict[int, Fault] = {}
        values = {
            name: parquet.column_values(batch, name, limits, where, faults)
            if name in present
            else [None] * batch.num_rows
            for name in wanted
        }
        columns = []
        for each in own:
            column = batch.column(each.name)
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:  # some value is no UTF-8: its row is rejected
                column = pa.array(parquet.column_values(batch, each.name, limits, where, faults), each.type)
            columns.append(column if column.type.equals(each.type) else column.cast(each.type))
        table = _counted(pa.Table.from_arrays(columns, schema=own.remove_metadata()), batch.num_rows)
        yield Chunk(range(first, first + batch.num_rows), values, table, faults)


def _counted(table: pa.Table, rows: int) -> pa.Table:
    """A table that knows its number of rows also when it has no column."""
    return table if table.num_columns else pa.table({"": pa.nulls(rows)})
