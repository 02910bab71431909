"""The models of a run: each is opened when it is first needed, once for all revisions that name the same one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from synth.errors import Stopped
from synth.job import Job
from synth.runners.progress import Counters
from synth.stage import ChatModel, ChatReply, ChatRequest, ClientSettings, Encoded, Encoder, ReplyKey


class VectorCache:
    """An Encoder that keeps the document vectors of the last `shards` calls, a few MB each."""

    def __init__(self, encoder: Encoder, shards: int) -> None:
        self._encoder = encoder
        self._shards = shards
        self._kept: OrderedDict[tuple[str, ...], Encoded] = OrderedDict()

    async def encode(self, texts: Sequence[str], role: Literal["query", "document"]) -> Encoded:
        """As the wrapped encoder; a repeated batch of documents costs nothing."""
        if role == "query":
            return await self._encoder.encode(texts, role)
        key = tuple(texts)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        encoded = await self._encoder.encode(texts, role)
        self._kept[key] = encoded
        while len(self._kept) > self._shards:
            self._kept.popitem(last=False)
        return encoded

    async def close(self) -> None:
        """Close the wrapped encoder."""
        await self._encoder.close()


_NAMED = 5
"""Calls in flight that the message about a stall names."""


@dataclass(slots=True)
class MeteredChat:
    """A ChatModel that counts calls and tokens, and watches for a stall."""

    chat: ChatModel
    counters: Counters
    pending: dict[ReplyKey, float] = field(default_factory=dict)
    """Calls in flight, with their start (monotonic seconds)."""
    last: float = 0.0
    """When a call last ended."""

    @property
    def slots(self) -> int:
        """As many as the model itself."""
        return self.chat.slots

    @property
    def troubled(self) -> bool:
        return self.chat.troubled

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, counted."""
        self.counters.in_flight += 1
        self.pending[request.key] = time.monotonic()
        try:
            reply = await self.chat.complete(request)
        finally:
            self.counters.in_flight -= 1
            del self.pending[request.key]
            self.last = time.monotonic()
        self.counters.replies += 1
        self.counters.prompt_tokens += reply.prompt_tokens
        self.counters.completion_tokens += reply.completion_tokens
        return reply

    async def watch(self, askers: Iterable[asyncio.Task[None]], stall: float) -> None:
        """Return when all askers have ended.

        Raises Stopped, naming the calls in flight, once no call has ended for `stall` seconds. While servers are in
        trouble their own limits apply; calls that were in flight then get `stall` seconds afterwards.
        """
        excused = 0.0
        while (await asyncio.wait(askers, timeout=stall / 4))[1]:
            now = time.monotonic()
            if self.chat.troubled:
                excused = now
            since = max(excused, self.last, min(self.pending.values(), default=now))
            if now - since >= stall:
                raise Stopped(
                    f"no model call has ended for {stall:g} s (limits.stall); in flight: {self._named(now)}.",
                    "Look at the server's log, or raise limits.stall.",
                )

    def _named(self, now: float) -> str:
        oldest = sorted(self.pending.items(), key=lambda each: each[1])
        names = [
            f"passage {key.position} slot {key.slot} ({key.stage}, attempt {key.attempt + 1}) for {now - since:.0f} s"
            for key, since in oldest[:_NAMED]
        ]
        return "; ".join(names) + (f"; and {len(oldest) - _NAMED:,} more" if len(oldest) > _NAMED else "")

    async def close(self) -> None:
        await self.chat.close()


CACHED_SHARDS = 4
"""Shards whose passage vectors are kept from the choice of personas to scoring."""


class Models:
    """Opens chat models and encoders; `stack` closes them."""

    def __init__(self, client: ClientSettings, instruction: str, counters: Counters, stack: AsyncExitStack) -> None:
        self.client = client
        self._instruction = instruction
        self._counters = counters
        self._stack = stack
        self._chats: list[tuple[Any, MeteredChat]] = []
        self._encoders: list[tuple[Any, VectorCache]] = []

    def chat(self, job: Job) -> MeteredChat:
        """The job's language model."""
        for stage, model in self._chats:
            if stage == job.llm:
                return model
        assert job.llm is not None  # noqa: S101 - a job without one needs no chat model
        opened = MeteredChat(job.llm.open(self.client), self._counters)
        if job.llm.urls():
            self._counters.chats.append(opened.chat)
        self._stack.push_async_callback(opened.close)
        self._chats.append((job.llm, opened))
        return opened

    def encoder(self, job: Job) -> VectorCache | None:
        """The job's embedder, None where it has none."""
        if job.embed is None:
            return None
        for stage, model in self._encoders:
            if stage == job.embed:
                return model
        opened = VectorCache(job.embed.open(self.client, self._instruction), CACHED_SHARDS)
        self._stack.push_async_callback(opened.close)
        self._encoders.append((job.embed, opened))
        return opened
