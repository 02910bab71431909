"""What a job says about one corpus, and the limits that hold while it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from synth.stage import Stage

HUB = "hf://"
WILDCARDS = frozenset("*?[")
_SUFFIXES = re.compile(r"(\.(parquet|jsonl|ndjson|json|csv|tsv|txt|md))?(\.(gz|zst))?$", re.IGNORECASE)


class LanguageColumn(BaseModel):
    """`{column: en}`: a column's name where it could be taken for a language."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    column: str = Field(min_length=1)


class Corpus(Stage):
    """One pile of passages: a file, a pattern, a folder of .txt and .md files, or a data set on the hub."""

    name: str | None = Field(default=None, min_length=1)
    """What the column `source` says; by default the stem of the path, without its wildcards."""
    path: str = Field(pattern=r"^[^\x00]+$")
    """`data/a.parquet`, `data/*.jsonl.gz`, `notes/`, or `hf://owner/name[@revision][#[config/]split]` (split `train`).

    Parquet, JSON lines (.jsonl, .ndjson, .json) and CSV or TSV with a header line; the last three also as .gz or .zst.
    A folder is searched to the bottom, links to other folders are not followed, hidden files are left out.
    """
    id: str | None = "auto"
    """Column of your own id (text or whole number); `auto` looks for the usual names.

    Where there is none, or it is null, the id is `<path below the corpus folder>:<row>`, rows counted from 0.
    """
    text: str = "auto"
    """Column of the passage; `doc.body` reaches into a struct; `auto` looks for the usual names."""
    title: str | None = None
    """Column of a title that the prompt shows above the passage."""
    language: str | LanguageColumn = "auto"
    """`auto` detects it; a language of the table holds for every row; anything else is a column of languages."""
    carry: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further columns to keep with every passage and pair."""
    on_long: Literal["reject", "truncate", "chunk"] = "chunk"
    """What becomes of a passage of more than `max_chars` characters."""
    min_chars: int = Field(default=20, ge=0)
    """Fewer characters than this, without the white space around them, and the row is rejected."""
    max_chars: int = Field(default=8000, ge=16)
    """The most characters (code points) of one passage."""
    duplicates: Literal["first", "keep"] = "first"
    """Of passages equal but for case, white space and Unicode form, keep the first of the whole job, or all."""
    control_tokens: Literal["neutralise", "reject", "keep"] = "neutralise"
    """What becomes of chat control tokens such as `<|im_end|>`: broken up in the prompt only, rejected, or kept."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) is greater than max_chars ({self.max_chars})")
        return self

    @property
    def source(self) -> str:
        """The value of the column `source`."""
        if self.name is not None:
            return self.name
        if self.on_hub:
            return PurePosixPath(self.path.removeprefix(HUB).partition("#")[0].partition("@")[0]).name or "corpus"
        parts = [part for part in PurePosixPath(self.path).parts if not WILDCARDS & set(part)]
        return _SUFFIXES.sub("", parts[-1]).strip("./") or "corpus" if parts else "corpus"

    @property
    def on_hub(self) -> bool:
        """Whether the path names a data set on the Hugging Face hub."""
        return self.path.startswith(HUB)


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """The job's `limits` as far as reading goes; sizes in bytes."""

    max_line_bytes: int = 64_000_000
    """The longest line, CSV field, text file or Parquet cell; beyond it reading stops with InputError."""
    max_batch_bytes: int = 256_000_000
    """The most that one batch of Parquet rows may unpack to."""
    strict: bool = False
    """Stop with InputError at the first rejected row."""


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
