"""A chat model behind an OpenAI-shaped `/chat/completions`, whichever transport carries it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from synth.errors import SynthError
from synth.servers.faults import NotServed, Setback, is_loopback, shown
from synth.servers.fleet import Fleet
from synth.servers.probe import ProbeResult, facts, unusable
from synth.stage import ChatReply, ChatRequest, JsonSchema


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


PATH = "/chat/completions"
_TOKEN = "kq7-zebu-41"  # noqa: S105 - a word that no model writes unless it is made to
_PROBE_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_TOKEN]}},
    "required": ["word"],
    "additionalProperties": False,
}
_RUNS_ON = (
    "the reply to a schema did not end within 256 tokens: if it runs on in white space, start vLLM with "
    '--structured-outputs-config \'{"backend":"xgrammar","disable_any_whitespace":true}\'; if it thinks, turn that off.'
)
_FREE = (
    "replies are not held to the JSON schema: use a server with structured output (vLLM 0.32 or later does it by "
    "response_format), or set structured: json_object where the backend has that option."
)


class Dialect(Protocol):
    """How one kind of server wants its requests.

    `frame` is the body without a schema, `shape` the fields that hold the reply to one (empty where it cannot be held).
    """

    @property
    def model(self) -> str: ...

    def frame(self, messages: Sequence[tuple[str, str]], seed: int, max_tokens: int) -> dict[str, Any]: ...

    def shape(self, schema: JsonSchema, name: str) -> dict[str, Any]: ...


def canary(dialect: Dialect) -> Mapping[str, Any]:
    """The smallest request that makes the model work."""
    return dialect.frame([("user", "Say yes.")], 0, 1)


class ServedChat:
    """A ChatModel over a fleet; `slots` requests are worth having in flight."""

    def __init__(self, dialect: Dialect, fleet: Fleet, slots: int, notify: Callable[[str], None]) -> None:
        self.slots = slots
        self._dialect = dialect
        self._fleet = fleet
        self._notify = notify
        self._names = {dialect.model, ""}

    @property
    def troubled(self) -> bool:
        """Whether no server has answered since one failed."""
        return self._fleet.troubled

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, unjudged. Raises RequestRejected, ServerRefused, ServerUnavailable, SystemFault."""
        body = self._dialect.frame(request.messages, request.seed, request.max_tokens)
        body |= self._dialect.shape(request.schema, request.schema_name)
        reply = await self._fleet.call(body, request.key.position, read_reply)
        if reply.model not in self._names:
            self._names.add(reply.model)
            self._notify(f"asked for {self._dialect.model!r}, the server says it answers as {reply.model!r}")
        return reply

    async def probe(self) -> list[ProbeResult]:
        """One result per server: reachable, what it serves, and whether it holds a reply to a schema."""
        return list(await asyncio.gather(*(self._probe(url) for url in self._fleet.urls)))

    async def close(self) -> None:
        """Close every connection."""
        await self._fleet.close()

    async def _probe(self, url: str) -> ProbeResult:
        model = self._dialect.model
        try:
            found = await facts(self._fleet, url, model)
            constrained, problems = await self._constrained(url)
        except (NotServed, Setback, SynthError) as exc:
            return unusable(url, exc)
        if found.models and model not in found.models:
            problems = (*problems, f"does not list the model {model!r}; it lists {', '.join(found.models[:10])}.")
        return ProbeResult(
            shown(url),
            reachable=True,
            problems=problems,
            models=found.models,
            max_model_len=found.max_model_len,
            version=found.version,
            engines=await self._fleet.engines(url),
            constrained=constrained,
            remote=not is_loopback(url),
        )

    async def _constrained(self, url: str) -> tuple[bool | None, tuple[str, ...]]:
        shape = self._dialect.shape(_PROBE_SCHEMA, "probe")
        body = self._dialect.frame([("user", "Reply with a JSON object that has a `word`.")], 0, 256)
        reply = read_reply(await self._fleet.transport.post(url, PATH, body | shape))
        if shape.get("response_format", {}).get("type") != "json_schema":
            return None, ()
        try:
            held = json.loads(reply.text or "") == {"word": _TOKEN}
        except (ValueError, RecursionError):
            held = False
        if held:
            return True, ()
        return False, (_RUNS_ON if reply.finish_reason == "length" else _FREE,)
