"""Vectors for scorers: of an encoder, or precomputed ones that the data bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import InputError, JobError, ServerRefused
from synth.stage import Encoder


async def unit_vectors(
    encoder: Encoder, texts: Sequence[str], role: Literal["query", "document"]
) -> NDArray[np.float64]:
    """Vectors of length 1, and zeros for the texts that cannot be embedded: float64 (n, width).

    Raises ServerRefused for another number of vectors than texts, and for NaN, infinity or zeros as a vector.
    """
    encoded, refused = await encode_all(encoder, texts, role)
    vectors = np.asarray(encoded.vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):  # noqa: PLR2004 - (n, width)
        raise ServerRefused(
            f"embed: {len(texts)} texts went in, an array of shape {vectors.shape} came back.",
            "Each text needs exactly one vector.",
        )
    without = np.zeros(len(texts), np.bool_)
    without[list(refused)] = True
    unusable = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)) & ~without)
    if len(unusable):
        text = texts[int(unusable[0])]
        raise ServerRefused(
            f"embed: the vector of {len(unusable)} of {len(texts)} texts ({role}) has NaN, infinity or only zeros; "
            f"the first is {text[:60]!r}.",
            "Check the model's dtype on the server; such vectors have no cosine.",
        )
    vectors = np.where(without[:, None], 0.0, vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float64)


def dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products row by row: (n, width) and (n, width) to (n,)."""
    return np.asarray(np.einsum("ij,ij->i", left, right))


_BLOCK = 32
"""Rows multiplied at a time: their float64 copies stay in the processor's cache."""


def vectors(table: pa.Table, name: str) -> NDArray[np.floating]:
    """A column of vectors as an array (rows, width) of its own type; zero-copy where it is in one piece.

    Raises JobError where the column is absent or has other values, InputError naming the first row whose vector is
    missing or of another width than the first.
    """
    if name not in table.column_names:
        there = ", ".join(table.column_names)
        raise JobError(f"scores: cosine: column {name!r} does not exist.", f"There are: {there}.")
    column = table[name]
    fixed = pa.types.is_fixed_size_list(column.type)
    listed = fixed or pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not listed or not (pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)):
        raise JobError(f"scores: cosine: the column {name!r} has the type {column.type}; expected a list of numbers.")
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
    own, other, lengths, norms = (np.empty(count) for _ in range(4))  # products, and squares of lengths
    half, odd = count // 2, count % 2
    lower = half + odd
    room = [np.empty((_BLOCK + 1, asked.shape[1])) for _ in range(4)]  # one for all blocks: new ones cost page faults
    for start in range(0, lower, _BLOCK):
        # Query n meets passage n + half, query n + lower meets passage n: blocks of both halves, each converted once.
        low = slice(start, min(start + _BLOCK, lower))
        high = slice(start + lower, min(low.stop + lower, count))
        facing = slice(start + half, max(low.stop + half, high.stop))
        parts = (asked[low], documents[low], asked[high], documents[facing])
        low_queries, low_passages, high_queries, faced = map(_exact, parts, room)
        high_passages = faced[odd : odd + len(high_queries)]
        for rows, a, b in ((low, low_queries, low_passages), (high, high_queries, high_passages)):
            lengths[rows], norms[rows], own[rows] = dot(a, a), dot(b, b), dot(a, b)
        other[low] = dot(low_queries, faced[: len(low_queries)])
        other[high] = dot(high_queries, low_passages[: len(high_queries)])
    for squares, name in ((lengths, query), (norms, passage)):
        sound = np.isfinite(squares) & (squares > 0)
        if not sound.all():
            raise _bad(table, int(np.argmin(sound)), name, "has NaN, infinity or only zeros")
    np.sqrt(lengths, out=lengths)
    np.sqrt(norms, out=norms)
    own /= lengths * norms
    other /= lengths * np.roll(norms, -half)
    return np.clip(own, -1.0, 1.0), np.clip(other, -1.0, 1.0)


def _exact(rows: NDArray[np.floating], room: NDArray[np.float64]) -> NDArray[np.float64]:
    exact = room[: len(rows)]
    np.copyto(exact, rows)
    return exact


def _bad(table: pa.Table, row: int, name: str, what: str) -> InputError:
    ident = f" ({table['id'][row].as_py()})" if "id" in table.column_names else ""
    place = f"pairs: row {row + 1}"
    if "source_row" in table.column_names:  # a shard starts anywhere in the data
        place = f"{table['source'][row].as_py()}: row {table['source_row'][row].as_py() + 1}"
    return InputError(f"{place}{ident}: field {name}: {what}.", "Fix the vectors, or leave the row out.")
