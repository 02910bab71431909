"""Progress while a run works: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

from synth.runners.progress import Counters
from synth.terminal import safe, tell

_LIVE_SECONDS = 0.25
_PLAIN_SECONDS = 15.0


class Display:
    """A context that shows `counters` until it ends; notices go above the live line."""

    def __init__(self, counters: Counters, *, quiet: bool = False) -> None:
        self._counters = counters
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        counters.notice = self._notice

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self._quiet:
            self._thread.join()
        if self._live:
            sys.stderr.write("\r\x1b[2K")

    def _show(self) -> None:
        told, phase = time.monotonic(), ""
        while not self._ended.wait(_LIVE_SECONDS):
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write(f"\r\x1b[2K{safe(progress_line(self._counters))[:width]}")
                sys.stderr.flush()
            elif self._counters.phase != phase or time.monotonic() - told >= _PLAIN_SECONDS:
                told, phase = time.monotonic(), self._counters.phase
                tell(progress_line(self._counters))

    def _notice(self, text: str) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[2K")
        tell(text)


def progress_line(counters: Counters) -> str:
    """`generating  120/400 items  30%  …  12.3/s  0:02:10 left`."""
    c = counters
    if not c.items_total:
        return c.phase
    done = c.items_done
    if not (done or c.in_flight or c.replies):
        return f"{c.phase}  {c.items_total:,} items to go"
    parts = [f"{c.phase}  {done:,}/{c.items_total:,} items  {done / c.items_total:.0%}"]
    if c.pairs:
        parts.append(f"{c.pairs:,} pairs")
    if c.unusable:
        parts.append(f"{c.unusable:,} unusable")
    if c.kept + c.dropped:
        parts.append(f"{c.kept / (c.kept + c.dropped):.0%} kept")
    if c.in_flight:
        parts.append(f"{c.in_flight} in flight")
    if c.rate:
        parts.append(f"{c.rate:.1f}/s")
    if c.completion_tokens and c.seconds:
        parts.append(f"{(c.prompt_tokens + c.completion_tokens) / c.seconds:,.0f} tokens/s")
    if c.seconds_left is not None and done < c.items_total:
        parts.append(f"{clock(c.seconds_left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """`0:02:10`, or `3d 4:05:06`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"
