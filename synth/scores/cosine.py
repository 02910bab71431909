"""How near a query is to its passage in the embedding space of the job's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import model_validator

from synth.batching import embedded
from synth.errors import InputError, JobError, ServerRefused
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Encoded, Services

__all__ = ["Cosine"]

_NUMBERS = 2**14
"""Numbers of a side multiplied at a time: in float64 they stay in the processor's cache, and are so few that malloc
does not ask the system for their memory each time."""


class Cosine(Scorer):
    """Cosine of query and passage vectors, and whether the encoder saw only a part of the passage (null: unknown).

    `cosine_shuffled` is the same query's cosine with another passage of its shard, half the shard away: what a pair
    would score by chance, null where a shard has a single passage. A useful threshold
    separates the two.

    The vectors are float32 as the model gives them, the product and its norms float64: a stored score then does not
    depend on the order of summation, and compares with a threshold such as 0.7 as it is written.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    outputs = (
        ScoreColumn("cosine", pa.float64(), low=-1.0, high=1.0),
        ScoreColumn("passage_truncated", pa.bool_(), better=None),
        ScoreColumn("cosine_shuffled", pa.float64(), low=-1.0, high=1.0, better=None),
    )

    query_vector: str | None = None
    """Column of precomputed query vectors; then no text is embedded."""
    passage_vector: str | None = None
    """Column of precomputed passage vectors."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.query_vector is None) != (self.passage_vector is None):
            raise ValueError("query_vector and passage_vector go together")
        return self

    @property
    def brings(self) -> frozenset[str]:
        return frozenset() if self.query_vector is None else frozenset({"encoder"})

    @property
    def reads(self) -> tuple[str, ...] | None:
        if self.query_vector is None or self.passage_vector is None:
            return None
        return "passage", self.query_vector, self.passage_vector

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Embed each distinct text once, queries and documents in separate calls.

        Raises JobError without an encoder, ServerRefused when it returns vectors that no cosine can be taken of,
        InputError for vectors of the data of which none can be.
        """
        if self.query_vector is not None and self.passage_vector is not None:
            own, shuffled = cosines(batch.pairs, self.query_vector, self.passage_vector)
            texts = batch.pairs["passage"].combine_chunks()
            half = len(texts) // 2
            same = pc.equal(texts, pa.concat_arrays([texts[half:], texts[:half]])).to_numpy(zero_copy_only=False)
            return self.table(own, pa.nulls(len(own), pa.bool_()), pa.array(shuffled, mask=same))
        if services.encoder is None:
            raise JobError("scores: cosine: needs an encoder.", "Add `embed:` to the job.")
        queries, passages = batch.texts("query"), batch.texts("passage")
        if not queries:
            return self.table([], [], [])
        distinct = tuple(dict.fromkeys(queries))
        documents, no_document = await embedded(services.encoder, batch.documents, "document")
        asked, no_query = await embedded(services.encoder, distinct, "query")
        if no_query.all() or no_document.all():
            nothing = [None] * len(queries)
            return self.table(nothing, nothing, nothing)
        for found, without in ((documents, no_document), (asked, no_query)):
            found.vectors[without] = found.vectors[~without][0]  # any vector: its cosines become null
        if asked.vectors.shape[1] != documents.vectors.shape[1]:
            raise ServerRefused(
                f"embed: query vectors have {asked.vectors.shape[1]} dimensions, "
                f"passage vectors {documents.vectors.shape[1]}.",
                "Does one model serve all of `embed.base_urls`?",
            )
        left, right = _rows(queries, distinct), _rows(passages, batch.documents)
        count = len(batch.documents)
        other = (right + count // 2) % count
        unasked = no_query[left]
        own, shuffled = _cosines(asked, documents, left, right, other)
        return self.table(
            pa.array(own, mask=unasked | no_document[right]),
            pa.array(documents.truncated[right], mask=(no_document | (documents.silent & ~documents.truncated))[right]),
            pa.array(shuffled, mask=unasked | no_document[other] | (count == 1)),
        )


def _rows(texts: Sequence[str], distinct: Sequence[str]) -> NDArray[np.intp]:
    row = {text: n for n, text in enumerate(distinct)}
    return np.fromiter((row[text] for text in texts), np.intp, len(texts))


def _cosines(
    asked: Encoded, documents: Encoded, left: NDArray[np.intp], *rights: NDArray[np.intp]
) -> list[NDArray[np.float64]]:
    found = [np.empty(len(left)) for _ in rights]
    rows = max(1, _NUMBERS // asked.vectors.shape[1])
    for start in range(0, len(left), rows):
        block = slice(start, start + rows)
        a = asked.vectors[left[block]].astype(np.float64)
        lengths = dot(a, a)
        for into, right in zip(found, rights, strict=True):
            b = documents.vectors[right[block]].astype(np.float64)
            into[block] = dot(a, b) / np.sqrt(lengths * dot(b, b))
    return [np.clip(each, -1.0, 1.0) for each in found]


def dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products row by row: (n, width) and (n, width) to (n,)."""
    return np.asarray(np.einsum("ij,ij->i", left, right))


_ROWS = 32
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
    room = [np.empty((_ROWS + 1, asked.shape[1])) for _ in range(4)]  # one for all blocks: new ones cost page faults
    for start in range(0, lower, _ROWS):
        # Query n meets passage n + half, query n + lower meets passage n: blocks of both halves, each converted once.
        low = slice(start, min(start + _ROWS, lower))
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
