"""Carried columns: one Arrow type each for the whole job, and values converted to it without loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth.errors import InputError
from synth.sources.checks import storable, surrogate
from synth.sources.records import Fault

_EXACT = 2**53
"""Whole numbers up to here are exact in float64."""
_MOST_FIELDS = 64
"""Keys of one object, beyond which it is a map of data and not a record: carried as JSON text."""
_BLOCK = 1024
_AS_JSON = {b"synth.json": b"1"}
"""Marks the field of a column that is carried as JSON text."""


def unite(schemas: Iterable[tuple[pa.Schema, str]]) -> pa.Schema:
    """All columns of several files (schema, path), nullable, null as text. Raises InputError naming two that differ."""
    found: dict[str, tuple[pa.DataType, str]] = {}
    for schema, path in schemas:
        for each in schema:
            known, first = found.get(each.name, (each.type, path))
            united = common(known, each.type)
            if united is None:
                hint = "Make the types equal, or leave the column out of `carry`."
                raise InputError(f"{path}: field {each.name}: {each.type}, but {known} in {first}.", hint)
            found[each.name] = united, path if pa.types.is_null(known) else first
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, (kind, _) in found.items()])


def common(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    if first.equals(second):
        return first
    try:
        schemas = [pa.schema([("x", first)]), pa.schema([("x", second)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a Parquet column is carried: one that `datasets` reads, too.

    A dictionary becomes its values, a view plain text, a UUID text, another extension what it is stored as, and a map a
    list of keys and values.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_string_view(kind) else _loadable(kind)


def _loadable(kind: pa.DataType) -> pa.DataType:
    found = kind
    if isinstance(kind, pa.BaseExtensionType):
        special = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
        found = special.get(kind.extension_name) or _loadable(kind.storage_type)
    elif pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        found = pa.decimal128(kind.precision, kind.scale)
    elif pa.types.is_map(kind):
        found = pa.list_(pa.struct([("key", _loadable(kind.key_type)), ("value", _loadable(kind.item_type))]))
    elif pa.types.is_struct(kind):
        found = pa.struct([(each.name, _loadable(each.type)) for each in kind.fields])
        found = kind if found == kind else found
    elif pa.types.is_dictionary(kind) or kind.num_fields:
        inner, view = _loadable(kind.value_type), pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
        if view or inner != kind.value_type:
            found = inner if pa.types.is_dictionary(kind) else pa.large_list(inner)
    return found


def converted(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """A column in its `plain_type`, which is `wanted`."""
    kind = column.type
    if kind == wanted:
        found = column
    elif pa.types.is_dictionary(kind):
        found = converted(column.dictionary_decode(), wanted)
    elif isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid":
        found = pa.array([None if each is None else str(each) for each in column.to_pylist()], wanted)
    elif isinstance(kind, pa.BaseExtensionType):
        found = converted(column.storage, wanted)
    elif pa.types.is_struct(kind):
        parts = [converted(part, field.type) for part, field in zip(column.flatten(), wanted, strict=True)]
        found = pa.StructArray.from_arrays(parts, fields=list(wanted), mask=column.is_null())
    elif pa.types.is_map(kind):
        key, value = wanted.value_type
        parts = [converted(column.keys, key.type), converted(column.items, value.type)]
        values = pa.StructArray.from_arrays(parts, fields=[key, value])
        found = pa.ListArray.from_arrays(pa.array(column.offsets.to_numpy()), values, wanted, mask=column.is_null())
    elif pa.types.is_nested(kind):
        ends = np.cumsum([0, *pc.fill_null(pc.list_value_length(column), 0).to_pylist()])
        values = converted(column.flatten(), wanted.value_type)
        found = pa.LargeListArray.from_arrays(pa.array(ends), values, wanted, mask=column.is_null())
    else:
        found = column.cast(wanted)
    return found


def json_schema(objects: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The columns of JSON objects, in order of first mention, with types that take all their values.

    The types are widened block by block; a column that no type takes is text, and marked for `json_columns`.
    """
    found: dict[str, pa.DataType | None] = {}
    rest = iter(objects)
    while block := list(islice(rest, _BLOCK)):
        columns: dict[str, list[Any]] = {}
        for name, value in (item for each in block for item in each.items()):
            columns.setdefault(name, []).append(value)
        for name, values in columns.items():
            kind = infer_type(values)
            known = found.get(name, kind)
            found[name] = None if known is None or kind is None else common(known, kind)
    as_text = {name for name, kind in found.items() if kind is None or not _storable(kind)}
    fields = (pa.field(n, pa.string(), metadata=_AS_JSON) if n in as_text else (n, kind) for n, kind in found.items())
    return pa.schema(fields)


