"""Carried columns: one Arrow type each for the whole job, known before the first row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from synth.errors import InputError
from synth.sources import parquet
from synth.sources.columns import value_at
from synth.sources.options import Corpus, ReadLimits
from synth.sources.readers import columns_of, first_rows
from synth.sources.records import InputFile

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
