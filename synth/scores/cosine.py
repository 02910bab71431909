"""How near a query is to its passage in the embedding space of the job's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import model_validator

from synth.batching import encode_all
from synth.errors import JobError, ServerRefused
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.scores._vectors import cosines, dot
from synth.stage import Encoded, Encoder, Services

__all__ = ["Cosine"]

_BLOCK = 2**14
"""Numbers of a side multiplied at a time: in float64 they stay in the processor's cache, and are so few that malloc
does not ask the system for their memory each time."""


class Cosine(Scorer):
    """Cosine of query and passage vectors, and whether the encoder saw only a part of the passage.

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
            return self._of_precomputed(batch.pairs, self.query_vector, self.passage_vector)
        if services.encoder is None:
            raise JobError("scores: cosine: needs an encoder.", "Add `embed:` to the job.")
        queries, passages = batch.texts("query"), batch.texts("passage")
        if not queries:
            return self.table([], [], [])
        distinct = tuple(dict.fromkeys(queries))
        documents, no_document = await _encode(services.encoder, batch.documents, "document")
        asked, no_query = await _encode(services.encoder, distinct, "query")
        if no_query.all() or no_document.all():
            nothing = [None] * len(queries)
            return self.table(nothing, nothing, nothing)
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
            _known(own, unasked | no_document[right]),
            _known(documents.truncated[right], no_document[right]),
            _known(shuffled, unasked | no_document[other] | (count == 1)),
        )

    def _of_precomputed(self, pairs: pa.Table, query: str, passage: str) -> pa.Table:
        own, shuffled = cosines(pairs, query, passage)
        texts = pairs["passage"].combine_chunks()
        half = len(texts) // 2
        other = pa.concat_arrays([texts[half:], texts[:half]])
        same = pc.equal(texts, other).to_numpy(zero_copy_only=False)
        return self.table(own, pa.nulls(len(own), pa.bool_()), pa.array(shuffled, mask=same))


def _known(values: NDArray[Any], unknown: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=unknown)


async def _encode(
    encoder: Encoder, texts: Sequence[str], role: Literal["query", "document"]
) -> tuple[Encoded, NDArray[np.bool_]]:
    """The vectors, and which texts the server refused to embed; their rows are unit vectors that mean nothing."""
    encoded, refused = await encode_all(encoder, texts, role)
    without = np.zeros(len(texts), np.bool_)
    without[list(refused)] = True
    if without.all():
        return encoded, without
    if refused:
        encoded.vectors[without] = encoded.vectors[~without][0]
    vectors = encoded.vectors
    if vectors.ndim != 2 or len(vectors) != len(texts) or len(encoded.truncated) != len(texts):  # noqa: PLR2004 - (n, width)
        raise ServerRefused(
            f"embed: {len(texts)} texts went in, an array of shape {vectors.shape} came back.",
            "Each text needs exactly one vector.",
        )
    unusable = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if len(unusable):
        text = texts[int(unusable[0])]
        raise ServerRefused(
            f"embed: the vector of {len(unusable)} of {len(texts)} texts ({role}) has NaN, infinity or only zeros; "
            f"the first is {text[:60]!r}.",
            "Check the model's dtype on the server; such vectors have no cosine.",
        )
    return encoded, without


def _rows(texts: Sequence[str], distinct: Sequence[str]) -> NDArray[np.intp]:
    row = {text: n for n, text in enumerate(distinct)}
    return np.fromiter((row[text] for text in texts), np.intp, len(texts))


def _cosines(
    asked: Encoded, documents: Encoded, left: NDArray[np.intp], *rights: NDArray[np.intp]
) -> list[NDArray[np.float64]]:
    found = [np.empty(len(left)) for _ in rights]
    rows = max(1, _BLOCK // asked.vectors.shape[1])
    for start in range(0, len(left), rows):
        block = slice(start, start + rows)
        a = asked.vectors[left[block]].astype(np.float64)
        lengths = dot(a, a)
        for into, right in zip(found, rights, strict=True):
            b = documents.vectors[right[block]].astype(np.float64)
            into[block] = dot(a, b) / np.sqrt(lengths * dot(b, b))
    return [np.clip(each, -1.0, 1.0) for each in found]
