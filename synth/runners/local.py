"""One process, one event loop: shards stream through generation while finished ones are scored and filtered.

Any number of processes may do this in one folder. A process claims a shard before it works on it and leaves when it
finds nothing more to claim; the last one to leave does what needs all shards.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field

from synth.errors import Stopped, SynthError
from synth.runners.generation import Generation, Models
from synth.runners.progress import Counters, Share, count_items
from synth.runs.run import OpenRun
from synth.shards import StepFolder
from synth.stage import Services
from synth.steps import keep, score
from synth.steps.keep import View

AT_ONCE = 2
"""Shards scored and filtered at once; more would only queue at the embedder."""


class ScoreAndKeep:
    """Scores generated shards and applies the rules of the default view; call `open` before the first shard."""

    def __init__(self, run: OpenRun, counters: Counters) -> None:
        self._run, self._counters = run, counters
        self.steps = score.steps_of(run)
        self.view: View = keep.default_view(run, self.steps)
        self.shards: StepFolder = self.view.folder(run.folder)
        self._generated = run.folder.step("generated")
        self._per_shard = [step for step in self.steps if step.per_shard]
        self.per_pass = [step for step in self.steps if not step.per_shard]
        self.late = bool(self.view.rules.unique or self.per_pass)
        """Whether the rules can only be applied when all shards are there."""
        self._folders = [step.folder(run.folder) for step in self._per_shard]
        self._services: dict[str, Services] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def open(self, models: Models) -> None:
        """Open the models that the scorers need, once."""
        job = self._run.job
        for step in self.steps[len(self._services) :]:
            own = step.scorer.open(models.client, job.instruction)
            self._services[step.name] = models.services(job, step.scorer.needs, own)

    def behind(self, generated: set[int]) -> list[int]:
        """Generated shards that are still to be scored and filtered, in order; from one listing a step."""
        complete = set(generated) if self.late else self.shards.done()
        for folder in self._folders:
            complete &= folder.done()
        return sorted(generated - complete)

    async def shard(self, index: int, stop: asyncio.Event) -> None:
        """Score a generated shard and apply the rules, unless another process does it or has done it."""
        async with self._room:
            if stop.is_set() or index in self._counters.avoid:
                return
            self._counters.at(index, True)
            self._discard_stale(index)
            if (claim := self.shards.claim(index)) is not None:
                with closing(claim):
                    await self._score_and_keep(index)
                    pairs = self._generated.meta(index).rows_out
                    self._counters.scored += pairs
                    self._counters.pairs += pairs if self._run.pairs else 0
                    claim.drop()
            self._counters.at(index, False)

    async def _score_and_keep(self, index: int) -> None:
        """The shard is decoded once: scorers and rules get the same table."""
        todo, opened = self._todo(self._per_shard, index), None
        if todo:
            opened = await asyncio.to_thread(score.open_shard, self._run, index, todo, whole=not self.late)
            for step in todo:
                if not await score.score(self._run, step, opened, self._services[step.name]):
                    return
        if not self.late:
            counts = await asyncio.to_thread(keep.keep_shard, self._run.folder, self.view, index, opened=opened)
            self._counters.shard_done(*counts)

    def _todo(self, steps: Sequence[score.ScoreStep], index: int) -> list[score.ScoreStep]:
        return [step for step in steps if not step.folder(self._run.folder).file(index).exists()]

    async def whole_pass(self, shards: Sequence[int], stop: Callable[[], bool]) -> None:
        """Score these shards, which are all, by the scorers that look at the whole pass; returns early when stopped."""
        found = {}
        for step in self.per_pass:
            if stop():
                return
            self._counters.phase = f"scoring by {step.scorer.name}"
            done = len(step.folder(self._run.folder).done().intersection(shards))
            self._counters.passes[step.scorer.name] = (done, len(shards))
            found[step.name] = await score.build(self._run, step, self._services[step.name])
        for index in shards:
            if not (todo := self._todo(self.per_pass, index)):
                continue
            opened = await asyncio.to_thread(score.open_shard, self._run, index, todo, whole=False)
            for step in todo:
                if stop():
                    return
                await score.score(self._run, step, opened, self._services[step.name], found[step.name])
                done, total = self._counters.passes[step.scorer.name]
                self._counters.passes[step.scorer.name] = (done + 1, total)

    def _discard_stale(self, index: int) -> None:
        """Remove what was made from other bytes than the shard has now, or will be made again."""
        checksum = self._generated.checksum(index)
        there = [folder for folder in self._folders if folder.file(index).exists()]
        stale = [folder for folder in there if folder.stale(index, checksum)]
        if (stale or len(there) < len(self._folders)) and self.shards.file(index).exists():
            self.shards.discard(index)
        for folder in stale:
            self._counters.notice(f"{folder.file(index)}: was made from other pairs than there are now; made anew")
            folder.discard(index)


DRAIN_SECONDS = 28.0
"""How long requests in flight may go on after a stop was asked for: with what follows, less than 30 s."""
_GRACE_SECONDS = 2.0
"""The same where no request is in flight: what an embedder of this process computes is in no journal anyway."""
_LOOK_SECONDS = 0.2
_WHOLE = "whole"
"""Name of the claim of what needs all shards; no step has it."""


@dataclass(slots=True)
class StopRequest:
    """Set once when the run has to drain; `interrupted` after Ctrl-C."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: bool = False
    why: Stopped | None = None
    """The error to end with, where nobody asked from outside: then requests in flight may take their time."""
    leave: Callable[[], None] = lambda: None
    """Called before the process leaves without waiting for anything."""

    def __call__(self) -> bool:
        return self.event.is_set()

    def ask(self, *, interrupted: bool = False, why: Stopped | None = None) -> None:
        """Drain; the first reason counts."""
        self.interrupted = self.interrupted or interrupted
        self.why = self.why or why
        self.event.set()


