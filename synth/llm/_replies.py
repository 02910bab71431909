"""A chat completion as JSON → ChatReply; judging its text is the business of `synth.replies`."""

from __future__ import annotations

from typing import Any

from synth.servers.faults import Setback
from synth.stage import ChatReply


def read_reply(answer: Any) -> ChatReply:
    """The first choice of a completion, text None where there is none; raises Setback for what is no completion."""
    if not isinstance(answer, dict) or "choices" not in answer:
        raise Setback("HTTP 200 with something that is not a chat completion")
    choices = answer["choices"] or [{}]
    choice = choices[0] if isinstance(choices, list) else None
    message = (choice.get("message") or {}) if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Setback("HTTP 200 with a damaged chat completion")
    text = message.get("content")
    if not (text is None or isinstance(text, str)):
        raise Setback("HTTP 200 with a message whose content is not text")
    if text is None and message.get("refusal"):
        text = str(message["refusal"])
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return ChatReply(
        text=text,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(answer.get("model") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
