"""Whether a query is in the language that it was asked in."""

from __future__ import annotations

import pyarrow as pa

from synth.languages import detect
from synth.measures import language_matches
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["LanguageCheck"]


class LanguageCheck(Scorer):
    """The query's language as detected, and whether it is the one asked for.

    `language_ok` is null where it is undecidable: no language asked, a few letters, names only, close relatives.
    """

    outputs = (
        ScoreColumn("detected_language", pa.string(), better=None),
        ScoreColumn("language_ok", pa.bool_(), missing="keep"),
    )
    stem = "language"

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Detect each query's language and compare it with `query_language`."""
        queries = batch.texts("query")
        codes = batch.values("query_language")
        found = [
            (detect(query).code, language_matches(query, code)) for query, code in zip(queries, codes, strict=True)
        ]
        return self.table([got for got, _ in found], [ok for _, ok in found])