async def work(run: OpenRun, shards: int, counters: Counters, stop: StopRequest, share: Share | None = None) -> None:
    """Bring all `shards` of a run to `kept/`, resuming whatever is there; those of `share` first.

    Raises Stopped when asked to stop before that or when other processes work on the rest, and what servers and disks
    raise when they end a run.
    """
    local = _Local(run, shards, counters, stop, share or Share())
    main = asyncio.create_task(local.all())
    watcher = asyncio.create_task(stop.event.wait())
    await asyncio.wait({main, watcher}, return_when=asyncio.FIRST_COMPLETED)
    begun, journaled = time.monotonic(), any(step.journaled for step in local.score_and_keep.steps)
    while not main.done() and time.monotonic() - begun < (
        math.inf
        if stop.why and counters.in_flight
        else DRAIN_SECONDS
        if counters.in_flight or journaled
        else _GRACE_SECONDS
    ):
        await asyncio.wait({main}, timeout=_LOOK_SECONDS)
    main.cancel()
    watcher.cancel()
    try:
        await main
    except (asyncio.CancelledError, Stopped):
        if not stop():
            raise
    if not finished(run, shards):
        raise unfinished(stop)


def finished(run: OpenRun, shards: int) -> bool:
    view = keep.default_view(run, score.steps_of(run))
    return not view.hidden and len(view.folder(run.folder).done()) >= shards


def unfinished(stop: StopRequest) -> Stopped:
    """Why a process ends before the run does."""
    if stop.why is not None:
        return stop.why
    others = "another process is still working on the remaining shards."
    what = "stopped before the end; every finished call is saved." if stop() else others
    found = Stopped(what, interrupted=stop.interrupted)
    found.elsewhere = not stop()
    return found


async def threads_ended(seconds: float = 1.0) -> bool:
    """Whether the threads of this event loop end within so many seconds; it starts no other afterwards."""
    ending = asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor())
    return bool((await asyncio.wait({ending}, timeout=seconds))[0])


