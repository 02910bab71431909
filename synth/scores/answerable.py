"""Whether a query asks for what its passage holds, or for something that any passage might answer."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable

import pyarrow as pa

from synth.hashing import terms
from synth.languages import code_of
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["Answerable"]

_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[!-/:-@\[-`{-~]+")
"""Where a token falls into words: `getUserName`, `run_target`, `covid-19`."""
_STEM = 6
"""Words that begin with so many equal characters count as one: `infected` and `infection`."""


class Answerable(Scorer):
    """The share of a query's rare words that its passage holds: 0 for a query that any passage might answer.

    Words are weighted by how few passages and queries of the shard have them (squared logarithm), so what and where
    count little, and so does the topic of the whole corpus. Only the passage's text is looked at: a word of its
    title alone does not count. Words match by their first six characters, parts of identifiers count as words, and
    scripts without spaces are compared by characters and pairs of them. Null where query and passage are known to be in
    different languages, or a query has no word.

    It asks no model and knows words, not meaning: a good paraphrase scores low. Below 0.2 lie nine of ten generic
    queries, and of people's queries with their passages 2 % (XQuAD) to 45 % (Cranfield), see docs/contract.md. Where a
    language model shall decide, use the score `judge`: `judge_answerability`.
    """

    outputs = (ScoreColumn("answerable", pa.float64(), low=0.0, high=1.0, missing="keep"),)

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Compare each query with its passage; the weights are of the shard, with its passages that became no pair."""
        queries, passages = batch.texts("query"), batch.texts("passage")
        asked = {text: _words(text) for text in dict.fromkeys(queries)}
        held = {text: _words(text) for text in batch.documents}
        common = [(_counts(side.values()), len(side) + 2) for side in (asked, held)]

        def weight(word: str) -> float:
            """None of the words has a share of 0 or 1, so that a shard of a few pairs has weights too."""
            return math.log(max((found[word] + 1) / of for found, of in common)) ** 2

        weights = {word: weight(word) for words in asked.values() for word in words}
        languages = zip(*map(batch.values, ("query_language", "passage_language")), strict=True)
        foreign = [len({code_of(query), code_of(passage)} - {None}) > 1 for query, passage in languages]
        return self.table(
            [
                None if unlike or not asked[query] else _share(asked[query], held[passage], weights)
                for query, passage, unlike in zip(queries, passages, foreign, strict=True)
            ]
        )


def _words(text: str) -> frozenset[str]:
    return frozenset(term[:_STEM] for term in terms(_JOINT.sub(" ", text)))


def _counts(texts: Iterable[Collection[str]]) -> Counter[str]:
    return Counter(word for words in texts for word in words)


def _share(asked: Collection[str], held: Collection[str], weights: dict[str, float]) -> float:
    return sum(weights[w] for w in sorted(asked) if w in held) / sum(weights[w] for w in sorted(asked))
