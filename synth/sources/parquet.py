"""Parquet in batches of bounded size: no file, however packed, unpacks more than `limits.max_batch_bytes` at once.

Two encodings of Parquet let a few bytes stand for a long text again and again: dictionaries and shared prefixes. What
one row can take at most is known before it is unpacked (the size of the dictionary page), and decides how many rows
make a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synth.errors import InputError, SystemFault
from synth.sources.columns import Columns, find_columns
from synth.sources.options import Corpus, ReadLimits
from synth.sources.records import EXCERPT, Fault, InputFile, RawRow

_ROWS = 4096
_SHARE = 8
"""A batch aims at this part of the cap: rows of one group differ in size."""
_DICTIONARY = b"\x15\x04\x15"
"""How the header of a dictionary page starts: a number follows, type 2 with its sign bit, a number follows."""
_VALUE = 8
"""Bytes that a value takes at least, however few its encoding needs."""


def count(path: Path) -> int:
    """Number of rows by the footer. Raises InputError for a damaged footer."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def schema(path: str) -> pa.Schema:
    """Columns of a file with their Arrow types. Raises InputError for a damaged footer."""
    with _open(path) as file:
        return file.schema_arrow


def columns_of(corpus: Corpus, path: str) -> Columns:
    """The columns that the corpus means. Raises InputError for one that is missing or of an unusable type."""
    known = schema(path)
    columns = find_columns(corpus, [name for field in known for name in _leaf_names(field)], path)
    for name in columns._replace(carry=()).names:
        kind = type_of(known, name)
        if not (is_text(kind) or pa.types.is_null(kind) or (name == columns.id and pa.types.is_integer(kind))):
            raise InputError(
                f"{path}: column {name!r} is {kind}, not text.", "Name another column in the job, or convert this one."
            )
    return columns


def type_of(schema: pa.Schema, column: str) -> pa.DataType:
    """Type of a column; a dotted name that is no column of its own reaches into structs."""
    if column in schema.names:
        return schema.field(column).type
    head, _, rest = column.partition(".")
    kind = schema.field(head).type
    for part in rest.split("."):
        kind = kind.field(part).type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, in any of the layouts that Arrow has for it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read(
    file: InputFile, columns: Columns, limits: ReadLimits, wanted: Callable[[int], bool] | None
) -> Iterator[RawRow]:
    """Raw rows, row group by row group; a column that the schema calls null gives None.

    Raises InputError, naming the row group, for a damaged page, a batch beyond `limits.max_batch_bytes`, a text beyond
    `limits.max_line_bytes`.
    """
    for row, batch, where in batches(file, columns.names, limits):
        numbers = range(row, row + batch.num_rows)
        if wanted is None:
            yield from _rows(batch, numbers, columns, limits, where)
        elif any(map(wanted, numbers)):
            yield from (raw for raw in _rows(batch, numbers, columns, limits, where) if wanted(raw.row))


def batches(file: InputFile, columns: Sequence[str], limits: ReadLimits) -> Iterator[tuple[int, pa.RecordBatch, str]]:
    """(number of its first row, batch, where it stands for messages), in order. Raises InputError as `read` does."""
    with _open(file.path) as source:
        row = 0
        for group in range(source.num_row_groups):
            for batch in _batches(source, group, list(columns), limits, file.path):
                yield row, batch, f"{file.path}: row group {group}"
                row += batch.num_rows


def _batches(
    source: pq.ParquetFile, group: int, names: list[str], limits: ReadLimits, path: str
) -> Iterator[pa.RecordBatch]:
    size = _batch_rows(source.metadata.row_group(group), names, limits, path, group)
    batches = source.iter_batches(batch_size=size, row_groups=[group], columns=names)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as exc:
            raise InputError(f"{path}: row group {group} is damaged ({exc}).", "Write the file again.") from exc
        if batch is None:
            return
        if batch.nbytes > limits.max_batch_bytes:
            raise InputError(
                f"{path}: row group {group}: {batch.num_rows} rows unpack to {batch.nbytes} bytes, more than "
                f"{limits.max_batch_bytes}.",
                "Write the file with smaller row groups.",
            )
        yield batch