class _Local:
    def __init__(self, run: OpenRun, shards: int, counters: Counters, stop: StopRequest, share: Share) -> None:
        self.run, self.shards, self.counters, self.stop, self.share = run, shards, counters, stop, share
        self.generated = run.folder.step("generated")
        self.score_and_keep = ScoreAndKeep(run, counters)
        self.tasks = asyncio.TaskGroup()

    async def all(self) -> None:
        """Rounds, until one finds nothing to do: another process may have died and left its shards."""
        scores = (each.folder(self.run.folder) for each in self.score_and_keep.steps)
        for step in (self.generated, *scores, self.score_and_keep.shards):
            step.settle()
        done = self.generated.done()
        scored = done - set(self.score_and_keep.behind(done))
        count_items(self.run, self.counters, scored if self.run.pairs else done, scored)
        async with AsyncExitStack() as stack:
            client = self.run.job.client(self.counters.notice, self.stop)
            models = Models(client, self.run.job.instruction, self.counters, stack)
            generation = Generation(self.run, models, self.counters, self.stop.event, self._finish)
            stack.callback(generation.close)
            while not self.stop() and await self._round(models, generation):
                pass
            if not self.stop():
                await self._whole(models)

    async def _round(self, models: Models, generation: Generation) -> bool:
        done = self.generated.done()
        todo = self.share.order([n for n in range(self.shards) if n not in done], set(self.generated.started()))
        behind = self.share.order(self.score_and_keep.behind(done & set(range(self.shards))))
        if not todo and not behind:
            return False
        before = state(self.run)
        if self.run.pairs:
            self.counters.phase = "scoring"
        self.score_and_keep.open(models)
        try:
            async with self.tasks:
                for index in behind:
                    self._finish(index)
                if todo:
                    await generation.all(todo, self.tasks)
        except* SynthError as group:
            # of several errors, the one of the lowest exit code
            raise min(_errors(group), key=lambda error: error.exit_code) from None
        finally:
            generation.close()
            self.tasks = asyncio.TaskGroup()
        return before != state(self.run)

    def _finish(self, index: int) -> None:
        self.tasks.create_task(self.score_and_keep.shard(index, self.stop.event))

    async def _whole(self, models: Models) -> None:
        """What has to wait until all shards are there: scorers and rules that look at all of them, and the swap.

        One process does it; for the others it is done, or in progress.
        """
        final = self.score_and_keep
        if not (final.late or final.view.hidden) or len(done := sorted(self.generated.done())) < self.shards:
            return
        if (claim := self.run.folder.step(_WHOLE).claim(0)) is None:
            return
        with closing(claim):
            if any(not step.folder(self.run.folder).done().issuperset(done) for step in final.per_pass):
                final.open(models)
                await final.whole_pass(done, self.stop)
            folder = self.run.folder
            view = keep.default_view(self.run, final.steps)  # it may have been swapped in since
            ready = keep.ready(folder, view.scores)
            if not self.stop() and set(ready).issuperset(done):
                if final.late:
                    self.counters.phase = "applying the rules"
                    await asyncio.to_thread(keep.fill, folder, view, ready, progress=self.counters.shard_done)
                if view.hidden and view.folder(folder).done().issuperset(done):
                    folder.swap_view(view.hidden, view.name)
            claim.drop()


def state(run: OpenRun) -> tuple[int, ...]:
    """How many shards each step has: shows whether a round of work changed anything."""
    steps = score.steps_of(run)
    folders = [run.folder.step("generated"), *(each.folder(run.folder) for each in steps)]
    return tuple(len(each.done()) for each in [*folders, keep.default_view(run, steps).folder(run.folder)])


def _errors(group: BaseExceptionGroup[SynthError]) -> Iterator[SynthError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _errors(each)
        else:
            yield each
