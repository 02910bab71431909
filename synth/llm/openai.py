"""Chat with any OpenAI-shaped provider: OpenAI, Azure, gateways, LM Studio, Ollama, llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from synth.llm._served import PATH, ServedChat, canary
from synth.servers.fleet import Fleet, Work
from synth.servers.http import Provider
from synth.servers.pace import Clock, SystemClock
from synth.stage import ClientSettings, JsonSchema

__all__ = ["OpenAI"]

_SLOTS = 64


class OpenAI(Provider):
    """An OpenAI-shaped provider, reached through the openai package."""

    tuning: ClassVar[frozenset[str]] = Provider.tuning

    model: str
    """The name by which the provider knows it."""
    temperature: float | None = Field(default=0.7, ge=0)
    """Null sends none, for models that take no sampling values; so for the next three."""
    top_p: float | None = Field(default=0.8, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int = Field(default=512, gt=0)
    """Room for one reply; a reply cut there is asked again once with twice as much."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls it; older ones know only `max_tokens`."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How replies are held to their form; with the last two, form is only asked for in the prompt."""
    repair: bool = True
    """Accept replies whose JSON needs a stated small repair."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request body; they win over ours."""

    def open(self, client: ClientSettings, clock: Clock | None = None) -> ServedChat:
        """A ChatModel over this provider. Raises JobError when the key or CA file is missing."""
        clock = clock or SystemClock()
        slots = client.concurrency or _SLOTS
        transport = self.transport(client.request_timeout, slots + 1, clock)
        work = Work(self.model, PATH, canary(self), compare=False, doubt=True)
        return ServedChat(self, Fleet([self.url()], transport, work, client, clock), slots, client.notify)

    def frame(self, messages: Sequence[tuple[str, str]], seed: int, max_tokens: int) -> dict[str, Any]:
        """The request body without a schema. The seed is folded to 31 bits: many servers read a C int."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
        return {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "seed": (seed ^ (seed >> 31)) & 0x7FFFFFFF,
            self.max_tokens_field: max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
            **self.extra_body,
        }

    def shape(self, schema: JsonSchema, name: str) -> dict[str, Any]:
        """The fields that hold a reply to a schema, as far as `structured` lets them."""
        if self.structured == "none":
            return {}
        if self.structured == "json_object":
            return {"response_format": {"type": "json_object"}}
        wanted = {"name": name, "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}
