"""Embeddings from vLLM's own servers (`--runner pooling`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from synth.embed._served import ServedEmbedOptions, ServedEncoder
from synth.servers.http import VllmServers
from synth.stage import ClientSettings

__all__ = ["VllmServerEmbedder"]

_PER_SERVER = 8


class VllmServerEmbedder(VllmServers, ServedEmbedOptions):
    """One or more vLLM servers of the same embedding model."""

    tuning: ClassVar[frozenset[str]] = VllmServers.tuning | {"batch_size"}

    def open(self, client: ClientSettings, instruction: str) -> ServedEncoder:
        return ServedEncoder(self, instruction, self.fleet("/embeddings", client, per_server=_PER_SERVER))

    def shortened(self, text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
        return (text, {"truncate_prompt_tokens": -1}) if attempt == 0 else None
