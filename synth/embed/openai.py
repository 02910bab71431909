"""Embeddings from any OpenAI-shaped provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from synth.embed._served import PATH, EmbedOptions, Pace, ServedEncoder, body
from synth.servers.fleet import Fleet, Work
from synth.servers.http import Provider
from synth.servers.pace import Clock, SystemClock
from synth.stage import ClientSettings

__all__ = ["OpenAIEmbedder"]

_SLOTS = 8


class OpenAIEmbedder(EmbedOptions, Provider):
    """An OpenAI-shaped provider, reached through the openai package.

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
        transport = self.transport(client.request_timeout, slots + 1, clock)
        work = Work(self.model, PATH, body(self.model, ["yes"]), compare=False)
        fleet = Fleet([self.url()], transport, work, client, clock)
        return ServedEncoder(self, instruction, fleet, Pace(self.batch_size, slots), _by_quarters)


def _by_quarters(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    keep = int(len(text) * 0.75 ** (attempt + 1))
    return (text[:keep], {}) if keep else None
