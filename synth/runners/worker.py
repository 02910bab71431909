"""One of several processes of a run: works like a run of its own, and tells the first process what it does.

Messages to the first process are tuples: ("at", shard, begun), ("count", counts), ("notice", line), ("error", error).
From there come ("avoid", shards) and ("stop", interrupted). When the first process dies, this one drains and leaves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from synth.errors import Stopped, SynthError
from synth.run_folder import Run
from synth.runners import local
from synth.runners.counters import Counters
from synth.runners.plan import Share
from synth.terminal import tell

COUNTED = ("pairs", "unusable", "kept", "dropped", "replies", "in_flight", "prompt_tokens", "completion_tokens")
"""Fields of Counters that add up over processes."""
CRASHED = 70
"""Exit code of a worker that ended in something that is no error of ours."""
_TELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do."""

    run: Run
    shards: int
    share: Share
    avoid: frozenset[int] = frozenset()


def main(connection: Connection, task: Task) -> None:
    """The worker's process from begin to end."""
    # Ctrl-C reaches every process of a terminal; the first one tells the others what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_work(_Line(connection), task))
    except Exception:  # noqa: BLE001 - whatever it is, the first process has to know that a shard may have caused it
        tell(traceback.format_exc().rstrip())
        sys.exit(CRASHED)


class _Line:
    """The connection to the first process, which may be gone."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.gone = False

    def send(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.gone = True


async def _work(line: _Line, task: Task) -> None:
    stop = local.StopRequest()
    counters = Counters(avoid=set(task.avoid))
    counters.notice = lambda text: line.send("notice", text)
    counters.at = lambda index, begun: line.send("at", index, begun)
    _listen(line, counters, stop)
    telling = asyncio.create_task(_count(line, counters, stop))
    try:
        await local.work(task.run, task.shards, counters, stop, task.share)
    except Stopped as exc:
        if not stop() and exc.hint:  # a stall; that nothing was left to claim is no error
            line.send("error", exc)
    except SynthError as exc:
        line.send("error", exc)
    finally:
        telling.cancel()
        counters.in_flight = 0
        _tell_counts(line, counters)
        if stop() and not await local.threads_ended():
            os._exit(0)  # what they compute is in no journal


def _listen(line: _Line, counters: Counters, stop: local.StopRequest) -> None:
    """Follow the first process and the signals that are meant for this one."""
    loop = asyncio.get_running_loop()

    def hear() -> None:
        try:
            kind, value = line.connection.recv()
        except (EOFError, OSError):
            loop.remove_reader(line.connection.fileno())
            stop.ask()
            return
        if kind == "avoid":
            counters.avoid |= value
        else:
            stop.ask(interrupted=value)

    def asked() -> None:
        if stop():
            os._exit(75)
        stop.ask()

    loop.add_reader(line.connection.fileno(), hear)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)


async def _count(line: _Line, counters: Counters, stop: local.StopRequest) -> None:
    while True:
        await asyncio.sleep(_TELL_SECONDS)
        _tell_counts(line, counters)
        if line.gone:
            stop.ask()


def _tell_counts(line: _Line, counters: Counters) -> None:
    line.send("count", {name: getattr(counters, name) for name in COUNTED} | {"phase": counters.phase})
