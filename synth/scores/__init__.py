"""Scorers: one file each, one class each, named in a job by `scores: [{use: cosine}, ...]`.

To write your own, subclass `Scorer`, list its `outputs`, write `score`, and name it `use: "package.module:Class"`:

    class QueryWords(Scorer):
        '''Number of words in the query.'''

        outputs = (ScoreColumn("query_words", pa.int64(), better=None),)

        async def score(self, batch: PairBatch, services: Services) -> pa.Table:
            return self.table([len(query.split()) for query in batch.texts("query")])
"""

from synth.batching import AnswerCache
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer

__all__ = ["AnswerCache", "PairBatch", "ScoreColumn", "Scorer"]
