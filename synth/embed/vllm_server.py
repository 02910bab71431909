"""Embeddings from vLLM's own servers (`--runner pooling`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synth.embed._served import EmbedOptions, ServedEncoder, body
from synth.servers.http import VllmServers
from synth.stage import ClientSettings

__all__ = ["VllmServerEmbedder"]

_PER_SERVER = 8


class VllmServerEmbedder(VllmServers, EmbedOptions):
    """One or more vLLM servers of the same embedding model."""

    tuning: ClassVar[frozenset[str]] = VllmServers.tuning | {"batch_size"}

    batch_size: int = Field(default=64, gt=0)
    """Texts in one request."""

    def open(self, client: ClientSettings, instruction: str) -> ServedEncoder:
        fleet = self.fleet("/embeddings", body(self.model, ["yes"]), client, per_server=_PER_SERVER)
        return ServedEncoder(self, instruction, fleet, _by_server, self.batch_size)


def _by_server(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    return (text, {"truncate_prompt_tokens": -1}) if attempt == 0 else None
