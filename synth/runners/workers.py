"""Several workers on one run: starts them, adds up their counts, and gives the shards of a dead one to others.

A worker that dies is replaced. Its shards in flight are quarantined: each is retried by a worker of its own, to isolate
the one that crashes it, and is given up after `MOST_DEATHS`. The rest of the run is finished.

Messages to the supervisor are tuples: ("at", shard, begun), ("count", counts), ("notice", line), ("error", error). It
answers with ("avoid", shards) and ("stop", interrupted).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

from synth.errors import Stopped, SynthError
from synth.process import collect_rarely, economise, for_tables
from synth.runners import local
from synth.runners.local import DRAIN_SECONDS, StopRequest, finished, unfinished
from synth.runners.progress import Counters, Share, count_items
from synth.runs.run import OpenRun
from synth.steps import keep, score
from synth.terminal import tell

_TOKENS = ("prompt_tokens", "completion_tokens")
COUNTED = ("pairs", "unusable", "scored", "kept", "dropped", "replies", "in_flight", *_TOKENS)
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

    def send(self, kind: str, value: Any) -> None: ...

    def kill(self) -> None: ...


OnMessage = Callable[[tuple[Any, ...]], None]
Launch = Callable[[Task, OnMessage], Launched]


class Worker:
    """Does a task in this process; its messages go to `send`."""

    def __init__(self, task: Task, send: Callable[..., None]) -> None:
        self.stop = local.StopRequest()
        self._task = task
        self._send = send
        self._counters = Counters(avoid=set(task.avoid), notice=partial(send, "notice"), at=partial(send, "at"))

    def receive(self, kind: str, value: Any) -> None:
        if kind == "avoid":
            self._counters.avoid |= value
        else:
            self.stop.ask(interrupted=value)

    async def work(self) -> None:
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
        state = {"phase": counters.phase, "passes": counters.passes, "server": counters.server_state()}
        self._send("count", {name: getattr(counters, name) for name in COUNTED} | state)


CRASHED = 70
"""Exit code of a worker that ended in an unexpected exception."""


class Process:
    """A worker process, seen from the supervisor's; as `Launched`."""

    def __init__(self, task: Task, on_message: OnMessage) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads half-way
        self._connection, theirs = context.Pipe()
        self._on_message = on_message
        self._process = context.Process(target=main, args=(theirs, task))
        self._process.start()
        theirs.close()
        self.name = str(self._process.pid)
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._receive)

    @property
    def death(self) -> str:
        code = self._process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}" if code else ""

    def send(self, kind: str, value: Any) -> None:
        with suppress(OSError):  # it is just ending
            self._connection.send((kind, value))

    def kill(self) -> None:
        self._process.kill()

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._process.join()
            self.ended.set()
        else:
            self._on_message(message)


def main(connection: Connection, task: Task) -> None:
    """Entry point of a worker process."""
    economise()
    if task.run.pairs:
        for_tables()
    # Ctrl-C reaches every process of a terminal; the supervisor decides what the workers do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_work(connection, task))
    except Exception:  # noqa: BLE001 - whatever it is, the supervisor has to know that a shard may have caused it
        tell(traceback.format_exc().rstrip())
        sys.exit(CRASHED)


async def _work(connection: Connection, task: Task) -> None:
    """Work, taking messages of the supervisor and the signals meant for this process."""
    collect_rarely()

    def send(*message: Any) -> None:
        try:
            connection.send(message)
        except OSError:
            worker.stop.ask()  # the supervisor is gone

    def receive() -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            worker.stop.ask()
        else:
            worker.receive(*message)

    def asked() -> None:
        if worker.stop():
            os._exit(75)
        worker.stop.ask()

    worker, loop = Worker(task, send), asyncio.get_running_loop()
    loop.add_reader(connection.fileno(), receive)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    try:
        await worker.work()
    finally:
        if worker.stop() and not await local.threads_ended():
            os._exit(0)  # what they compute is in no journal


MOST_DEATHS = 3
"""Workers that may die on one shard."""
_NO_SHARD = -1
_LEAVING_SECONDS = 5.0


async def work(
    run: OpenRun, shards: int, counters: Counters, stop: StopRequest, share: Share, launch: Launch = Process
) -> None:
    """As `local.work`, by `share.workers` workers. Raises the same, and SynthError naming shards that crash them."""
    supervisor = _Supervisor(run, shards, counters, stop, launch)
    stop.leave = supervisor.kill
    try:
        await supervisor.all(share)
    finally:
        await supervisor.end()
    if supervisor.error is not None:
        raise supervisor.error
    if supervisor.given_up and not stop():
        names = ", ".join(f"{index:08d}" for index in sorted(supervisor.given_up))
        hint = "Look at the messages above and at that shard's passages, then run the same command again."
        raise SynthError(f"{MOST_DEATHS} processes died on shard {names}; all others are done.", hint)
    if not finished(run, shards):
        raise unfinished(stop)


