"""Several processes on one run: starts them, adds up what they do, and gives the shards of a dead one to others.

A process that dies is replaced. The shards that it was at are suspects: each is done by a process of its own, so that
the one that kills is told from its neighbours, and is given up after `MOST_DEATHS`. The rest of the run is finished.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from synth.errors import SynthError
from synth.run_folder import Run
from synth.runners import local, worker
from synth.runners.counters import Counters
from synth.runners.local import DRAIN_SECONDS, StopRequest, finished, unfinished
from synth.runners.plan import Share, count_items
from synth.runners.worker import COUNTED, Task
from synth.steps import keep, score

MOST_DEATHS = 3
"""Processes that may die on one shard."""
_NO_SHARD = -1
_LEAVING_SECONDS = 5.0


async def work(run: Run, shards: int, counters: Counters, stop: StopRequest, share: Share) -> None:
    """As `local.work`, by `share.workers` processes. Raises what it raises, and SynthError naming shards that kill."""
    crew = _Crew(run, shards, counters, stop)
    stop.leave = crew.kill
    try:
        await crew.all(share)
    finally:
        await crew.end()
    if crew.error is not None:
        raise crew.error
    if crew.given_up and not stop():
        raise crew.lost()
    if not finished(run, shards):
        raise unfinished(stop)


@dataclass(eq=False, slots=True)
class _Worker:
    """One process, what it said last, and the shards that it is at."""

    process: BaseProcess
    connection: Connection
    share: Share
    at: set[int] = field(default_factory=set)
    counts: dict[str, Any] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class _Crew:
    """State of one `work` call."""

    def __init__(self, run: Run, shards: int, counters: Counters, stop: StopRequest) -> None:
        self.error: SynthError | None = None
        self.given_up: set[int] = set()
        self._run, self._shards, self._counters, self._stop = run, shards, counters, stop
        self._context = multiprocessing.get_context("spawn")  # a fork would inherit threads half-way
        self._running: dict[_Worker, asyncio.Task[Any]] = {}
        self._past: Counter[str] = Counter()
        self._deaths: Counter[int] = Counter()
        self._suspects: deque[int] = deque()

    async def all(self, share: Share) -> None:
        """Work until all is done, nothing gets further, or a stop is asked for."""
        self._count()
        before: object = None
        shares = [replace(share, worker=number) for number in range(share.workers)]
        while before != (before := self._state()) and not self._over():
            await self._together(shares)
            shares = [share]  # what is left needs all shards, or was left by one that died: one process is enough
            if finished(self._run, self._shards):
                return

    def kill(self) -> None:
        """End every process now."""
        for each in self._running:
            each.process.kill()

    async def end(self) -> None:
        """Wait for processes that were asked to stop, and end those that do not."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=DRAIN_SECONDS + _LEAVING_SECONDS)
        self.kill()
        if self._running:
            await asyncio.wait(self._running.values())

    def lost(self) -> SynthError:
        """The error that names the shards that were given up."""
        names = ", ".join(f"{index:08d}" for index in sorted(self.given_up))
        return SynthError(
            f"{MOST_DEATHS} processes died on shard {names}; all others are done.",
            "Look at the messages above and at that shard's passages, then run the same command again.",
        )

    async def _together(self, shares: Iterable[Share]) -> None:
        """Run processes for these shares, and for suspects as places become free, until none is left."""
        for share in shares:
            self._start(share)
        stopping = asyncio.create_task(self._stop.event.wait())
        while self._running:
            waiting: set[asyncio.Task[Any]] = {*self._running.values()}
            if not stopping.done():
                waiting.add(stopping)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._over():
                self._tell("stop", self._stop.interrupted)
                break
            for each in [each for each, task in self._running.items() if task.done()]:
                del self._running[each]
                self._ended(each)
        stopping.cancel()

    def _start(self, share: Share) -> None:
        ours, theirs = self._context.Pipe()
        avoid = frozenset() if share.only else frozenset({*self._suspects, *self.given_up})
        task = Task(self._run, self._shards, share, avoid)
        process = self._context.Process(target=worker.main, args=(theirs, task))
        process.start()
        theirs.close()
        started = _Worker(process, ours, share)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear, started)
        self._running[started] = asyncio.create_task(started.ended.wait())

    def _hear(self, sender: _Worker) -> None:
        try:
            message = sender.connection.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(sender.connection.fileno())
            sender.connection.close()
            sender.process.join()
            sender.ended.set()
            return
        match message:
            case ("at", index, begun):
                (sender.at.add if begun else sender.at.discard)(index)
            case ("count", counts):
                sender.counts = counts
                self._add_up()
            case ("notice", text):
                self._counters.notice(text)
            case ("error", error):
                self.error = self.error or error

    def _ended(self, each: _Worker) -> None:
        """A process is gone: find out how, and start another one in its place where that helps."""
        self._past.update({name: each.counts.get(name, 0) for name in COUNTED})
        died = each.process.exitcode != 0
        if died:
            self._counters.notice(f"worker {each.process.pid} died ({_how(each.process.exitcode)})")
            for index in sorted(each.at):
                self._deaths[index] += 1
                if self._deaths[index] >= MOST_DEATHS:
                    self.given_up.add(index)
                else:
                    self._suspects.append(index)
            self._tell("avoid", frozenset(each.at))
            self._deaths[_NO_SHARD] += not each.at
            if self._deaths[_NO_SHARD] >= MOST_DEATHS:
                self.error = SynthError("processes die before they begin a shard.", "Look at the messages above.")
                return
        if self._suspects:
            self._start(replace(each.share, only=(self._suspects.popleft(),)))
        elif died or each.share.only:
            self._start(replace(each.share, only=None))

    def _tell(self, *message: Any) -> None:
        for each in self._running:
            try:
                each.connection.send(message)
            except OSError:
                continue  # it is just ending

    def _over(self) -> bool:
        return self._stop() or self.error is not None

    def _add_up(self) -> None:
        for name in COUNTED:
            now = sum(each.counts.get(name, 0) for each in self._running)
            setattr(self._counters, name, self._past[name] + now)
        phases = [each.counts["phase"] for each in self._running if each.counts]
        if phases and not self._stop():
            self._counters.phase = phases[0]

    def _count(self) -> None:
        done = self._run.folder.step("generated").done()
        if self._run.pairs:
            done &= keep.default_view(self._run, score.steps_of(self._run)).folder(self._run.folder).done()
        count_items(self._run, self._counters, done)

    def _state(self) -> object:
        return local.state(self._run)


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
