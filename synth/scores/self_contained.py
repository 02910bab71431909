"""Whether a query makes sense to someone who has not seen the passage."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from synth.scores._batch import PairBatch
from synth.scores._pointing import pointing
from synth.scores._scorer import ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["SelfContained"]


class SelfContained(Scorer):
    """False where a query points at a text that only its writer sees: "the passage", "this article", "上文", "im Text".

    Expressions of some thirty languages are known, whatever language the query is in. A text as the subject ("this
    article of the constitution", "center text in a table") is no pointer. Other languages count as self-contained.
    """

    stem: ClassVar[str | None] = "self_contained"
    outputs = (ScoreColumn("self_contained", pa.bool_(), missing="keep"),)

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Look for such expressions in each query, casefolded and with single spaces."""
        found = pointing()
        return self.table([found.search(" ".join(query.split()).casefold()) is None for query in batch.texts("query")])
