"""What every embedder can be told, whatever runs it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from synth.stage import Stage

Role = Literal["query", "document"]
QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""As Qwen3-Embedding's model card has it: no space after `Query:`."""


class EmbedOptions(Stage):
    """The model and how texts are put to it."""

    model: str
    """The model's name."""
    query_template: str | None = None
    """Text around a query, with {instruction} and {query}; null: Qwen3-Embedding's own there, else {query}."""
    dimensions: int | None = Field(default=None, gt=0)
    """Keep this many leading dimensions of a Matryoshka model, cut here and scaled to unit length again."""
    truncate: Literal["record", "error"] = "record"
    """A text longer than the model reads: embed its beginning and record that, or reject it."""

    @field_validator("query_template")
    @classmethod
    def _has_query(cls, value: str | None) -> str | None:
        if value is not None and "{query}" not in value:
            raise ValueError("the template has no {query} in it")
        return value

    def wrapped(self, text: str, role: Role, instruction: str) -> str:
        """The text as the model gets it: queries in their template, filled in one pass, so braces in them stay."""
        if role == "document":
            return text
        template = self.query_template
        if template is None:
            template = QWEN3_TEMPLATE if "qwen3-embedding" in self.model.lower() else "{query}"
        values = {"{instruction}": instruction, "{query}": text}
        return re.sub(r"\{instruction\}|\{query\}", lambda found: values[found[0]], template)
