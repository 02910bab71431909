"""The models of a run: each is opened when it is first needed, and once for all revisions that name the same."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from synth.config import Job
from synth.runners.counted import Counted
from synth.runners.counters import Counters
from synth.runners.recent import RecentVectors
from synth.stage import ClientSettings

RECENT_SHARDS = 4
"""Shards whose passage vectors are kept between finding personas and scoring."""


class Models:
    """Opens chat models and encoders; `stack` closes them."""

    def __init__(self, client: ClientSettings, instruction: str, counters: Counters, stack: AsyncExitStack) -> None:
        self.client = client
        self._instruction = instruction
        self._counters = counters
        self._stack = stack
        self._chats: list[tuple[Any, Counted]] = []
        self._encoders: list[tuple[Any, RecentVectors]] = []

    def chat(self, job: Job) -> Counted:
        """The job's language model."""
        for stage, model in self._chats:
            if stage == job.llm:
                return model
        opened = Counted(job.llm.open(self.client), self._counters)
        self._stack.push_async_callback(opened.close)
        self._chats.append((job.llm, opened))
        return opened

    def encoder(self, job: Job) -> RecentVectors | None:
        """The job's embedder, None where it has none."""
        if job.embed is None:
            return None
        for stage, model in self._encoders:
            if stage == job.embed:
                return model
        opened = RecentVectors(job.embed.open(self.client, self._instruction), RECENT_SHARDS)
        self._stack.push_async_callback(opened.close)
        self._encoders.append((job.embed, opened))
        return opened
