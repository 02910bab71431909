"""How far a query's length lies from the range that was asked for."""

from __future__ import annotations

import pyarrow as pa

from synth.languages import code_of, detect
from synth.measures import outside_range, text_length
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["Length"]


class Length(Scorer):
    """The query's length in the unit it was asked in, and its distance from the range relative to the nearest bound."""

    outputs = (
        ScoreColumn("length", pa.int64(), better=None),
        ScoreColumn("length_error", pa.float64(), low=0.0, missing="keep", better="low"),
    )

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Measure each query; rows without a unit are counted in words, those without a range have no error."""
        queries = batch.texts("query")
        codes, units = batch.values("query_language"), batch.values("length_unit")
        lows, highs = batch.values("length_min"), batch.values("length_max")
        got = [
            # in an unknown language, words are what stands between spaces, as in English
            text_length(query, code_of(code) or code_of(detect(query).code) or "en", unit or "words")
            for query, code, unit in zip(queries, codes, units, strict=True)
        ]
        return self.table(got, [outside_range(*row) for row in zip(got, lows, highs, strict=True)])
