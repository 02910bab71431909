"""Carried columns: one Arrow type each for the whole job, known before the first row is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa

from synth.errors import InputError
from synth.sources import csvs, jsonl, parquet
from synth.sources.columns import Columns, value_at
from synth.sources.options import Corpus, ReadLimits
from synth.sources.readers import columns_of, first_rows
from synth.sources.records import BLOCK, Chunk, Fault, InputFile, RawRow

_DEFAULT = ReadLimits()
_EXACT = 2**53
"""Whole numbers up to here are exact in float64."""


def carried_schema(corpora: Sequence[Corpus], files: Sequence[InputFile], limits: ReadLimits = _DEFAULT) -> pa.Schema:
    """The columns that any corpus carries, in order of first mention, all nullable.

    Parquet keeps its types (a dictionary becomes its values), CSV columns are text, those of JSON lines have the type
    of the first 1,000 rows. Types of several files are united where Arrow can (int32 and int64, null and anything).
    Raises InputError naming two files whose types cannot be, and for columns that are missing.
    """
    fields: dict[str, tuple[pa.DataType, str]] = {}
    for file in files:
        corpus = corpora[file.corpus_index]
        if corpus.carry and file.rows != 0:
            for name, kind in zip(corpus.carry, _types(corpus, file, limits), strict=True):
                fields[name] = (kind, file.path) if name not in fields else _united(name, fields[name], kind, file.path)
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, (kind, _) in fields.items()])


def _types(corpus: Corpus, file: InputFile, limits: ReadLimits) -> list[pa.DataType]:
    columns_of(corpus, file, limits)
    if file.kind == "parquet":
        return parquet_types(corpus, file)
    if file.kind in ("csv", "tsv"):
        return [pa.string()] * len(corpus.carry)
    rows = first_rows(file, limits)
    return [_type_of_values(name, [value_at(row, name) for row in rows], file.path) for name in corpus.carry]


def parquet_types(corpus: Corpus, file: InputFile) -> list[pa.DataType]:
    """Types of the carried columns in one Parquet file."""
    known = parquet.schema(file.path)
    return [_plain(parquet.type_of(known, name)) for name in corpus.carry]


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_string_view(kind) else kind


def _type_of_values(name: str, values: list[Any], path: str) -> pa.DataType:
    try:
        return pa.infer_type([value for value in values if _is_whole(value)])
    except (pa.ArrowException, OverflowError) as exc:
        raise InputError(
            f"{path}: field {name}: values of several types, or none that Arrow has ({exc}).",
            "Make them equal, or leave the column out of `corpus.carry`.",
        ) from exc


def _is_whole(value: Any) -> bool:
    """Whether a value has no half of a surrogate pair in it: its row will be rejected, the others have a type."""
    try:
        pa.infer_type([value])
    except UnicodeEncodeError:
        return False
    return True


def _united(name: str, first: tuple[pa.DataType, str], kind: pa.DataType, path: str) -> tuple[pa.DataType, str]:
    known, known_path = first
    if known.equals(kind):
        return first
    try:
        schemas = [pa.schema([(name, known)]), pa.schema([(name, kind)])]
        united = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException as exc:
        raise InputError(
            f"{path}: field {name}: {kind}, but {known} in {known_path}.",
            "Make the types equal, or leave the column out of `corpus.carry`.",
        ) from exc
    return united, known_path if pa.types.is_null(kind) or not pa.types.is_null(known) else path


def fits(value: Any, kind: pa.DataType) -> bool:
    """Whether `pyarrow.array` takes a value of JSON, or of another Arrow type, as this type and loses nothing of it."""
    if value is None:
        return True
    if pa.types.is_struct(kind):
        names = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return isinstance(value, dict) and all(key in names and fits(part, names[key]) for key, part in value.items())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return isinstance(value, list) and all(fits(part, kind.value_type) for part in value)
    if isinstance(value, bool) or pa.types.is_boolean(kind):
        return isinstance(value, bool) and pa.types.is_boolean(kind)
    return _fits_alone(value, kind)


def _fits_alone(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, int) and pa.types.is_floating(kind):
        return abs(value) <= _EXACT
    try:
        scalar = pa.scalar(value, type=kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return False
    return isinstance(value, pa.Scalar) or isinstance(scalar.as_py(), type(value))


_MOST_FIELDS = 64
"""Keys of one object, beyond which it is a map of data and not a record: carried as JSON text."""
_PAIR_EXACT = 2**53
"""Whole numbers up to here are exact in float64."""
_AS_JSON = {b"synth.json": b"1"}
"""Marks the field of a column that is carried as JSON text."""


def file_schema(file: InputFile, limits: ReadLimits) -> pa.Schema:
    """Top-level columns of a file with the types in which they are carried.

    Raises InputError for a damaged file, a column that is there twice, and JSON lines without any object.
    """
    if file.kind == "parquet":
        known = pa.schema([pa.field(each.name, _plain_type(each.type)) for each in parquet.schema(file.path)])
    elif file.kind in ("csv", "tsv"):
        known = pa.schema([(name, pa.string()) for name in csvs.header(file.path, limits)])
    elif file.kind == "jsonl":
        known = _of_json(file, limits)
    else:
        raise InputError(f"{file.path}: a text file holds no pairs.", "Name Parquet, JSON lines, CSV or TSV.")
    twice = {name for name in known.names if known.names.count(name) > 1}
    if twice:
        raise InputError(f"{file.path}: two columns are called {min(twice)!r}.", "Rename one of them.")
    return known


def unite(schemas: Sequence[tuple[pa.Schema, str]]) -> pa.Schema:
    """All columns of several files (schema, path), in order of first mention, all nullable; null types become text.

    Raises InputError naming the file whose type of a column cannot be united with those before.
    """
    found: dict[str, pa.DataType] = {}
    for schema, path in schemas:
        for each in schema:
            before = found.get(each.name)
            united = each.type if before is None else common(before, each.type)
            if united is None:
                raise InputError(
                    f"{path}: field {each.name}: {each.type}, but {before} in an earlier file.",
                    "Make the types equal, or leave the column out with data.carry.",
                )
            found[each.name] = united
    return pa.schema([(name, _known(kind)) for name, kind in found.items()])


def common(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type that takes the values of both, None where there is none."""
    if first.equals(second):
        return first
    try:
        schemas = [pa.schema([("x", first)]), pa.schema([("x", second)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def array(values: Sequence[Any], field: pa.Field, faults: dict[int, Fault]) -> pa.Array:
    """Values of JSON or CSV as `file_schema` says; those that the type cannot take give their row a fault, by place."""
    if field.metadata == _AS_JSON:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    try:
        made = pa.array(values, field.type)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        good = [fits(value, field.type) for value in values]
    else:
        good = [not _may_round(field.type) or _exact(value) for value in values]
        if all(good):
            return made
    for place, fine in enumerate(good):
        if not fine:
            shown = repr(values[place])[:80].encode(errors="replace").decode()
            faults.setdefault(place, Fault("carry", f"field {field.name}: {shown} is not {field.type}"))
    return pa.array([value if fine else None for value, fine in zip(values, good, strict=True)], field.type)


def _may_round(kind: pa.DataType) -> bool:
    """Whether whole numbers may have become floats."""
    if kind.num_fields:
        return any(_may_round(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))


def _exact(value: Any) -> bool:
    """Whether no whole number in a value is beyond what a float holds."""
    if isinstance(value, list):
        return all(map(_exact, value))
    if isinstance(value, dict):
        return all(map(_exact, value.values()))
    return not isinstance(value, int) or abs(value) <= _PAIR_EXACT


@lru_cache(maxsize=1024)
def _of_json(file: InputFile, limits: ReadLimits) -> pa.Schema:
    """Remembered, because all lines are read for it: recognising, uniting and reading each ask once."""
    found: dict[str, pa.DataType | None] = {}
    block: dict[str, list[Any]] = {}
    seen = 0
    for row in jsonl.objects(file.path, limits):
        if isinstance(row, Fault):
            continue
        seen += 1
        for name, value in row.items():
            block.setdefault(name, []).append(value)
        if seen % BLOCK == 0:
            _add(found, block)
            block = {}
    _add(found, block)
    if file.rows and not seen:
        raise InputError(f"{file.path}: no line is a JSON object.", "Is it JSON lines?")
    return pa.schema([_field(name, kind) for name, kind in found.items()])


def _field(name: str, kind: pa.DataType | None) -> pa.Field:
    if kind is None or not _storable(kind):
        return pa.field(name, pa.string(), metadata=_AS_JSON)
    return pa.field(name, kind)


def _add(found: dict[str, pa.DataType | None], block: dict[str, list[Any]]) -> None:
    """Widen the types found so far to those of a block of values; None where nothing takes all of them."""
    for name, values in block.items():
        kind = _infer(values)
        before = found.get(name, kind)
        found[name] = None if before is None or kind is None else common(before, kind)


def _infer(values: Sequence[Any]) -> pa.DataType | None:
    try:
        kind = pa.infer_type(values)
        # it looks at the first value of a kind only where scalars are concerned
        return kind if all(_agrees(value, kind) for value in values) else None
    except UnicodeEncodeError:  # half a surrogate pair: its row will be rejected, the others have a type
        whole = [value for value in values if _encodable(value)]
        return _infer(whole) if len(whole) < len(values) else None
    except (pa.ArrowException, OverflowError):
        return None


def _agrees(value: Any, kind: pa.DataType) -> bool:
    """Whether a JSON value is of an inferred type, as it is written: true is no 1, and 1 no text."""
    if value is None:
        return True
    if isinstance(value, list):
        if not pa.types.is_list(kind):
            return False
        if set(map(type, value)) == {float}:  # vectors: thousands of them, and one look is enough
            return bool(pa.types.is_floating(kind.value_type))
        return all(_agrees(part, kind.value_type) for part in value)
    if isinstance(value, dict):
        known = bool(pa.types.is_struct(kind))
        return known and all(_agrees(part, kind.field(key).type) for key, part in value.items())
    return _scalar_agrees(value, kind)


def _scalar_agrees(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(kind))
    if isinstance(value, int):
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
    return bool(pa.types.is_floating(kind) if isinstance(value, float) else pa.types.is_string(kind))


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(kind: pa.DataType) -> bool:
    """Whether Parquet takes a type, and sensibly: no empty struct, none with a field for every key of a map."""
    if pa.types.is_struct(kind) and not 0 < kind.num_fields <= _MOST_FIELDS:
        return False
    return all(_storable(kind.field(place).type) for place in range(kind.num_fields))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_string_view(kind) else kind


def _known(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind


def read(file: InputFile, wanted: Sequence[str], own: pa.Schema, limits: ReadLimits) -> Iterator[Chunk]:
    """Every row of a file; `wanted` may be dotted, a column that the file lacks gives None.

    `own` has the carried columns of this file as `file_schema` says. Raises InputError where it cannot be read on.
    """
    if file.kind == "parquet":
        yield from _of_parquet(file, wanted, own, limits)
    elif file.kind == "jsonl":
        yield from _blocks(_chunk_of_json(file, limits), wanted, own)
    else:
        header = csvs.header(file.path, limits)
        columns = Columns(header[0] if header else "", None, None, None, tuple(header))
        rows = ((raw.fault or _named(header, raw)) for raw in csvs.read(file, columns, limits, None)) if header else ()
        yield from _blocks(iter(rows), wanted, own)


def _named(header: Sequence[str], raw: RawRow) -> Mapping[str, Any]:
    return dict(zip(header, raw.carried, strict=True))


def _chunk_of_json(file: InputFile, limits: ReadLimits) -> Iterator[Mapping[str, Any] | Fault]:
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
