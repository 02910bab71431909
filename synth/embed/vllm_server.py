"""Embeddings from vLLM's own servers (`--runner pooling`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from synth.embed._served import PATH, EmbedOptions, Pace, ServedEncoder, body
from synth.servers.faults import expand_urls
from synth.servers.fleet import Fleet, Work
from synth.servers.http import Access, HttpTransport
from synth.servers.pace import Clock, SystemClock
from synth.stage import ClientSettings

__all__ = ["VllmServerEmbedder"]

_PER_SERVER = 8


class VllmServerEmbedder(EmbedOptions, Access):
    """One or more vLLM servers of the same embedding model."""

    tuning: ClassVar[frozenset[str]] = Access.tuning | {"base_urls", "batch_size"}

    base_urls: list[str]
    """Where they are; `http://host:8100-8103/v1` is four servers, a URL without a path gets `/v1`."""
    revision: str | None = None
    """The checkpoint's revision, for the record: servers do not tell theirs."""
    batch_size: int = Field(default=64, gt=0)
    """Texts in one request."""

    @field_validator("base_urls")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        expand_urls(value)
        return value

    def open(self, client: ClientSettings, instruction: str, clock: Clock | None = None) -> ServedEncoder:
        """An Encoder over these servers. Raises JobError when the key or CA file is missing."""
        clock = clock or SystemClock()
        urls = expand_urls(self.base_urls)
        slots = client.concurrency or _PER_SERVER * len(urls)
        transport = HttpTransport(self, client.request_timeout, slots + len(urls), clock)
        work = Work(self.model, PATH, body(self.model, ["yes"]), compare=True)
        fleet = Fleet(urls, transport, work, client, clock)
        return ServedEncoder(self, instruction, fleet, Pace(self.batch_size, slots), _by_server)


def _by_server(text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
    return (text, {"truncate_prompt_tokens": -1}) if attempt == 0 else None
