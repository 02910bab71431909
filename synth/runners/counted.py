"""The chat model as a runner holds it: what is in flight, what it cost, and a watch for the case that nothing comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from synth.errors import Stopped
from synth.runners.counters import Counters
from synth.stage import ChatModel, ChatReply, ChatRequest, ReplyKey

_NAMED = 5


@dataclass(slots=True)
class Counted:
    """A ChatModel that counts."""

    chat: ChatModel
    counters: Counters
    pending: dict[ReplyKey, float] = field(default_factory=dict)
    """What is in flight, and since when (monotonic seconds)."""
    last: float = 0.0
    """When a call last ended."""

    @property
    def slots(self) -> int:
        """As many as the model itself."""
        return self.chat.slots

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

        Raises Stopped, naming what is in flight, once no call has ended for `stall` seconds. Servers that are known to
        be in trouble have limits of their own, and what was in flight meanwhile gets its time afterwards.
        """
        excused = 0.0
        while (await asyncio.wait(askers, timeout=stall / 4))[1]:
            now = time.monotonic()
            if getattr(self.chat, "troubled", False):
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
