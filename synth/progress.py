"""How far a run is: bars where somebody watches (a terminal, a notebook), plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from synth.runners.progress import Phase, Snapshot
from synth.terminal import safe, tell

_REFRESH = 4
_PLAIN_SECONDS = 5.0
_SILENT_SECONDS = 60.0
"""Without any change a plain line comes this often, so that a log shows that the process lives."""


class Display:
    """A context that shows what `look` returns, until it ends; lines that are printed meanwhile go above the bars."""

    def __init__(self, look: Callable[[], Snapshot], *, quiet: bool = False, console: Console | None = None) -> None:
        self._look = look
        self._quiet = quiet
        self._console = console or terminal()
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._quiet:
            return self
        if self._console.is_jupyter or (self._console.is_terminal and not self._console.is_dumb_terminal):
            self._live = Live(
                get_renderable=lambda: bars(self._look()),
                console=self._console,
                refresh_per_second=_REFRESH,
                transient=True,
            )
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()

    def _print_lines(self) -> None:
        last, printed = Snapshot(), time.monotonic()
        while not self._ended.wait(_PLAIN_SECONDS):
            now = self._look()
            silent, same = time.monotonic() - printed, now.counts() == last.counts()
            if same and silent < _SILENT_SECONDS:
                continue
            waiting = f"; no change for {silent:.0f} s" if same else ""
            last, printed = now, time.monotonic()
            if text := line(now):
                tell(text + waiting)


class _Terminal(Console):
    """Leaves the cursor alone: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: FBT001, FBT002 - rich's signature
        del show
        return False


def terminal() -> Console:
    """Standard error, where progress goes."""
    return _Terminal(file=sys.stderr, highlight=False)


def bars(snapshot: Snapshot) -> RenderableType:
    """A bar for each phase, and the figures below them."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, min_width=8)
    for _ in range(4):
        grid.add_column(justify="right", no_wrap=True)
    left = {name: clock(seconds) for name, seconds in snapshot.seconds_left.items()}
    for phase in snapshot.phases:
        share = phase.share
        grid.add_row(
            Text(safe(phase.name)),
            ProgressBar(
                total=phase.total,
                completed=phase.done,
                pulse=phase.total is None and not phase.finished,
                style="dim",
                complete_style="green",
                finished_style="green",
                pulse_style="green",
            ),
            "" if share is None else f"{share:.0%}",
            _count(phase),
            f"{phase.rate:,.1f}/s" if phase.rate else "",
            left.get(phase.name, ""),
        )
    return Group(grid, Text(safe("  ".join(snapshot.figures)))) if snapshot.figures else grid


def line(snapshot: Snapshot) -> str:
    """The same in one line, of the phases that are at work."""
    parts = []
    left = {name: f", {clock(seconds)} left" for name, seconds in snapshot.seconds_left.items()}
    for phase in (each for each in snapshot.phases if not each.finished):
        share = "" if phase.share is None else f" {phase.share:.0%}"
        parts.append(f"{phase.name} {_count(phase)}{share}{left.get(phase.name, '')}")
    return "; ".join([*parts, *snapshot.figures]) if parts else ""


def _count(phase: Phase) -> str:
    of = "" if phase.total is None else f"/{phase.total:,}"
    return f"{phase.done:,}{of} {phase.unit}"


def clock(seconds: float) -> str:
    """`0:02:10`, or `3d 4:05:06`."""
    return re.sub(" days?, ", "d ", str(timedelta(seconds=round(seconds))))
