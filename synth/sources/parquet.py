"""Parquet and Arrow in batches of bounded size: no Parquet, however packed, unpacks more than `limits.max_batch_bytes`.

Two encodings of Parquet let a few bytes represent a long text again and again: dictionaries and shared prefixes. The
most that one row can take is known before it is unpacked (the size of the dictionary page), and decides how many rows
make a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synth.errors import InputError, SystemFault
from synth.sources import carried
from synth.sources.checks import excerpt_of_bytes
from synth.sources.options import ReadLimits
from synth.sources.records import Fault, RawRows, Selection
from synth.sources.text import RAISE_LIMIT, Wanted

_ROWS = 4096
_SHARE = 8
"""A batch aims at this part of the cap: rows of one group differ in size."""
_DICTIONARY = b"\x15\x04\x15"
"""How the header of a dictionary page starts: a number follows, type 2 with its sign bit, a number follows."""
_ARROW_FILE = b"ARROW1"
"""How Arrow's file format starts; its stream format has no such mark."""
_SIGNATURE = 28
"""Bytes after the footer of a file that has encrypted columns: a nonce and a tag."""
_VALUE = 8
"""Bytes that a value takes at least, however few its encoding needs."""


def count(path: str) -> int:
    if _is_arrow(path):
        return sum(batch.num_rows for batch in _arrow_batches(path))
    with _open(path) as file:
        return int(file.metadata.num_rows)


def schema(path: str) -> pa.Schema:
    if _is_arrow(path):
        return next(_arrow_batches(path)).schema
    with _open(path) as file:
        return file.schema_arrow


def type_of(schema: pa.Schema, column: str) -> pa.DataType:
    """Type of a column; a dotted name that is not a column itself reaches into structs."""
    if column in schema.names:
        return schema.field(column).type
    head, *rest = column.split(".")
    kind = schema.field(head).type
    for part in rest:
        kind = kind.field(part).type
    return kind


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def column_names(schema: pa.Schema) -> list[str]:
    """Columns, each followed by the fields of its struct, dotted."""
    names: list[str] = []
    for each in schema:
        names.append(each.name)
        if pa.types.is_struct(each.type):
            names += [f"{each.name}.{inner}" for inner in column_names(pa.schema(each.type.fields))]
    return names


def read(path: str, selection: Selection, limits: ReadLimits, wanted: Wanted | None) -> Iterator[RawRows]:
    """The wanted rows, one row group after the other. Raises InputError for a damaged page or one beyond the limits."""
    first = 0
    for batch, where in _named_batches(path, selection, limits):
        numbers: Sequence[int] = range(first, first + batch.num_rows)
        picked = batch
        if wanted is not None:
            numbers = [number for number in numbers if wanted(number)]
            picked = batch.take(pa.array([number - first for number in numbers], pa.int64()))
        first += batch.num_rows
        if numbers:
            yield _raw_rows(picked, numbers, selection, limits, where)


def _named_batches(path: str, selection: Selection, limits: ReadLimits) -> Iterator[tuple[pa.RecordBatch, str]]:
    """Batches of the columns that are wanted, and where in the file they are."""
    if _is_arrow(path):
        yield from ((batch, path) for batch in _arrow_batches(path, limits))
        return
    with _open(path) as file:
        known = file.schema_arrow.names
        present = [name for name in selection.values if name in known or name.partition(".")[0] in known]
        names = list(dict.fromkeys([*present, *(name for name in selection.schema.names if name in selection.carried)]))
        for group in range(file.num_row_groups):
            for batch in _batches(file, group, names, limits, path):
                yield batch, f"{path}: row group {group}"


