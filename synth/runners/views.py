"""Fills a view shard by shard, in several processes where there is enough to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

from synth.rules import Mask
from synth.shards import OutputFolder
from synth.steps.keep import View, beaten, keep_shard
from synth.steps.views import ready
from synth.terminal import tell

_ENOUGH_ROWS = 200_000
"""From here on a second process is worth the second that it takes to start."""
_MOST_WORKERS = 8


def fill(
    folder: OutputFolder,
    view: View,
    shards: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _kept, _dropped: None,
) -> None:
    """Apply a view's rules to `shards` (by default all that are scored) unless that is done.

    `progress` is called with each shard's (kept, dropped).

    `workers`: processes; by default as many as there are processors once there are rows enough. Killed at any moment it
    leaves whole shards, and the same call makes the rest. Raises what `keep_shard` raises.
    """
    done = view.folder(folder).done()
    shards = [index for index in (ready(folder, view.scores) if shards is None else shards) if index not in done]
    if not shards:
        return
    view.write_record(folder)
    losers = beaten(folder, view)
    rows = folder.step("generated").meta(shards[0]).rows_out * len(shards)
    chosen = workers or (min(len(os.sched_getaffinity(0)), _MOST_WORKERS) if rows >= _ENOUGH_ROWS else 1)
    if min(chosen, len(shards)) == 1:
        for index in shards:
            progress(*keep_shard(folder, view, index, losers.get(index)))
        return
    work = partial(_one, folder.path, view)
    pool = ProcessPoolExecutor(
        min(chosen, len(shards)),
        mp_context=multiprocessing.get_context("spawn"),  # a fork would inherit Arrow's threads half-way
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is the parent's; it starts nothing new then
    )
    try:
        for counts in pool.map(work, shards, [losers.get(index) for index in shards]):
            progress(*counts)
    finally:
        pool.shutdown(cancel_futures=True)


def _one(path: Path, view: View, index: int, losers: Mask | None) -> tuple[int, int]:
    return keep_shard(_opened(path), view, index, losers)


@cache
def _opened(path: Path) -> OutputFolder:
    """Opened once a process, so that each folder is made sure of once and not with every shard."""
    return OutputFolder.open(path, notify=tell)


def carry_out(folder: OutputFolder, view: View, shards: Sequence[int], workers: int | None = None) -> int:
    """Bring the view to hold `shards`, and swap it in where it was built aside; returns how many shards that took.

    Killed anywhere, the same call goes on where it was. Raises what `keep_shard` and `swap_view` raise.
    """
    step = view.folder(folder)
    step.settle()
    todo = [index for index in shards if index not in step.done()]
    fill(folder, view, todo, workers)
    if view.hidden:
        folder.swap_view(view.hidden, view.name)
    folder.step(view.name).settle()
    return len(todo)
