"""Chat with any OpenAI-compatible provider: OpenAI, Azure, gateways, LM Studio, Ollama, llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from synth.llm._served import ServedChat, ServedLlm
from synth.servers.sdk import Provider
from synth.stage import ClientSettings, JsonSchema

__all__ = ["OpenAI"]

_SLOTS = 64


class OpenAI(Provider, ServedLlm):
    """An OpenAI-compatible provider, reached through the openai package."""

    model: str
    """The name by which the provider knows it."""
    temperature: float | None = Field(default=0.7, ge=0)
    """Null sends none, for models without sampling values; likewise for the next three."""
    top_p: float | None = Field(default=0.8, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls it; older ones know only `max_tokens`."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How replies are made to follow their schema; with the last two, only the prompt asks for it."""
    cures: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "max_tokens_field: max_tokens",
        "max_tokens": "max_tokens_field: max_completion_tokens",
        "response_format": "structured: json_object",
    }

    def open(self, client: ClientSettings) -> ServedChat:
        return ServedChat(self, self.fleet("chat", client, slots=_SLOTS))

    def frame(self, messages: Sequence[tuple[str, str]], seed: int, max_tokens: int) -> dict[str, Any]:
        """The request without a schema. The seed is folded to 31 bits: many servers read a C int."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
        return {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "seed": (seed ^ (seed >> 31)) & 0x7FFFFFFF,
            self.max_tokens_field: max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
        }

    def shape(self, schema: JsonSchema, name: str) -> dict[str, Any]:
        if self.structured == "json_schema":
            return super().shape(schema, name)
        return {"response_format": {"type": "json_object"}} if self.structured == "json_object" else {}
