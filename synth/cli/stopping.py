"""Signals and the deadline: how a command is asked to stop, whatever it is doing.

While the inputs are read a signal ends the command at once, because nothing is lost by that. While models work the
first one drains, and the second leaves without waiting.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, Self, TypeVar

from synth.errors import JobError, Stopped
from synth.pipeline import Control
from synth.process import collect_rarely
from synth.progress import Display
from synth.runners.local import StopRequest, threads_ended
from synth.runners.progress import Counters
from synth.terminal import tell

T = TypeVar("T")
LEAD_SECONDS = 45.0
"""How long before the deadline to drain: 30 s for requests in flight, the rest to write and exit."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def seconds_until(text: str, now: time.struct_time | None = None) -> float:
    """Seconds until the scheduler kills this process, by `--deadline`: `3h30m`, `90`, or the next `HH:MM`.

    Raises JobError.
    """
    if clock := _CLOCK.fullmatch(text.strip()):
        now = now or time.localtime()
        left = (int(clock[1]) - now.tm_hour) * 3600 + (int(clock[2]) - now.tm_min) * 60 - now.tm_sec
        return float(left if left > 0 else left + _UNITS["d"])
    span = _SPAN.fullmatch(f"{text.strip()}s" if text.strip().isdecimal() else text.strip())
    parts = zip(span.groups() if span else (), _UNITS.values(), strict=False)
    seconds = sum(int(part or 0) * unit for part, unit in parts)
    if not seconds:
        raise JobError(f"--deadline {text}: not a duration or a time of day.", "Write 3h30m, 90 (seconds), or 17:45.")
    return float(seconds)


class Stopping(Control):
    """The control of a command: prints, and ends it on signals and at a deadline, given in seconds from now."""

    def __init__(self, seconds: float | None = None, *, quiet: bool = False) -> None:
        self._drain_at = None if seconds is None else time.monotonic() + max(seconds - LEAD_SECONDS, seconds / 2)
        self._quiet = quiet
        self._asked = False
        self._before: dict[int, Any] = {}

    def notify(self, text: str) -> None:
        tell(text)

    def report(self, text: str) -> None:
        if not self._quiet:
            tell(text)

    def display(self, counters: Counters) -> AbstractContextManager[object]:
        return Display(counters.snapshot, quiet=self._quiet)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            if self._before[signal.SIGHUP] is signal.SIG_IGN:
                del self._before[signal.SIGHUP]  # started by nohup
            self._install()
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Stopped once it is time to leave for the deadline."""
        if self._drain_at is not None and time.monotonic() >= self._drain_at:
            raise Stopped("stopped for the deadline; everything finished is saved.")

    @contextmanager
    def drains(self, stop: StopRequest, counters: Counters) -> Iterator[None]:
        """The first signal and the deadline set `stop`; a second signal exits at once."""
        collect_rarely()
        loop = asyncio.get_running_loop()

        def ask(why: str, *, interrupted: bool = False) -> None:
            if not stop():
                stop.ask(interrupted=interrupted)
                counters.phase = "stopping"
                tell(f"stopping{why}: waiting up to 30 s for requests in flight; another signal exits at once")

        def asked(number: int) -> None:
            if stop():
                stop.leave()
                os._exit(_code(number))  # every finished call is in a journal already
            ask("", interrupted=number == signal.SIGINT)

        for number in self._before:
            loop.add_signal_handler(number, asked, number)
        timer = None
        if self._drain_at is not None:
            timer = loop.call_later(max(0.0, self._drain_at - time.monotonic()), ask, " for the deadline")
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            for number in self._before:
                loop.remove_signal_handler(number)
            self._install()

    async def leave(self, exc: Stopped) -> None:
        """End the process when a thread still computes what nobody waits for."""
        if not await threads_ended():
            tell(f"error: {exc}")
            os._exit(exc.exit_code)

    def _install(self) -> None:
        for number in self._before:
            signal.signal(number, self._raise)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            os._exit(_code(number))
        self._asked = True
        raise Stopped("stopped; everything finished is saved.", interrupted=number == signal.SIGINT)


def _code(number: int) -> int:
    return 130 if number == signal.SIGINT else 75


def until_signal(work: Callable[..., Coroutine[Any, Any, T]], plan: Any, again: str, *, quiet: bool) -> T:
    """What `work` makes of a plan, with its progress.

    The first signal cancels it, which waits for what a model of this process computes, and raises Stopped. The second
    one exits at once.
    """
    stopped: list[int] = []

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one

        def stop(number: int) -> None:
            stopped.append(number)
            task.cancel()
            for each in (signal.SIGINT, signal.SIGTERM):  # the loop's own handlers would wait for its next turn
                asyncio.get_running_loop().remove_signal_handler(each)
                signal.signal(each, lambda again, _frame: os._exit(130 if again == signal.SIGINT else 75))
            tell("stopping: waiting for replies in the making; another signal exits at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(RuntimeError, ValueError):  # not in the main thread
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work(plan, (lambda _: None) if quiet else tell, lambda look: Display(look, quiet=quiet))

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if not stopped:
            raise
        what = "stopped before the end; finished shards are saved."
        hint = f"Resume with the same command: {again}"
        raise Stopped(what, hint, interrupted=stopped[0] == signal.SIGINT) from None
