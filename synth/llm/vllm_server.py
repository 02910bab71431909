"""Chat with vLLM's own servers: the lean adapter, for full speed on many GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from synth.llm._served import ServedChat, ServedLlm
from synth.servers.http import VllmServers
from synth.stage import ClientSettings

__all__ = ["VllmServer"]

_PER_SERVER = 1024
"""The most requests for one server at once; the best number below it is found while working."""


class VllmServer(VllmServers, ServedLlm):
    """One or more vLLM servers of the same model."""

    model: str
    """The name under which the servers serve it."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = 20
    """0 or -1 for no limit."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    thinking: bool = False
    """Let the model think first; then also set its own sampling values (Qwen3: 0.6, 0.95, 20, 0)."""

    def open(self, client: ClientSettings) -> ServedChat:
        fleet = self.fleet("/chat/completions", client, per_server=_PER_SERVER, adaptive=True)
        return ServedChat(self, fleet)

    def frame(self, messages: Sequence[tuple[str, str]], seed: int, max_tokens: int) -> dict[str, Any]:
        """The request without a schema; all sampling values are sent, because vLLM fills gaps from the model's own."""
        return {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "seed": seed,
            "max_completion_tokens": max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "chat_template_kwargs": {"enable_thinking": self.thinking},
        }
