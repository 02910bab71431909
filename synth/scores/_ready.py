"""Cosines of vectors that the data bring along, read where Arrow holds them: only a block at a time is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth.errors import InputError, JobError
from synth.scores._vectors import dot

_BLOCK = 32
"""Rows multiplied at a time: their float64 copies stay in the processor's cache."""


def vectors(table: pa.Table, name: str) -> NDArray[np.floating]:
    """A column of vectors as an array (rows, width) of its own type; zero-copy where it is in one piece.

    Raises JobError where there is no such column or it holds no vectors, InputError naming the first row whose vector
    is missing or of another width than the first.
    """
    if name not in table.column_names:
        raise JobError(f"scores: cosine: there is no column {name!r}.", f"There are: {', '.join(table.column_names)}.")
    column = table[name]
    fixed = pa.types.is_fixed_size_list(column.type)
    listed = fixed or pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not listed or not (pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)):
        raise JobError(f"scores: cosine: the column {name!r} is {column.type}, no list of numbers.")
    if column.null_count:
        raise _bad(table, pc.index(pc.is_null(column), True).as_py(), name, "is null")
    if not table.num_rows:
        return np.empty((0, 1), np.float32)
    width = column.type.list_size if fixed else len(column[0])
    if not fixed:
        wrong = pc.not_equal(pc.list_value_length(column), width)
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            raise _bad(table, row, name, f"has {len(column[row])} values, the first row has {width}")
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks if len(chunk)]
    joined = flat[0] if len(flat) == 1 else np.concatenate(flat)
    matrix: NDArray[np.floating[Any]] = joined.reshape(table.num_rows, width)
    return matrix


def cosines(table: pa.Table, query: str, passage: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine of each row's two vectors, and of its query's with the passage's half the table away.

    Raises what `vectors` raises, and InputError naming the row for two widths, NaN, infinity, or zeros only.
    """
    asked, documents = vectors(table, query), vectors(table, passage)
    if len(asked) and asked.shape[1] != documents.shape[1]:
        what = f"has {documents.shape[1]} values, {query} has {asked.shape[1]}"
        raise _bad(table, 0, passage, what)
    count = len(asked)
    own, lengths, norms = np.empty(count), np.empty(count), np.empty(count)
    for rows in _blocks(0, count):
        a, b = asked[rows].astype(np.float64), documents[rows].astype(np.float64)
        for side, into, name in ((a, lengths, query), (b, norms, passage)):
            squares = dot(side, side)
            if not (np.isfinite(squares) & (squares > 0)).all():
                row = rows.start + int(np.flatnonzero(~np.isfinite(squares) | (squares <= 0))[0])
                raise _bad(table, row, name, "holds NaN, infinity or only zeros")
            into[rows] = np.sqrt(squares)
        own[rows] = dot(a, b) / (lengths[rows] * norms[rows])
    other = lengths
    _shuffle(asked, documents, other, norms)
    return np.clip(own, -1.0, 1.0), np.clip(other, -1.0, 1.0)


def _shuffle(
    asked: NDArray[np.floating],
    documents: NDArray[np.floating],
    lengths: NDArray[np.float64],
    norms: NDArray[np.float64],
) -> None:
    """Turn `lengths` of the queries into their cosines with the passage half the table away."""
    count = len(asked)
    half = count // 2
    for start, end, shift in ((0, count - half, half), (count - half, count, half - count)):
        for rows in _blocks(start, end):
            there = slice(rows.start + shift, rows.stop + shift)
            a, b = asked[rows].astype(np.float64), documents[there].astype(np.float64)
            lengths[rows] = dot(a, b) / (lengths[rows] * norms[there])


def _blocks(start: int, end: int) -> Iterator[slice]:
    for first in range(start, end, _BLOCK):
        yield slice(first, min(first + _BLOCK, end))


def _bad(table: pa.Table, row: int, name: str, what: str) -> InputError:
    ident = f" ({table['id'][row].as_py()})" if "id" in table.column_names else ""
    place = f"pairs: row {row + 1}"
    if "source_row" in table.column_names:  # a shard starts anywhere in the data
        place = f"{table['source'][row].as_py()}: row {table['source_row'][row].as_py() + 1}"
    return InputError(f"{place}{ident}: field {name}: {what}.", "Mend the vectors, or leave the row out.")
