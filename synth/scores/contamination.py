"""Whether a query, or a passage, has been seen in files that training data must not contain."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field

from synth.scores._batch import PairBatch
from synth.scores._overlap import Protected
from synth.scores._protected import described, rows
from synth.scores._scorer import ScoreColumn, Scorer
from synth.sources import InputFile
from synth.stage import Services

__all__ = ["Contamination"]


class Contamination(Scorer):
    """Overlap with files that you name: the queries of benchmarks, your own test sets.

    A text is `contaminated` when it shares a run of `ngram` words with a row of them, or nearly equals one (Jaccard
    over word triples of at least `jaccard`, which also finds rows that are shorter than `ngram`); where a script has no
    spaces between words, characters count. `contamination` is the share of its runs that are found or the similarity
    to the nearest row, whichever is more; `contaminated_by` says where, as `file:row`.
    """

    outputs = (
        ScoreColumn("contaminated", pa.bool_()),
        ScoreColumn("contamination", pa.float64(), low=0.0, high=1.0),
        ScoreColumn("contaminated_by", pa.string(), missing="keep"),
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
        """With its files where the job has them."""
        return self.model_copy(update={"files": tuple(str(base / Path(name).expanduser()) for name in self.files)})

    def identity(self) -> dict[str, Any]:
        """The options, with what the files hold in place of where they lie. Raises JobError, InputError."""
        return super().identity() | {"files": [file.sha256 for file in described(self.files)]}

    def require(self) -> None:
        """Read its files to their ends. Raises JobError, InputError, SystemFault."""
        for file in described(self.files):
            for _ in rows(file, self.column):
                pass

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        """Look each text up. Raises InputError for a file that cannot be read to its end."""
        protected = _protected(tuple(described(self.files)), self.column, self.ngram, self.jaccard)
        texts = batch.texts(self.of)
        found = {text: protected.overlap(text) for text in dict.fromkeys(texts)}
        overlaps = [found[text] for text in texts]
        return self.table([o.hit for o in overlaps], [o.share for o in overlaps], [o.by for o in overlaps])


@lru_cache(maxsize=4)
def _protected(files: tuple[InputFile, ...], column: str | None, ngram: int, jaccard: float) -> Protected:
    return Protected((row for file in files for row in rows(file, column)), ngram, jaccard)
