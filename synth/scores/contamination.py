"""Whether a query, or a passage, has been seen in files that training data must not contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field

from synth.hashing import shingles, tokens, windows
from synth.names import path_of
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.sources import InputFile
from synth.sources.queries import described, rows
from synth.stage import Services

__all__ = ["Contamination"]

_SHINGLE = 3
_KEY = "scores: contamination"


class Holdout:
    """(`file:row`, text) rows, found again by n-grams of `ngram` tokens and by Jaccard over triples of tokens."""

    def __init__(self, rows: Iterable[tuple[str, str]], ngram: int, threshold: float) -> None:
        self._ngram = ngram
        self._threshold = threshold
        self._places: list[str] = []
        self._sizes: list[int] = []
        self._grams: dict[int, list[int]] = {}
        self._shingles: dict[int, list[int]] = {}
        for place, text in rows:
            number = len(self._places)
            self._places.append(place)
            if len(tokens(text)) >= ngram:
                for gram in set(windows(text, ngram).tolist()):
                    self._grams.setdefault(gram, []).append(number)
            triples = shingles(text, _SHINGLE)
            self._sizes.append(triples.size)
            for triple in triples.tolist():
                self._shingles.setdefault(triple, []).append(number)

    def overlap(self, text: str) -> tuple[bool, float, str | None]:
        """Whether a text overlaps with a row, how much, and with which: `file:row`.

        It does where they have an n-gram in common or are as near as the threshold. How much is the share of its
        n-grams that are theirs, or its similarity to the nearest of them, whichever is more.
        """
        grams = windows(text, self._ngram).tolist() if len(tokens(text)) >= self._ngram else []
        found = [gram for gram in grams if gram in self._grams]
        share = len(found) / len(grams) if grams else 0.0
        hits = Counter(number for gram in found for number in self._grams[gram])
        own = shingles(text, _SHINGLE)
        shared = Counter(number for triple in own.tolist() for number in self._shingles.get(triple, ()))
        similarity, nearest = 0.0, None
        for number, count in sorted(shared.items()):
            jaccard = count / (own.size + self._sizes[number] - count)
            if jaccard > similarity:
                similarity, nearest = jaccard, number
        culprit = max(hits, key=lambda number: (hits[number], -number)) if hits else nearest
        if similarity > share:
            culprit = nearest
        hit = bool(found) or similarity >= self._threshold
        place = self._places[culprit] if culprit is not None and hit else None
        return hit, max(share, similarity), place


class Contamination(Scorer):
    """Overlap with files that you name: the queries of benchmarks, your own test sets.

    A text is `contaminated` when it shares a run of `ngram` words with a row of them, or nearly equals one (Jaccard
    over word triples of at least `jaccard`, which also finds rows that are shorter than `ngram`); where a script has no
    spaces between words, characters count. `contamination` is the share of its runs that are found or the similarity
    to the nearest row, whichever is more; `contaminated_by` says where, as `file:row`.
    """

    outputs = (
        ScoreColumn("contaminated", pa.bool_(), better="low"),
        ScoreColumn("contamination", pa.float64(), low=0.0, high=1.0, better="low"),
        ScoreColumn("contaminated_by", pa.string(), missing="keep", better=None),
    )

    files: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """JSON lines, Parquet, CSV or text (a row a line); relative paths start where those of the job do."""
    column: str | None = None
    """The column to compare with; null looks for the usual names of a query, then of a text, in each file."""
    of: Literal["query", "passage"] = "query"
    """What is compared; for both, name the scorer twice, one with `as`."""
    ngram: Annotated[int, Field(ge=2, le=64)] = 8
    """Words, or characters, of a run in common."""
    jaccard: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Similarity from which a text counts as nearly equal."""

    def at(self, base: Path) -> Self:
        return self.model_copy(update={"files": tuple(str(base / path_of(name)) for name in self.files)})

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"files": [file.sha256 for file in described(self.files, _KEY)]}

    def require(self) -> None:
        for file in described(self.files, _KEY):
            for _ in rows(file, self.column, _KEY):
                pass

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Raises InputError for a file that cannot be read to its end."""
        holdout = _holdout(tuple(described(self.files, _KEY)), self.column, self.ngram, self.jaccard)
        texts = batch.texts(self.of)
        found = {text: holdout.overlap(text) for text in dict.fromkeys(texts)}
        return self.table(*([found[text][n] for text in texts] for n in range(len(self.outputs))))


@lru_cache(maxsize=4)
def _holdout(files: tuple[InputFile, ...], column: str | None, ngram: int, jaccard: float) -> Holdout:
    return Holdout((row for file in files for row in rows(file, column, _KEY)), ngram, jaccard)
