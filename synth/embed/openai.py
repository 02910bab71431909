"""Embeddings from any OpenAI-compatible provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synth.embed._served import EmbedOptions, ServedEncoder, body
from synth.servers.fleet import Fleet, FleetOptions
from synth.servers.limiter import Clock, SystemClock
from synth.servers.sdk import Provider, SdkTransport
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

    def open(self, client: ClientSettings, instruction: str, clock: Clock | None = None) -> ServedEncoder:
        """An Encoder over this provider. Raises JobError when the key or CA file is missing."""
        clock = clock or SystemClock()
        slots = client.concurrency or _SLOTS
        transport = SdkTransport(self, "embeddings", client.request_timeout, slots + 1, clock)
        options = FleetOptions(self.model, body(self.model, ["yes"]), check_models=False)
        fleet = Fleet(self.urls(), transport, options, client, clock)
        return ServedEncoder(self, instruction, fleet, _by_quarters, batch_size=self.batch_size, slots=slots)


def _by_quarters(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    keep = int(len(text) * 0.75 ** (attempt + 1))
    return (text[:keep], {}) if keep else None
