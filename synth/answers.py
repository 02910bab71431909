"""Answers of models, remembered until the shard is done: asked once, whatever crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from synth.errors import SynthError

Answer = TypeVar("Answer")


class Memory(Protocol):
    """Answers that cost a model call, kept until the shard is done, so that a crash costs none twice.

    `synth.shards.Journal` is one. A record stays what it was; keys are of the asker's own making.
    """

    def get(self, key: str) -> dict[str, Any] | None: ...

    def append(self, key: str, value: dict[str, Any]) -> None: ...


def key_of(kind: str, *texts: str) -> str:
    """Names a question by its kind and everything that was asked."""
    digest = sha256(b"\0".join(text.encode("utf-8", "surrogatepass") for text in texts))
    return f"{kind}/{digest.hexdigest()[:32]}"


async def gathered(tasks: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """All results in order; the first SynthError ends the others and is raised."""

    async def one(task: Awaitable[Answer]) -> Answer:
        return await task

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except* SynthError as failures:
        raise _first(failures) from None
    return [task.result() for task in running]


def _first(failures: BaseExceptionGroup[SynthError]) -> SynthError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
