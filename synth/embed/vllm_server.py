"""Embeddings from vLLM's own servers (`--runner pooling`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synth.embed._served import EmbedOptions, ServedEncoder, body
from synth.servers.fleet import Fleet, FleetOptions
from synth.servers.http import HttpTransport, VllmServers
from synth.servers.limiter import Clock, SystemClock
from synth.stage import ClientSettings

__all__ = ["VllmServerEmbedder"]

_PER_SERVER = 8


class VllmServerEmbedder(VllmServers, EmbedOptions):
    """One or more vLLM servers of the same embedding model."""

    tuning: ClassVar[frozenset[str]] = VllmServers.tuning | {"batch_size"}

    batch_size: int = Field(default=64, gt=0)
    """Texts in one request."""

    def open(self, client: ClientSettings, instruction: str, clock: Clock | None = None) -> ServedEncoder:
        """An Encoder over these servers. Raises JobError when the key or CA file is missing."""
        clock, urls = clock or SystemClock(), self.urls()
        slots = client.concurrency or _PER_SERVER * len(urls)
        transport = HttpTransport(self, "/embeddings", client.request_timeout, slots + len(urls), clock)
        options = FleetOptions(self.model, body(self.model, ["yes"]), check_models=True)
        fleet = Fleet(urls, transport, options, client, clock)
        return ServedEncoder(self, instruction, fleet, _by_server, batch_size=self.batch_size, slots=slots)


def _by_server(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    return (text, {"truncate_prompt_tokens": -1}) if attempt == 0 else None