@dataclass(eq=False, slots=True)
class _Worker:
    share: Share
    at: set[int] = field(default_factory=set)
    counts: dict[str, Any] = field(default_factory=dict)


class _Supervisor:
    def __init__(self, run: OpenRun, shards: int, counters: Counters, stop: StopRequest, launch: Launch) -> None:
        self.error: SynthError | None = None
        self.given_up: set[int] = set()
        self._run, self._shards, self._counters, self._stop, self._launch = run, shards, counters, stop, launch
        self._running: dict[_Worker, tuple[Launched, asyncio.Task[Any]]] = {}
        self._past: Counter[str] = Counter()
        self._deaths: Counter[int] = Counter()
        self._quarantined: deque[int] = deque()

    async def all(self, share: Share) -> None:
        done = self._run.folder.step("generated").done()
        kept = done & keep.default_view(self._run, score.steps_of(self._run)).folder(self._run.folder).done()
        count_items(self._run, self._counters, kept if self._run.pairs else done, kept)
        if (budget := self._counters.budget) and budget.share >= 1 and len(done) < self._shards:
            budget.end()
        before: object = None
        shares = [replace(share, worker=number) for number in range(share.workers)]
        while before != (before := local.state(self._run)) and not self._over():
            await self._together(shares)
            shares = [share]  # what is left needs all shards, or a dead worker left it: one worker is enough
            if finished(self._run, self._shards):
                return

    def kill(self) -> None:
        for launched, _ in self._running.values():
            launched.kill()

    async def end(self) -> None:
        if ending := [task for _, task in self._running.values()]:
            await asyncio.wait(ending, timeout=DRAIN_SECONDS + _LEAVING_SECONDS)
            self.kill()
            await asyncio.wait(ending)

    async def _together(self, shares: Iterable[Share]) -> None:
        for share in shares:
            self._start(share)
        stopping = asyncio.create_task(self._stop.event.wait())
        while self._running:
            waiting = {stopping, *(task for _, task in self._running.values())}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._over():
                self._send("stop", self._stop.interrupted)
                break
            for each in [each for each, (_, task) in self._running.items() if task.done()]:
                self._ended(each, self._running.pop(each)[0])
        stopping.cancel()

    def _start(self, share: Share) -> None:
        avoid = frozenset() if share.only else frozenset({*self._quarantined, *self.given_up})
        started = _Worker(share)
        launched = self._launch(Task(self._run, self._shards, share, avoid), partial(self._received, started))
        self._running[started] = (launched, asyncio.create_task(launched.ended.wait()))

    def _received(self, sender: _Worker, message: tuple[Any, ...]) -> None:
        match message:
            case ("at", index, begun):
                (sender.at.add if begun else sender.at.discard)(index)
            case ("count", counts):
                sender.counts = counts
                for name in COUNTED:
                    now = sum(each.counts.get(name, 0) for each in self._running)
                    setattr(self._counters, name, self._past[name] + now)
                if (budget := self._counters.budget) and not self._stop():
                    coming = self._counters.replies / self._counters.seconds  # until the next reports have come
                    if budget.exceeded(self._counters.in_flight + 1 + round(coming)):
                        with suppress(Stopped):
                            budget.end()
                reports = [each.counts for each in self._running if each.counts]
                if reports and not self._stop():
                    self._counters.phase = reports[0]["phase"]
                for each in reports:
                    self._counters.passes |= each["passes"]
                self._counters.server = max((each["server"] for each in reports), key=len, default="")
            case ("notice", text):
                self._counters.notice(text)
            case ("error", error):
                self.error = self.error or error

    def _ended(self, each: _Worker, launched: Launched) -> None:
        """A worker has ended: find out how, and start another one in its place where that helps."""
        self._past.update({name: each.counts.get(name, 0) for name in COUNTED})
        if launched.death:
            self._counters.notice(f"worker {launched.name} died ({launched.death})")
            for index in sorted(each.at):
                self._deaths[index] += 1
                if self._deaths[index] >= MOST_DEATHS:
                    self.given_up.add(index)
                else:
                    self._quarantined.append(index)
            self._send("avoid", frozenset(each.at))
            self._deaths[_NO_SHARD] += not each.at
            if self._deaths[_NO_SHARD] >= MOST_DEATHS:
                self.error = SynthError("workers die before they start a shard.", "Look at the messages above.")
                return
        if self._quarantined:
            self._start(replace(each.share, only=(self._quarantined.popleft(),)))
        elif launched.death or each.share.only:
            self._start(replace(each.share, only=None))

    def _send(self, kind: str, value: Any) -> None:
        for launched, _ in self._running.values():
            launched.send(kind, value)

    def _over(self) -> bool:
        return self._stop() or self.error is not None
