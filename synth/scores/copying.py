"""How much of a query is copied from its passage."""

from __future__ import annotations

import pyarrow as pa

from synth.languages.words import fold
from synth.measures import longest_shared_run
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["Copying"]


class Copying(Scorer):
    """The longest run of characters that query and passage share, as a share of the query; null for keywords.

    Good queries reach about 0.6, a sentence taken over reaches 1. Keywords are meant to be the passage's own terms.
    """

    outputs = (ScoreColumn("copied_share", pa.float64(), low=0.0, high=1.0, missing="keep", better="low"),)
    stem = "copied_share"

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Compare each query with its passage, both in NFC, casefolded and with single spaces."""
        folded: dict[str, str] = {}
        shares: list[float | None] = []
        for query, passage, kind in zip(
            batch.texts("query"), batch.texts("passage"), batch.values("question_type"), strict=True
        ):
            if passage not in folded:
                folded[passage] = fold(passage)
            text = fold(query)
            known = text and kind != "keywords"
            shares.append(longest_shared_run(text, folded[passage]) / len(text) if known else None)
        return self.table(shares)
