"""One of several workers on a run: works like a run of its own, and tells the crew what it does.

Messages to the crew are tuples: ("at", shard, begun), ("count", counts), ("notice", line), ("error", error). From there
come ("avoid", shards) and ("stop", interrupted).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from synth.errors import Stopped, SynthError
from synth.run.run import Run
from synth.runners import local
from synth.runners.progress import Counters, Share

COUNTED = ("pairs", "unusable", "kept", "dropped", "replies", "in_flight", "prompt_tokens", "completion_tokens")
"""Fields of Counters that add up over workers."""
_TELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do."""

    run: Run
    shards: int
    share: Share
    avoid: frozenset[int] = frozenset()


class Launched(Protocol):
    """A worker wherever it runs, as the crew that started it sees it."""

    name: str
    ended: asyncio.Event

    @property
    def death(self) -> str:
        """How it died, once it has ended; empty when it left in peace."""

    def send(self, kind: str, value: Any) -> None:
        """Tell it something, unless it is just ending."""

    def kill(self) -> None:
        """End it now."""


Hear = Callable[[tuple[Any, ...]], None]
"""Called with each message of a worker."""
Launch = Callable[[Task, Hear], Launched]
"""Starts a worker; called inside a running event loop."""


class Worker:
    """Carries a task out in this process; what it has to tell goes to `say`."""

    def __init__(self, task: Task, say: Callable[..., None]) -> None:
        self.stop = local.StopRequest()
        self._task = task
        self._say = say
        self._counters = Counters(avoid=set(task.avoid))
        self._counters.notice = lambda text: say("notice", text)
        self._counters.at = lambda index, begun: say("at", index, begun)

    def hear(self, kind: str, value: Any) -> None:
        """Follow the crew."""
        if kind == "avoid":
            self._counters.avoid |= value
        else:
            self.stop.ask(interrupted=value)

    async def work(self) -> None:
        """Work until nothing is left to claim or a stop is asked for; errors that end a run go to the crew."""
        telling = asyncio.create_task(self._count())
        try:
            await local.work(self._task.run, self._task.shards, self._counters, self.stop, self._task.share)
        except Stopped as exc:
            if not self.stop() and exc.hint:  # a stall; that nothing was left to claim is no error
                self._say("error", exc)
        except SynthError as exc:
            self._say("error", exc)
        finally:
            telling.cancel()
            self._counters.in_flight = 0
            self._tell_counts()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            self._tell_counts()

    def _tell_counts(self) -> None:
        counters = self._counters
        self._say("count", {name: getattr(counters, name) for name in COUNTED} | {"phase": counters.phase})
