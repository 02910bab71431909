"""One of several workers on a run: works like a run of its own and reports to the supervisor.

Messages to the supervisor are tuples: ("at", shard, begun), ("count", counts), ("notice", line), ("error", error). It
answers with ("avoid", shards) and ("stop", interrupted).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from synth.errors import Stopped, SynthError
from synth.runners import local
from synth.runners.progress import Counters, Share
from synth.runs.run import OpenRun

COUNTED = (
    "pairs",
    "unusable",
    "scored",
    "kept",
    "dropped",
    "replies",
    "in_flight",
    "prompt_tokens",
    "completion_tokens",
)
"""Fields of Counters that add up over workers."""
_REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one worker."""

    run: OpenRun
    shards: int
    share: Share
    avoid: frozenset[int] = frozenset()


class Launched(Protocol):
    """A running worker, as its supervisor sees it."""

    name: str
    ended: asyncio.Event

    @property
    def death(self) -> str:
        """How it died, once it has ended; empty when it ended normally."""

    def send(self, kind: str, value: Any) -> None:
        """Send it a message, unless it is just ending."""

    def kill(self) -> None:
        """End it now."""


OnMessage = Callable[[tuple[Any, ...]], None]
"""Called with each message of a worker."""
Launch = Callable[[Task, OnMessage], Launched]
"""Starts a worker; called inside a running event loop."""


class Worker:
    """Does a task in this process; its messages go to `send`."""

    def __init__(self, task: Task, send: Callable[..., None]) -> None:
        self.stop = local.StopRequest()
        self._task = task
        self._send = send
        self._counters = Counters(avoid=set(task.avoid))
        self._counters.notice = lambda text: send("notice", text)
        self._counters.at = lambda index, begun: send("at", index, begun)

    def receive(self, kind: str, value: Any) -> None:
        """Take a message of the supervisor."""
        if kind == "avoid":
            self._counters.avoid |= value
        else:
            self.stop.ask(interrupted=value)

    async def work(self) -> None:
        """Work until nothing is left to claim or a stop is requested; errors that end a run go to the supervisor."""
        reporting = asyncio.create_task(self._report())
        try:
            await local.work(self._task.run, self._task.shards, self._counters, self.stop, self._task.share)
        except Stopped as exc:
            if not self.stop() and exc.hint:  # a stall; having nothing left to claim is not an error
                self._send("error", exc)
        except SynthError as exc:
            self._send("error", exc)
        finally:
            reporting.cancel()
            self._counters.in_flight = 0
            self._send_counts()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            self._send_counts()

    def _send_counts(self) -> None:
        counters = self._counters
        counts = {name: getattr(counters, name) for name in COUNTED}
        state = {"phase": counters.phase, "passes": counters.passes, "server": counters.server_state()}
        self._send("count", counts | state)
