"""Workers as processes of this machine, each at the other end of a pipe.

When the first process dies, the others drain and leave.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from synth.memory import economise, for_tables
from synth.runners import local
from synth.runners.worker import Hear, Task, Worker
from synth.terminal import tell

CRASHED = 70
"""Exit code of a worker that ended in something that is no error of ours."""


class Process:
    """A worker process, seen from the first one; as `Launched`."""

    def __init__(self, task: Task, hear: Hear) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads half-way
        self._connection, theirs = context.Pipe()
        self._hear = hear
        self._process = context.Process(target=main, args=(theirs, task))
        self._process.start()
        theirs.close()
        self.name = str(self._process.pid)
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._receive)

    @property
    def death(self) -> str:
        """Its signal or exit code, empty for 0."""
        code = self._process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}" if code else ""

    def send(self, kind: str, value: Any) -> None:
        """Tell it something, unless it is just ending."""
        try:
            self._connection.send((kind, value))
        except OSError:
            return

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._process.join()
            self.ended.set()
            return
        self._hear(message)


def main(connection: Connection, task: Task) -> None:
    """The worker's process from begin to end."""
    economise()
    if task.run.pairs:
        for_tables()
    # Ctrl-C reaches every process of a terminal; the first one tells the others what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_work(connection, task))
    except Exception:  # noqa: BLE001 - whatever it is, the first process has to know that a shard may have caused it
        tell(traceback.format_exc().rstrip())
        sys.exit(CRASHED)


async def _work(connection: Connection, task: Task) -> None:
    def say(*message: Any) -> None:
        try:
            connection.send(message)
        except OSError:
            worker.stop.ask()  # the first process is gone

    worker = Worker(task, say)
    _listen(connection, worker)
    try:
        await worker.work()
    finally:
        if worker.stop() and not await local.threads_ended():
            os._exit(0)  # what they compute is in no journal


def _listen(connection: Connection, worker: Worker) -> None:
    """Follow the first process and the signals that are meant for this one."""
    loop = asyncio.get_running_loop()

    def hear() -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            worker.stop.ask()
            return
        worker.hear(*message)

    def asked() -> None:
        if worker.stop():
            os._exit(75)
        worker.stop.ask()

    loop.add_reader(connection.fileno(), hear)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