def _batches(
    file: pq.ParquetFile, group: int, names: list[str], limits: ReadLimits, path: str
) -> Iterator[pa.RecordBatch]:
    where, metadata = f"{path}: row group {group}", file.metadata.row_group(group)
    chunks = [metadata.column(place) for place in range(metadata.num_columns)]
    chunks = [chunk for chunk in chunks if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in names)]
    total = sum(max(chunk.total_uncompressed_size, _VALUE * chunk.num_values) for chunk in chunks)
    widest = sum(_widest(chunk, path) for chunk in chunks)
    share, rows = limits.max_batch_bytes // _SHARE, max(1, metadata.num_rows)
    if (most := max(total // rows, widest)) > limits.max_batch_bytes:
        what = f"one row may unpack to {most} bytes, more than {limits.max_batch_bytes}"
        raise InputError(f"{where}: {what}.", "Shorten the long texts in it.")
    size = int(max(1, min(_ROWS, share * rows // max(1, total), share // max(1, widest))))
    batches = file.iter_batches(batch_size=size, row_groups=[group], columns=names)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as exc:
            raise InputError(f"{where} is damaged ({exc}).", "Write the file again.") from exc
        if batch is None:
            return
        if batch.nbytes > limits.max_batch_bytes:
            what = f"{batch.num_rows} rows unpack to {batch.nbytes} bytes, more than {limits.max_batch_bytes}"
            raise InputError(f"{where}: {what}.", "Write the file with smaller row groups.")
        yield batch


def _widest(chunk: pq.ColumnChunkMetaData, path: str) -> int:
    """Bytes that one value of a column chunk may take beyond its own share of the chunk."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return int(chunk.total_uncompressed_size)
    if chunk.physical_type != "BYTE_ARRAY":
        return 0
    with Path(path).open("rb") as file:
        file.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
        header = file.read(8)
    # Unpacked bytes of a dictionary page by its header, 0 for other pages: two fields of a compact Thrift struct.
    # Source: parquet.thrift of apache/parquet-format, PageHeader {1: PageType type, 2: i32 uncompressed_page_size, …}.
    # pyarrow has limits for the footer only, and its metadata give the packed size of a page only.
    if not header.startswith(_DICTIONARY):
        return 0
    number = 0
    for place, byte in enumerate(header[len(_DICTIONARY) :]):
        number |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            break
    return number >> 1  # the lowest bit is the sign


def _raw_rows(
    batch: pa.RecordBatch, numbers: Sequence[int], selection: Selection, limits: ReadLimits, where: str
) -> RawRows:
    faults: dict[int, Fault] = {}
    values: dict[str, list[Any]] = {}
    for name in selection.values:
        column = _column(batch, name, limits, where)
        values[name] = [None] * len(numbers) if column is None else _python_values(column, name, faults)
    fields = (each for each in selection.schema if each.name in selection.carried)
    columns = {each.name: _carried(_column(batch, each.name, limits, where), each, faults) for each in fields}
    return RawRows(numbers, values, carried.table_of(columns, selection.schema, len(numbers)), faults)


def _column(batch: pa.RecordBatch, name: str, limits: ReadLimits, where: str) -> pa.Array | None:
    """A column, None where the file does not have it. Raises InputError for a text beyond `limits.max_line_bytes`."""
    head, *rest = [name] if name in batch.schema.names else name.split(".")
    if head not in batch.schema.names:
        return None
    column = pc.struct_field(batch.column(head), rest) if rest else batch.column(head)
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if is_text(texts.type):
        longest = pc.max(pc.binary_length(texts.cast(pa.large_binary()))).as_py() or 0
        if longest > limits.max_line_bytes:
            raise InputError(f"{where}: a text of {longest} bytes.", RAISE_LIMIT)
    return column


def _carried(column: pa.Array, field: pa.Field, faults: dict[int, Fault]) -> pa.Array:
    """A column in the type of the job; values that are not UTF-8 or do not fit give their rows a fault."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # some value is not UTF-8
        _python_values(column, field.name, faults)
        column = column.take(pa.array([None if place in faults else place for place in range(len(column))], pa.int64()))
    column = carried.converted(column, carried.plain_type(column.type))
    if carried.common(column.type, field.type) == field.type:
        with suppress(pa.ArrowInvalid):  # some value does not fit
            return column.cast(field.type)
    return carried.array(_python_values(column, field.name, faults), field, faults)


def _python_values(column: pa.Array, name: str, faults: dict[int, Fault]) -> list[Any]:
    """Values that `pyarrow.array` turns back into the same; one that is not UTF-8 gives its row a fault."""
    with suppress(UnicodeDecodeError):
        if pa.types.is_dictionary(column.type):  # texts are shared where the file shares them
            texts = _plain_values(column.dictionary)
            return [None if index is None else texts[index] for index in column.indices.to_pylist()]
        return _plain_values(column)
    values: list[Any] = []
    for place, scalar in enumerate(column):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError as exc:
            values.append(None)
            detail = f"field {name}: byte {exc.start} of the value is not UTF-8"
            faults[place] = Fault("encoding", detail, excerpt_of_bytes(exc.object))
    return values


def _plain_values(column: pa.Array) -> list[Any]:
    return list(column) if _is_lossy(column.type) else column.to_pylist()


def _is_lossy(kind: pa.DataType) -> bool:
    """Whether Python has no equal of the values, as with nanoseconds: they then stay Arrow scalars."""
    if kind.num_fields:
        return any(_is_lossy(kind.field(place).type) for place in range(kind.num_fields))
    return str(kind).startswith(("timestamp[ns", "duration[ns", "time64[ns"))


def _is_arrow(path: str) -> bool:
    return path.lower().endswith((".arrow", ".feather"))


def _arrow_batches(path: str, limits: ReadLimits | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of Arrow's stream or file format, an empty one first; slices of bounded size where limits are given.

    Raises InputError for a damaged file and for rows beyond the limits.
    """
    try:
        with pa.OSFile(path) as source:
            is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            yield pa.RecordBatch.from_pylist([], reader.schema)
            for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
                _check(batch)
                for start in range(0, batch.num_rows, _ROWS):
                    part = batch.slice(start, _ROWS)
                    if limits is not None and part.nbytes > limits.max_batch_bytes:
                        what = f"{part.num_rows} rows take {part.nbytes} bytes, more than {limits.max_batch_bytes}"
                        raise InputError(f"{path}: {what}.", "Write the file with shorter texts.")
                    yield part
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
    except (OSError, UnicodeDecodeError, pa.ArrowException) as exc:
        raise InputError(f"{path}: not a complete Arrow file ({exc}).", "Write or download it again.") from exc


def _check(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid where offsets lead outside of the data; a text that is not UTF-8 is left to its row."""
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise
            column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary()).validate(full=True)


@contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    try:
        # a buffer: without one a whole column of a row group is in memory at once
        file = pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
    except (OSError, UnicodeDecodeError, pa.ArrowException) as exc:
        if "encrypt" in str(exc):
            raise _encrypted(path) from exc
        raise InputError(f"{path}: not a complete Parquet file ({exc}).", "Write or download it again.") from exc
    with file:
        # pyarrow aborts the process when it is asked for the metadata of an encrypted column
        with Path(path).open("rb") as raw:
            raw.seek(-8, os.SEEK_END)
            size = int.from_bytes(raw.read(4), "little")
        if size == file.metadata.serialized_size + _SIGNATURE:
            raise _encrypted(path)
        try:
            yield file
        except UnicodeDecodeError as exc:  # the name of a column
            raise InputError(f"{path}: its footer is damaged ({exc}).", "Write or download it again.") from exc


def _encrypted(path: str) -> InputError:
    return InputError(f"{path}: has encrypted columns.", "Read it where its keys are, and write it unencrypted.")