def _batch_rows(metadata: pq.RowGroupMetaData, names: list[str], limits: ReadLimits, path: str, group: int) -> int:
    """How many rows to unpack at once, such that they stay below the cap. Raises InputError where one may not."""
    chunks = [metadata.column(place) for place in range(metadata.num_columns)]
    chunks = [chunk for chunk in chunks if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in names)]
    total = sum(max(chunk.total_uncompressed_size, _VALUE * chunk.num_values) for chunk in chunks)
    widest = sum(_widest(chunk, path) for chunk in chunks)
    share, rows = limits.max_batch_bytes // _SHARE, max(1, metadata.num_rows)
    if max(total // rows, widest) > limits.max_batch_bytes:
        raise InputError(
            f"{path}: row group {group}: one row may unpack to {max(total // rows, widest)} bytes, more than "
            f"{limits.max_batch_bytes}.",
            "Cut the long texts in it.",
        )
    return int(max(1, min(_ROWS, share * rows // max(1, total), share // max(1, widest))))


def _widest(chunk: pq.ColumnChunkMetaData, path: str) -> int:
    """Bytes that one value of a column chunk may take beyond its own share of the chunk."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return int(chunk.total_uncompressed_size)
    if chunk.physical_type != "BYTE_ARRAY":
        return 0
    with Path(path).open("rb") as file:
        file.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
        return _dictionary_size(file.read(8))


def _dictionary_size(header: bytes) -> int:
    """Unpacked bytes of a dictionary page by its header, 0 for other pages: two fields of a compact Thrift struct.

    Source: parquet.thrift of apache/parquet-format, PageHeader {1: PageType type, 2: i32 uncompressed_page_size, …}.
    """
    if not header.startswith(_DICTIONARY):
        return 0
    number = 0
    for place, byte in enumerate(header[len(_DICTIONARY) :]):
        number |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            break
    return number >> 1  # the lowest bit is the sign


def _rows(batch: pa.RecordBatch, numbers: range, columns: Columns, limits: ReadLimits, where: str) -> Iterator[RawRow]:
    faults: dict[int, Fault] = {}
    values = {}
    for name in columns.names:
        values[name] = column_values(batch, name, limits, where, faults)
    nothing = [None] * batch.num_rows
    text, ident, title, language = (nothing if name is None else values[name] for name in columns[:4])
    carried = zip(*(values[name] for name in columns.carry), strict=True) if columns.carry else [()] * batch.num_rows
    found = map(faults.get, range(batch.num_rows))
    return map(RawRow, numbers, text, ident, title, language, carried, found)


def column_values(
    batch: pa.RecordBatch, name: str, limits: ReadLimits, where: str, faults: dict[int, Fault]
) -> list[Any]:
    """A column's Python values; rows whose value is no UTF-8 get a fault, by their place in the batch.

    Raises InputError for a text beyond `limits.max_line_bytes`.
    """
    array = _column(batch, name)
    _check_lengths(array, limits, where)
    try:
        return _values(array)
    except UnicodeDecodeError:
        return _decodable(array, name, faults)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    return pc.struct_field(batch.column(name.partition(".")[0]), name.split(".")[1:])


def _check_lengths(array: pa.Array, limits: ReadLimits, where: str) -> None:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary
    if is_text(array.type):
        lengths = pc.binary_length(array.cast(pa.large_binary()))
        longest = pc.max(lengths).as_py() or 0
        if longest > limits.max_line_bytes:
            raise InputError(
                f"{where}: a text of {longest} bytes.", "Cut it, or raise `limits.max_line_bytes` in the job."
            )


def _values(array: pa.Array) -> list[Any]:
    """Python values that `pyarrow.array` turns back into the same; texts shared where the file shares them."""
    if pa.types.is_dictionary(array.type):
        texts = _values(array.dictionary)
        return [None if index is None else texts[index] for index in array.indices.to_pylist()]
    return list(array) if _is_lossy(array.type) else array.to_pylist()


def _decodable(array: pa.Array, name: str, faults: dict[int, Fault]) -> list[Any]:
    """Values one by one; those that are no UTF-8 give their rows a fault."""
    values: list[Any] = []
    for place, scalar in enumerate(array):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError as exc:
            values.append(None)
            shown = exc.object[: EXCERPT * 4].decode(errors="replace")[:EXCERPT]
            faults[place] = Fault("encoding", f"field {name}: byte {exc.start} of the value is not UTF-8", shown)
    return values


def _is_lossy(kind: pa.DataType) -> bool:
    """Whether Python has no equal of the values, as with nanoseconds: they then stay Arrow scalars."""
    if kind.num_fields:
        return any(_is_lossy(kind.field(place).type) for place in range(kind.num_fields))
    return str(kind).startswith(("timestamp[ns", "duration[ns", "time64[ns"))


def _leaf_names(field: pa.Field, prefix: str = "") -> Iterator[str]:
    yield prefix + field.name
    if pa.types.is_struct(field.type):
        for place in range(field.type.num_fields):
            yield from _leaf_names(field.type.field(place), f"{prefix}{field.name}.")


@contextmanager
def _open(path: Path | str) -> Iterator[pq.ParquetFile]:
    try:
        # a buffer: without one a whole column of a row group is in memory at once
        file = pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
    except (OSError, pa.ArrowException) as exc:
        raise InputError(f"{path}: not a whole Parquet file ({exc}).", "Write or fetch it again.") from exc
    with file:
        yield file
