"""What every export is: options, the shape of rows that its trainer accepts, files, and a page on how to train."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from synth.exports._rows import Counts, Facts, Shape, Source
from synth.exports._writers import Files
from synth.stage import Stage

TEMPERATURE = 0.01
"""Of InfoNCE, as Qwen3-Embedding's training page sets it; sentence-transformers' `scale` is one over it."""
_LEAST_TOKENS = 64
_MOST_TOKENS = 8192
_BYTES_A_TOKEN = 3
"""Fewer than any of today's tokenizers need on average: English has about four, Chinese and Arabic about three."""


class Export(Stage):
    """Base of all formats."""

    title: ClassVar[str]
    """The trainer's name."""
    hub: ClassVar[bool] = False
    """Whether `datasets.load_dataset(folder)` reads it, so that it can be pushed."""
    whole: ClassVar[str] = "train"
    """The split of all rows where none is held out."""

    negatives: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Negatives of a row, the hardest ones; null: as many as were mined; 0: pairs alone."""
    on_short: Literal["drop", "fill"] = "drop"
    """A row with too few for its trainer: leave it out, or fill it with passages of other pairs at random."""
    query_template: str = "Instruct: {instruction}\nQuery:{query}"
    """Text around a query for the trained model; the default is Qwen3-Embedding's, `{query}` for none."""

    @field_validator("query_template")
    @classmethod
    def _ends_with_query(cls, value: str) -> str:
        if not value.endswith("{query}") or value.count("{query}") != 1:
            raise ValueError("the template must end with {query}: trainers put a prompt before the query")
        return value

    def shape(self, found: Counts, asked: int | None) -> Shape:  # noqa: ARG002 - `asked` is for formats with a fixed number
        """How many negatives rows get, given those that pairs have and how many were mined for (None: none were)."""
        if self.negatives == 0 or not (any(found.lengths) or self.on_short == "fill"):
            return Shape(0, self.negatives, self.on_short)
        return Shape(self.negatives or 1 if self.on_short == "fill" else 1, self.negatives, self.on_short)

    def prefix(self, instruction: str) -> str:
        """What stands before a query."""
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


def tokens(size: int) -> int:
    """A round length limit that texts of so many bytes fit in, by a cautious guess of bytes a token."""
    need = max(_LEAST_TOKENS, -(-size // _BYTES_A_TOKEN))
    return min(_MOST_TOKENS, 1 << (need - 1).bit_length())


def quoted(text: str) -> str:
    """One word of a shell's command line; a line break needs bash's $'…'."""
    if "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


def block(language: str, *lines: str) -> str:
    """A fenced block of Markdown."""
    return "\n".join([f"```{language}", *lines, "```"])


def page(facts: Facts, title: str, *parts: str) -> str:
    """A page whose first paragraph says what the files hold."""
    rows = ", ".join(f"{split} {count:,}" for split, count in facts.counts.rows.items())
    what = f"Rows: {rows}; made of {facts.counts.pairs:,} pairs of `{facts.view}` of {facts.title}."
    notes = [what]
    if facts.counts.too_few:
        notes.append(f"Left out for want of negatives: {facts.counts.too_few:,}.")
    if facts.counts.filled:
        notes.append(f"Filled with random passages: {facts.counts.filled:,}.")
    if facts.counts.held_out:
        notes.append(f"Negatives left out of train because another split shows them: {facts.counts.held_out:,}.")
    return "\n\n".join([f"# {title}", " ".join(notes), *parts]) + "\n"
