"""Embeddings from any OpenAI-compatible provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synth.embed._served import EmbedOptions, ServedEncoder, body
from synth.servers.sdk import Provider
from synth.stage import ClientSettings

__all__ = ["OpenAIEmbedder"]

_SLOTS = 8


class OpenAIEmbedder(Provider, EmbedOptions):
    """An OpenAI-compatible provider, reached through the openai package.

    A text that the provider calls too long is cut by a quarter until it fits. Some local servers cut silently instead;
    nothing can be recorded there.
    """

    tuning: ClassVar[frozenset[str]] = Provider.tuning | {"batch_size"}

    batch_size: int = Field(default=64, gt=0)
    """Texts in one request."""

    def open(self, client: ClientSettings, instruction: str) -> ServedEncoder:
        fleet = self.fleet("embeddings", body(self.model, ["yes"]), client, slots=_SLOTS)
        return ServedEncoder(self, instruction, fleet, _by_quarters, self.batch_size)


def _by_quarters(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    keep = int(len(text) * 0.75 ** (attempt + 1))
    return (text[:keep], {}) if keep else None
