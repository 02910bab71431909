"""Embeddings from any OpenAI-compatible provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from synth.embed._served import ServedEmbedOptions, ServedEncoder
from synth.servers.sdk import Provider, is_openai
from synth.stage import ClientSettings

__all__ = ["OpenAIEmbedder"]

_SLOTS = 8


class OpenAIEmbedder(Provider, ServedEmbedOptions):
    """An OpenAI-compatible provider, reached through the openai package.

    A text that the provider calls too long is cut by a quarter until it fits. Other servers than OpenAI's may cut
    silently instead: there `passage_truncated` is null for what was accepted.
    """

    tuning: ClassVar[frozenset[str]] = Provider.tuning | {"batch_size"}

    def open(self, client: ClientSettings, instruction: str) -> ServedEncoder:
        return ServedEncoder(self, instruction, self.fleet("embeddings", client, slots=_SLOTS))

    @property
    def silent(self) -> bool:
        return not is_openai(self.base_url)

    def shortened(self, text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
        keep = int(len(text) * 0.75 ** (attempt + 1))
        return (text[:keep], {}) if keep else None
