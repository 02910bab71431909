"""The options of one corpus, of one entry of existing pairs, and the limits of reading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from synth.stage import Stage

HUB = "hf://"
WILDCARDS = frozenset("*?[")
INSTRUCTION = "Given a question, retrieve passages that answer it"
_SUFFIXES = re.compile(r"(\.(parquet|arrow|feather|jsonl|ndjson|json|csv|tsv|txt|md))?(\.(gz|zst))?$", re.IGNORECASE)
_STEPS = frozenset({"generated", "kept", "relabelled", "mined"})
_Path = Annotated[str, Field(pattern=r"^[^\x00]+$")]


class LanguageColumn(BaseModel):
    """`{column: en}`: a column, where its name could be mistaken for a language."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    column: str = Field(min_length=1)


class Corpus(Stage):
    """One set of passages: a file, a pattern, a folder, or a data set on the hub."""

    name: str | None = Field(default=None, min_length=1)
    """The value of the column `source`; by default the stem of the path, without its wildcards."""
    path: _Path
    """`data/a.parquet`, `data/*.jsonl.gz`, `notes/`, or `hf://owner/name[@revision][#[config/]split]` (split `train`).

    Parquet, Arrow, JSON lines (.jsonl, .ndjson, .json) and CSV or TSV with a header line; the last three also as .gz or
    .zst. A folder has .txt and .md files, or a layout that is recognised: a data set of the hub or of `save_to_disk`,
    BEIR, MTEB, a run or an export of synth. Files in it that are not read are named, except hidden ones; links to
    other folders are not followed.
    """
    id: str | None = "auto"
    """Column of your own id (text or whole number); `auto` looks for the usual names.

    Without one, or where it is null, the id is `<path below the corpus folder>:<row>`, rows counted from 0.
    """
    text: str = "auto"
    """Column of the passage; `doc.body` reaches into a struct; `auto` looks for the usual names."""
    title: str | None = None
    """Column of a title that the prompt shows above the passage."""
    language: str | LanguageColumn = "auto"
    """`auto` detects it; a known language applies to every row; anything else is a column of languages."""
    carry: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further columns to keep with every passage and pair."""
    on_long: Literal["reject", "truncate", "chunk"] = "chunk"
    """What to do with a passage of more than `max_chars` characters."""
    min_chars: int = Field(default=20, ge=0)
    """Rows with fewer characters than this, surrounding white space not counted, are rejected."""
    max_chars: int = Field(default=8000, ge=16)
    """Maximum number of characters (code points) of one passage."""
    duplicates: Literal["first", "keep"] = "first"
    """Of passages equal but for case, white space and Unicode form, keep the first of the whole job, or all."""
    control_tokens: Literal["neutralise", "reject", "keep"] = "neutralise"
    """What to do with chat control tokens such as `<|im_end|>`: break them up in the prompt only, reject, or keep."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) is greater than max_chars ({self.max_chars})")
        return self

    @property
    def source(self) -> str:
        return self.name or source_name(self.path)

    @property
    def on_hub(self) -> bool:
        return self.path.startswith(HUB)


def source_name(path: str) -> str:
    """The default source of a path: its last part without wildcards and suffixes."""
    if path.startswith(HUB):
        return PurePosixPath(path.removeprefix(HUB).partition("#")[0].partition("@")[0]).name or "corpus"
    parts = [part for part in PurePosixPath(path).parts if not WILDCARDS & set(part)]
    return _SUFFIXES.sub("", parts[-1]).strip("./") or "corpus" if parts else "corpus"


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class PairData(Stage):
    """Existing pairs: files, patterns, or a folder as for `corpus`, also the output folder of an earlier run.

    The layout is recognised: two columns, sentence-transformers' tuples (anchor, positive, negative_1 …),
    FlagEmbedding's query/pos/neg, ms-swift's messages, Tevatron, BEIR, MTEB. Each element of a list of positives
    becomes a pair; negatives are carried.
    """

    name: str | None = Field(default=None, min_length=1)
    """The value of the column `source`; by default the stem of the first path, without its wildcards."""
    path: Annotated[tuple[_Path, ...], BeforeValidator(_as_list), Field(strict=False, min_length=1)]
    """One path or several: Parquet, Arrow, JSON lines, CSV or TSV (also .gz or .zst), a pattern, or a folder."""
    query: str = "auto"
    """Column of the query; `doc.question` reaches into a struct; `auto` looks for the usual names."""
    passage: str = "auto"
    """Column of the passage, found in the same way."""
    query_language: str | LanguageColumn = "auto"
    """`auto` reads a column of this name, else detects; a language applies to every row; anything else is a column."""
    passage_language: str | LanguageColumn = "auto"
    """The same for the passage."""
    label: str | None = "auto"
    """Column of judgements (a number, true or false), which becomes `label`: 0 or less means not relevant.

    `auto` looks for one with a usual name, such as label or relevance, whose values can be judgements; null: none. Of
    BEIR it is the score.
    """
    instruction: str | None = None
    """One English sentence on the retrieval task, for query vectors and rerankers."""
    carry: Literal["all"] | Annotated[tuple[str, ...], Field(strict=False)] = "all"
    """Further columns to keep with every pair: all, or these."""

    @property
    def source(self) -> str:
        path = PurePosixPath(self.path[0])
        in_run = len(path.parts) > 1 and path.name in _STEPS
        return self.name or source_name(str(path.parent) if in_run else self.path[0])

    @property
    def on_hub(self) -> bool:
        """Whether a path names a data set on the Hugging Face hub, which only `corpus` reads."""
        return any(path.startswith(HUB) for path in self.path)


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """The part of the job's `limits` that concerns reading; sizes in bytes."""

    max_line_bytes: int = 64_000_000
    """The longest line, CSV field, text file or Parquet cell; reading stops with InputError at a longer one."""
    max_batch_bytes: int = 256_000_000
    """The most memory that one batch of Parquet rows may take."""
    strict: bool = False
    """Stop with InputError at the first rejected row."""
