"""What a job says about one set of existing pairs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from synth.sources import Corpus, LanguageColumn
from synth.sources.options import HUB
from synth.stage import Stage

INSTRUCTION = "Given a question, retrieve passages that answer it"
_Path = Annotated[str, Field(pattern=r"^[^\x00]+$")]
_SHARDS = frozenset({"generated", "kept", "mined"})


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


class PairData(Stage):
    """Pairs that exist already: files, patterns, a BEIR folder, or the output folder of an earlier run.

    The layout is recognised: two columns, sentence-transformers' tuples (anchor, positive, negative_1 …),
    FlagEmbedding's query/pos/neg, ms-swift's messages, BEIR. Of a list of positives each becomes a pair; negatives are
    carried.
    """

    name: str | None = Field(default=None, min_length=1)
    """What the column `source` says; by default the stem of the first path, without its wildcards."""
    path: Annotated[tuple[_Path, ...], BeforeValidator(_one_or_many), Field(strict=False, min_length=1)]
    """One path or several: Parquet, JSON lines, CSV, TSV (the last three also .gz or .zst), a pattern, or a folder."""
    query: str = "auto"
    """Column of the query; `doc.question` reaches into a struct; `auto` looks for the usual names."""
    passage: str = "auto"
    """Column of the passage, found in the same way."""
    query_language: str | LanguageColumn = "auto"
    """`auto` reads a column of this name, else detects; a language holds for every row; anything else is a column."""
    passage_language: str | LanguageColumn = "auto"
    """As `query_language`, of the passage."""
    label: str | None = None
    """Column that says which pairs are good (a number or true/false); it becomes `label`. BEIR's is its score."""
    instruction: str | None = None
    """One English sentence on the retrieval task, for query vectors and rerankers."""
    carry: Literal["all"] | Annotated[tuple[str, ...], Field(strict=False)] = "all"
    """Further columns to keep with every pair: all, or these."""

    @property
    def source(self) -> str:
        """The value of the column `source`."""
        if self.name is not None:
            return self.name
        parts = PurePosixPath(self.path[0]).parts
        shards = len(parts) > 1 and parts[-1] in _SHARDS
        return Corpus(path=str(PurePosixPath(*parts[:-1])) if shards else self.path[0]).source

    @property
    def on_hub(self) -> bool:
        """Whether a path names a data set on the Hugging Face hub, which only `corpus` reads."""
        return any(path.startswith(HUB) for path in self.path)
