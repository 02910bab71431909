"""A chat model behind an OpenAI-compatible `/chat/completions`, over either transport."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from synth.llm._tokens import local_tokenizer
from synth.servers.faults import TransientError, shown
from synth.servers.fleet import Fleet, Served
from synth.servers.http import ServerAuth
from synth.stage import ChatReply, ChatRequest, JsonSchema, LlmStage, ProbeResult, Tokenize


def read_reply(answer: Any) -> ChatReply:
    """The first choice of a completion, with text None when it is empty; text in parts is joined.

    Raises TransientError for anything else.
    """
    try:
        choice = (answer["choices"] or [{}])[0]
        message = choice.get("message") or {}
        text, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, AttributeError):
        raise TransientError("HTTP 200 with something that is not a chat completion") from None
    if isinstance(text, list | dict):
        text, refusal = _joined(text if isinstance(text, list) else [text], refusal)
    if not (text is None or isinstance(text, str)):
        raise TransientError("HTTP 200 with a message whose content is not text")
    if text is None and refusal:
        text = str(refusal)
    if not text and choice.get("error"):
        raise TransientError("HTTP 200 with an error in place of a message")
    usage = usage if isinstance(usage := answer.get("usage"), dict) else {}
    return ChatReply(
        text=text,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(answer.get("model") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _joined(parts: Sequence[Any], refusal: Any) -> tuple[str | None, Any]:
    """The text of a message in parts, without thoughts; and its refusal. Raises TransientError for unknown parts."""
    texts: list[str] = []
    for part in parts:
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else ("text", part)
        if kind in {"thinking", "reasoning", "redacted_thinking"}:
            continue
        if kind == "refusal":
            refusal = part.get("refusal")
        elif kind in {"text", "output_text"} and isinstance(text, str):
            texts.append(text)
        else:
            raise TransientError("HTTP 200 with a message whose content is not text")
    return "".join(texts) if texts else None, refusal


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


_TOKEN = "kq7-zebu-41"  # noqa: S105 - no model writes this word unless a schema makes it
_PROBE_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_TOKEN]}},
    "required": ["word"],
    "additionalProperties": False,
}
_RUNS_ON = (
    "the reply to a schema did not end within 256 tokens: if it continues in white space, start vLLM with "
    '--structured-outputs-config \'{"backend":"xgrammar","disable_any_whitespace":true}\'; if it thinks, turn that off.'
)
_UNCONSTRAINED = (
    "replies do not follow the JSON schema: use a server with structured output (vLLM 0.32 or later has it), or set "
    "structured: json_object where the backend has that option."
)


class ServedLlm(ServerAuth, LlmStage):
    """A language model on servers: how they want their requests."""

    @abstractmethod
    def frame(self, messages: Sequence[tuple[str, str]], seed: int, max_tokens: int) -> dict[str, Any]:
        """The request without a schema."""

    def tokenizer(self) -> Tokenize | None:
        return local_tokenizer(self.model)

    def shape(self, schema: JsonSchema, name: str) -> dict[str, Any]:
        """The fields that make a reply follow a schema; empty where the server has none."""
        wanted = {"name": name, "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}


class ServedChat(Served):
    """A ChatModel over a fleet."""

    def __init__(self, options: ServedLlm, fleet: Fleet) -> None:
        canary = options.frame([("user", "Say yes.")], 0, 1) | options.shape(_PROBE_SCHEMA, "probe")
        super().__init__(fleet, (options.extended(canary), self._read))
        self._options = options
        self._names = {options.model, ""}
        self._spoke = False
        """Whether any reply had a text."""

    @property
    def troubled(self) -> bool:
        return self._fleet.troubled

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, unchecked. Raises RequestRejected, ServerRefused, ServerUnavailable, SystemFault."""
        body = self._options.frame(request.messages, request.seed, request.max_tokens)
        body = self._options.extended(body | self._options.shape(request.schema, request.schema_name))
        reply = await self._fleet.call(body, request.key.position, self._read, blame_job_first=True)
        if reply.model not in self._names:
            self._names.add(reply.model)
            self._fleet.client.notify(
                f"the job asks for {self._options.model!r}, the server answers as {reply.model!r}"
            )
        return reply

    def _read(self, answer: Any) -> ChatReply:
        """As `read_reply`; until a reply has a text, one with its text in another place raises TransientError too."""
        reply = read_reply(answer)
        self._spoke = self._spoke or bool(reply.text)
        message = (answer["choices"] or [{}])[0].get("message") or {}
        elsewhere = [name for name in ("reasoning_content", "reasoning", "tool_calls") if message.get(name)]
        if not self._spoke and elsewhere and reply.finish_reason != "length":
            raise TransientError(f"HTTP 200 with {elsewhere[0]} and no content")
        return reply

    async def _examine(self, url: str) -> ProbeResult:
        body = self._options.frame([("user", "Reply with a JSON object that has a `word`.")], 0, 256)
        body = self._options.extended(body | self._options.shape(_PROBE_SCHEMA, "probe"))
        reply = await self._fleet.ask(url, body, self._read)
        found = ProbeResult(shown(url), reachable=True, engines=await self._fleet.engines(url))
        shape = body.get("response_format")
        if not isinstance(shape, dict) or shape.get("type") != "json_schema":
            return found
        try:
            constrained = json.loads(reply.text or "") == {"word": _TOKEN}
        except (ValueError, RecursionError):
            constrained = False
        problem = _RUNS_ON if reply.finish_reason == "length" else _UNCONSTRAINED
        return replace(found, constrained=constrained, problems=() if constrained else (problem,))
