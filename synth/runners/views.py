"""Fills a view shard by shard, several at a time where there is enough to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from synth.shards import OutputFolder
from synth.steps.keep import View, beaten, keep_shard
from synth.steps.views import ready

_ENOUGH_SHARDS = 3
_MOST_WORKERS = 8
_WAITING = 2
"""Threads for every processor: a shard waits for the disk a third of its time, reading and writing hold no lock."""


def fill(
    folder: OutputFolder,
    view: View,
    shards: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _kept, _dropped: None,
) -> None:
    """Apply a view's rules to `shards` (by default all that are scored) unless that is done.

    `progress` is called with each shard's (kept, dropped).

    `workers`: processors to use; by default all, at most 8. Killed at any moment it leaves whole shards, and the same
    call makes the rest. Raises what `keep_shard` raises.
    """
    done = view.folder(folder).done()
    shards = [index for index in (ready(folder, view.scores) if shards is None else shards) if index not in done]
    if not shards:
        return
    view.write_record(folder)
    losers = beaten(folder, view)
    threads = _WAITING * (workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS))
    if len(shards) < _ENOUGH_SHARDS:
        threads = 1
    pool = ThreadPoolExecutor(min(threads, len(shards)), thread_name_prefix="view")
    try:
        for counts in pool.map(lambda index: keep_shard(folder, view, index, losers.get(index)), shards):
            progress(*counts)
    finally:
        pool.shutdown(cancel_futures=True)


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