def json_columns(schema: pa.Schema) -> frozenset[str]:
    return frozenset(each.name for each in schema if each.metadata == _AS_JSON)


def infer_type(values: Sequence[Any]) -> pa.DataType | None:
    """The type that takes all of these JSON values as they are written (true is not 1), None if there is none."""
    try:
        kind = pa.infer_type(values)
    except UnicodeEncodeError:  # half a surrogate pair: its row will be rejected, the others have a type
        usable = [value for value in values if _encodable(value)]
        return infer_type(usable) if len(usable) < len(values) else None
    except (pa.ArrowException, OverflowError):
        return None
    # Arrow checks only the first value of a kind where scalars are concerned
    return kind if all(fits(value, kind, math.inf) for value in values) else None


def widened(kind: pa.DataType, values: Sequence[Any], *, exact: bool) -> pa.DataType:
    """The type with room for these JSON values, too; a value without room changes nothing, and will be rejected.

    `exact`: whether all whole numbers before would be exact as floats.
    """

    def united(known: pa.DataType, more: Sequence[Any]) -> pa.DataType | None:
        found = infer_type(more)
        both = None if found is None else common(known, found)
        inexact = both is not None and pa.types.is_integer(known) and pa.types.is_floating(both) and not exact
        return None if both is None or inexact or not _storable(both) else both

    whole = united(kind, values)
    if whole is None:
        for value in values:
            kind = united(kind, [value]) or kind
    return whole or kind


def is_exact(values: Iterable[Any]) -> bool:
    """Whether all whole numbers among these are exact as floats."""
    return not any(isinstance(value, int) and abs(value) > _EXACT for value in values)


def fits(value: Any, kind: pa.DataType, largest: float = _EXACT) -> bool:
    """Whether `pyarrow.array` takes a value as this type without loss; whole numbers to `largest` may become floats."""
    if value is None or (isinstance(value, str) and pa.types.is_string(kind)):
        return value is None or _encodable(value)
    if isinstance(value, dict) and pa.types.is_struct(kind):
        types = {each.name: each.type for each in kind.fields}
        return all(name in types and fits(part, types[name], largest) for name, part in value.items())
    if isinstance(value, list) and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        if set(map(type, value)) == {float}:  # vectors: thousands of them, and one look is enough
            return bool(pa.types.is_floating(kind.value_type))
        return all(fits(part, kind.value_type, largest) for part in value)
    return _fits_scalar(value, kind, largest)


def _fits_scalar(value: Any, kind: pa.DataType, largest: float) -> bool:
    if isinstance(value, bool) or pa.types.is_boolean(kind):
        return isinstance(value, bool) and bool(pa.types.is_boolean(kind))
    if isinstance(value, int) and pa.types.is_floating(kind):
        return abs(value) <= largest
    try:
        scalar = pa.scalar(value, type=kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return False
    return isinstance(value, pa.Scalar) or isinstance(scalar.as_py(), type(value))


def array(values: Sequence[Any], field: pa.Field, faults: dict[int, Fault], *, as_json: bool = False) -> pa.Array:
    """Python values as the type of a field; a value that does not fit becomes null and gives its row a fault."""
    if as_json:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    usable = [fits(value, field.type) for value in values]
    if all(usable):
        return pa.array(values, field.type)
    for place, fine in enumerate(usable):
        if not fine:
            shown = storable(repr(values[place])[:80])
            faults.setdefault(place, Fault("carry", f"field {field.name}: {shown} is not {field.type}"))
    return pa.array([value if fine else None for value, fine in zip(values, usable, strict=True)], field.type)


def table_of(columns: Mapping[str, pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    """A table of `schema` with these columns, null where one is not there."""
    arrays = [columns[each.name] if each.name in columns else pa.nulls(rows, each.type) for each in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _encodable(value: Any) -> bool:
    return surrogate(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) is None


def _storable(kind: pa.DataType) -> bool:
    """Whether Parquet takes a type, and sensibly: no empty struct, none with a field for every key of a map."""
    if pa.types.is_struct(kind) and not 0 < kind.num_fields <= _MOST_FIELDS:
        return False
    return all(_storable(kind.field(place).type) for place in range(kind.num_fields))
