"""Whether the nearer text of a triple is the nearer one in the embedding space too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from synth.batching import embedded
from synth.errors import JobError
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["TripleOrder"]


class TripleOrder(Scorer):
    """Cosine of passage and query less the cosine of passage and further text; null for a pair without one.

    At 0 or below the order of the triple is wrong. All three are embedded as documents, without the instruction, so
    that an embedder with a prompt for queries treats them alike.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    outputs = (ScoreColumn("triple_order", pa.float64(), low=-2.0, high=2.0, missing="keep"),)
    stem: ClassVar[str | None] = "triple_order"

    far: str = "far"
    """The column with the further text."""

    @property
    def reads(self) -> tuple[str, ...] | None:
        return "passage", "query", self.far

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Embed each distinct text of the triples once. Raises JobError without an encoder."""
        if services.encoder is None:
            raise JobError("scores: triple_order: needs an encoder.", "Add `embed:` to the job.")
        columns = batch.texts("passage"), batch.texts("query"), batch.values(self.far)
        triples = {n: row for n, row in enumerate(zip(*columns, strict=True)) if row[2]}
        found: list[float | None] = [None] * batch.pairs.num_rows
        if not triples:
            return self.table(found)
        distinct = tuple(dict.fromkeys(text for row in triples.values() for text in row))
        encoded, without = await embedded(services.encoder, distinct, "document")
        vectors = np.asarray(encoded.vectors, np.float64)
        vectors = vectors / np.where(without, 1.0, np.linalg.norm(vectors, axis=1))[:, None]
        place = {text: n for n, text in enumerate(distinct)}
        for n, row in triples.items():
            text, near, far = (place[each] for each in row)
            if not without[[text, near, far]].any():
                found[n] = float(vectors[text] @ vectors[near] - vectors[text] @ vectors[far])
        return self.table(found)
