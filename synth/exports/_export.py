"""What every export is: options, the shape of rows that its trainer accepts, files, and a page on how to train."""

from __future__ import annotations

import json
import shlex
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field, field_validator

from synth.exports._rows import Counts, Facts, Ids, Shape, Source, documents
from synth.exports._writers import Files
from synth.stage import Stage

TEMPERATURE = 0.01
"""Of InfoNCE, as Qwen3-Embedding's training page sets it; sentence-transformers' `scale` is one over it."""
PART = 256_000_000
"""Bytes after which a new Parquet file begins."""
_LEAST_TOKENS = 64
_MOST_TOKENS = 8192
_BYTES_PER_TOKEN = 3
"""Fewer than any of today's tokenizers need on average: English has about four, Chinese and Arabic about three."""


class Export(Stage):
    """Base of all formats."""

    title: ClassVar[str]
    """The trainer's name."""
    hub: ClassVar[bool] = False
    """Whether `datasets.load_dataset(folder)` reads it, so that it can be pushed."""
    whole: ClassVar[str] = "train"
    """The split of all rows where none is held out."""
    any_number: ClassVar[bool] = False
    """Whether rows may have any number of negatives; else each needs one as soon as any row has one."""

    negatives: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Negatives of a row, the hardest ones; null: as many as were mined; 0: pairs alone."""
    on_short: Literal["drop", "fill"] = "drop"
    """A row with too few negatives for its trainer: drop it, or fill it with random passages of other pairs."""
    query_template: str = "Instruct: {instruction}\nQuery:{query}"
    """Text around a query for the trained model; the default is Qwen3-Embedding's, `{query}` for none."""

    @field_validator("query_template")
    @classmethod
    def _ends_with_query(cls, value: str) -> str:
        if not value.endswith("{query}") or value.count("{query}") != 1:
            raise ValueError("the template must end with {query}: trainers put a prompt before the query")
        return value

    def shape(self, found: Counts, mined: int | None) -> Shape:  # noqa: ARG002 - `mined` is for formats with a fixed number
        """How many negatives rows get, given how many pairs have and how many were mined for (None: not mined)."""
        if self.any_number or self.negatives == 0 or not (any(found.lengths) or self.on_short == "fill"):
            return Shape(0, self.negatives, self.on_short)
        return Shape(self.negatives or 1 if self.on_short == "fill" else 1, self.negatives, self.on_short)

    def prompt(self, instruction: str) -> str:
        """The text before a query."""
        return self.query_template.removesuffix("{query}").replace("{instruction}", instruction)

    @abstractmethod
    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Write the data files; rows come from `source.batches(facts.shape)`."""

    @abstractmethod
    def train(self, facts: Facts) -> str:
        """TRAIN.md: the command and the settings that fit these very files."""

    def card(self, facts: Facts) -> str | None:  # noqa: ARG002 - for those that have one
        """README.md with the Hub's front matter; None where the format has none."""
        return None

    def render(self, template: str, facts: Facts, values: Mapping[str, object] | None = None) -> str:
        """Fill in a template of `exports/templates` from the facts, the prompt and `values`."""
        held_out = next((split for split in facts.counts.rows if split != "train"), None)
        common = {
            "facts": facts,
            "folder": str(facts.folder),
            "prompt": self.prompt(facts.instruction),
            "held_out": held_out,
            "temperature": f"{TEMPERATURE:g}",
            "scale": f"{1 / TEMPERATURE:g}",
        }
        return _environment().get_template(template).render(common | dict(values or {}))


class Benchmark(Export):
    """Base of formats for evaluation: a corpus of all passages of the run, queries, and judgements of pairs."""

    whole: ClassVar[str] = "test"
    any_number: ClassVar[bool] = True

    def evaluated(self, facts: Facts) -> str:
        """The first split other than train."""
        return next(name for name in facts.counts.rows if name != "train")

    @abstractmethod
    def passage(self, files: Files, name: str, title: str, text: str) -> None:
        """Write a passage of the corpus."""

    @abstractmethod
    def query(self, files: Files, name: str, text: str) -> None:
        """Write a query."""

    @abstractmethod
    def judgement(self, files: Files, split: str, query: str, passage: str, relevance: int) -> None:
        """Write that a passage answers a query."""

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then queries and judgements as they come; negatives only join the corpus."""
        passages, queries = Ids(), Ids()
        for document in documents(source, passages):
            self.passage(files, *document)

        def named(text: str, wanted: str | None) -> str:
            name, new = passages.add(text, wanted)
            if new:
                self.passage(files, name, "", text)
            return name

        for batch in source.batches(facts.shape):
            for row in batch.rows:
                query, new = queries.add(row.query, row.id)
                if new:
                    self.query(files, query, row.query)
                self.judgement(files, batch.split, query, named(row.passage, row.passage_id), row.relevance)
                for each in row.extra_positives:
                    self.judgement(files, batch.split, query, named(each.passage, each.passage_id), 1)
                for each in row.negatives:
                    named(each.passage, each.passage_id)


def tokens(size: int) -> int:
    """A round length limit that texts of so many bytes fit in, by a cautious guess of bytes per token."""
    need = max(_LEAST_TOKENS, -(-size // _BYTES_PER_TOKEN))
    return min(_MOST_TOKENS, 1 << (need - 1).bit_length())


def quoted(text: str) -> str:
    """One word of a shell's command line; a line break needs bash's $'…'."""
    if "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown and Python, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"quoted": quoted, "repr": repr, "json": json.dumps}
    return found
