"""One Arrow type for each carried column, known before the first pair is written.

Parquet keeps its types, CSV columns are text. Those of JSON lines come from every row of the file, so that a key that
first shows in the last line is not lost; values that have no common Arrow type are carried as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from synth.errors import InputError
from synth.pairs.records import BLOCK
from synth.sources import InputFile, ReadLimits, csvs, jsonl, parquet
from synth.sources.carried import fits
from synth.sources.records import Fault

_MOST_FIELDS = 64
"""Keys of one object, beyond which it is a map of data and not a record: carried as JSON text."""
_EXACT = 2**53
"""Whole numbers up to here are exact in float64."""
_AS_JSON = {b"synth.json": b"1"}
"""Marks the field of a column that is carried as JSON text."""


def file_schema(file: InputFile, limits: ReadLimits) -> pa.Schema:
    """Top-level columns of a file with the types in which they are carried.

    Raises InputError for a damaged file, a column that is there twice, and JSON lines without any object.
    """
    if file.kind == "parquet":
        known = pa.schema([pa.field(each.name, _plain(each.type)) for each in parquet.schema(file.path)])
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
    return not isinstance(value, int) or abs(value) <= _EXACT


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


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_string_view(kind) else kind


def _known(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind
