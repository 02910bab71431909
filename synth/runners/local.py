"""One process, one event loop: shards stream through generation while finished ones are scored and sorted.

Any number of processes may do this in one folder: a shard is claimed before it is worked on, and whoever finds nothing
more to claim leaves. What needs all shards, the last one to leave does.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from synth.errors import Stopped, SynthError
from synth.run.run import Run
from synth.runners.generation import Generation
from synth.runners.models import Models
from synth.runners.progress import Counters, Share, count_items
from synth.shards import StepFolder
from synth.stage import ClientSettings, Services
from synth.steps import keep, score
from synth.steps.keep import View, fill
from synth.steps.score import ScoreStep


class Scoring:
    """The score steps of one run; `open` comes before the first shard."""

    def __init__(self, run: Run, steps: Sequence[ScoreStep]) -> None:
        self._run = run
        self._steps = steps
        self._services: dict[str, Services] = {}

    @property
    def whole(self) -> bool:
        """Whether a scorer has to wait until all shards are generated."""
        return any(step.scorer.scope == "pass" for step in self._steps)

    @property
    def asks(self) -> bool:
        """Whether a scorer asks a model whose answers are remembered."""
        return any(step.remembers for step in self._steps)

    @property
    def ready(self) -> bool:
        """Whether `open` was called."""
        return len(self._services) == len(self._steps)

    def wants(self, service: str) -> bool:
        """Whether a scorer needs this one of the job's own models."""
        return any(service in step.scorer.needs - step.scorer.brings for step in self._steps)

    async def open(self, stack: AsyncExitStack, services: Services, client: ClientSettings) -> None:
        """Open the models that scorers bring; `stack` closes them."""
        for step in self._steps:
            models: dict[str, Any] = dict(step.scorer.open(client, self._run.job.instruction))
            for model in models.values():
                stack.push_async_callback(model.close)
            self._services[step.name] = replace(services, **models)

    async def shard(self, index: int) -> bool:
        """Score one generated shard by every scorer that needs no other; False when another process is at it."""
        for step in self._steps:
            if step.scorer.scope == "shard" and not await score.score(
                self._run, step, index, self._services[step.name]
            ):
                return False
        return True

    def lacks(self, shards: Sequence[int]) -> bool:
        """Whether a scorer that looks at the whole pass has not scored all of these shards."""
        whole = [step for step in self._steps if step.scorer.scope == "pass"]
        return any(not step.folder(self._run.folder).done().issuperset(shards) for step in whole)

    async def all_shards(self, shards: Sequence[int], stop: Callable[[], bool], counters: Counters) -> None:
        """Score all shards by the scorers that look at the whole pass; returns early when asked to stop."""
        for step in self._steps:
            if step.scorer.scope == "shard" or stop():
                continue
            counters.phase = f"scoring by {step.scorer.name}"
            services = self._services[step.name]
            found = await score.build(self._run, step.scorer, step.fingerprint, services)
            for index in shards:
                if stop():
                    return
                await score.score(self._run, step, index, services, found)


AT_ONCE = 2
"""Shards scored and sorted at once; more would only queue at the embedder."""


class Finishing:
    """Scores generated shards and applies the rules of the default view."""

    def __init__(self, run: Run, scores: Sequence[ScoreStep], scoring: Scoring, counters: Counters) -> None:
        self.view: View = keep.default_view(run, scores)
        self._run = run
        self._generated = run.folder.step("generated")
        self._scores = [step.folder(run.folder) for step in scores if step.scorer.scope == "shard"]
        self._scoring = scoring
        self._counters = counters
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def shards(self) -> StepFolder:
        """Where the view's shards are, or will be."""
        return self.view.folder(self._run.folder)

    @property
    def late(self) -> bool:
        """Whether rules have to wait until all shards are scored."""
        return bool(self.view.rules.unique) or self._scoring.whole

    def behind(self, generated: set[int]) -> list[int]:
        """Generated shards that are still to be scored and sorted, in order; from one listing a step."""
        complete = set(generated) if self.late else self.shards.done()
        for step in self._scores:
            complete &= step.done()
        return sorted(generated - complete)

    async def shard(self, index: int, stop: asyncio.Event) -> None:
        """Score a generated shard and apply the rules, unless another process is at it or has done it."""
        async with self._room:
            if stop.is_set() or index in self._counters.avoid:
                return
            self._counters.at(index, True)
            self._clear(index)
            claim = self.shards.claim(index)
            if claim is not None:
                try:
                    if await self._scoring.shard(index) and not self.late:
                        self._counters.shard_done(*await asyncio.to_thread(keep.keep, self._run, self.view, index))
                    if self._run.pairs:
                        self._counters.pairs += self._generated.meta(index).rows_out
                    claim.drop()
                finally:
                    claim.close()
            self._counters.at(index, False)

    def _clear(self, index: int) -> None:
        """Remove what was made from other bytes than those that are there, or will be made of them."""
        checksum = self._generated.checksum(index)
        there = [step for step in self._scores if step.file(index).exists()]
        stale = [step for step in there if step.stale(index, checksum)]
        if (stale or len(there) < len(self._scores)) and self.shards.file(index).exists():
            self.shards.discard(index)
        for step in stale:
            self._counters.notice(f"{step.file(index)}: was made from other pairs than there are now; made anew")
            step.discard(index)


DRAIN_SECONDS = 28.0
"""How long requests in flight may go on after a stop was asked for: with what follows, less than 30 s."""
_GRACE_SECONDS = 2.0
"""The same where no request is in flight: what an embedder of this process computes is in no journal anyway."""
_LOOK_SECONDS = 0.2
_YOUNG = (50_000, 20, 20)
"""New objects before the garbage collector looks: records hold no cycles, and few calls leave one."""
_WHOLE = "whole"
"""Names the claim of what needs all shards; there is no step of this name."""


@dataclass(slots=True)
class StopRequest:
    """Set once when the run shall drain; `interrupted` when it was Ctrl-C."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: bool = False
    leave: Callable[[], None] = lambda: None
    """To be called before the process leaves without waiting for anything."""

    def __call__(self) -> bool:
        return self.event.is_set()

    def ask(self, *, interrupted: bool = False) -> None:
        """Let what is in flight end, and begin nothing more."""
        self.interrupted = self.interrupted or interrupted
        self.event.set()


async def work(run: Run, shards: int, counters: Counters, stop: StopRequest, share: Share | None = None) -> None:
    """Bring all `shards` of a run to `kept/`, resuming whatever is there; those of `share` first.

    Raises Stopped when asked to stop before that or when other processes are at the rest, and what servers and disks
    raise when they end a run.
    """
    gc.freeze()  # imported modules stay: to look through them again and again took a twelfth of a run
    gc.set_threshold(*_YOUNG)
    local = _Local(run, shards, counters, stop, share or Share())
    main = asyncio.create_task(local.all())
    watcher = asyncio.create_task(stop.event.wait())
    await asyncio.wait({main, watcher}, return_when=asyncio.FIRST_COMPLETED)
    begun = time.monotonic()
    while not main.done() and time.monotonic() - begun < (DRAIN_SECONDS if local.in_flight else _GRACE_SECONDS):
        await asyncio.wait({main}, timeout=_LOOK_SECONDS)
    main.cancel()
    watcher.cancel()
    try:
        await main
    except asyncio.CancelledError:
        if not stop():
            raise
    if not finished(run, shards):
        raise unfinished(stop)


def finished(run: Run, shards: int) -> bool:
    """Whether the default view holds every shard, under the run's rules."""
    view = keep.default_view(run, score.steps_of(run))
    return not view.hidden and len(view.folder(run.folder).done()) >= shards


def unfinished(stop: StopRequest) -> Stopped:
    """Why a process leaves before the end."""
    what = "stopped before the end; every finished call is saved." if stop() else "another process is at the rest."
    return Stopped(what, interrupted=stop.interrupted)


async def threads_ended(seconds: float = 1.0) -> bool:
    """Whether the threads of this event loop end within so long; no other can be begun afterwards."""
    ending = asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor())
    return bool((await asyncio.wait({ending}, timeout=seconds))[0])


class _Local:
    """State of one `work` call."""

    def __init__(self, run: Run, shards: int, counters: Counters, stop: StopRequest, share: Share) -> None:
        self.run = run
        self.shards = shards
        self.counters = counters
        self.stop = stop
        self.share = share
        self.generated = run.folder.step("generated")
        self.scores = score.steps_of(run)
        self.scoring = Scoring(run, self.scores)
        self.finishing = Finishing(run, self.scores, self.scoring, counters)
        self.tasks = asyncio.TaskGroup()

    @property
    def in_flight(self) -> bool:
        """Whether answers that are worth waiting for may be on their way."""
        return self.counters.in_flight > 0 or self.scoring.asks

    async def all(self) -> None:
        """Rounds, until one finds nothing to do: another process may have died and left its shards."""
        for step in (self.generated, *(each.folder(self.run.folder) for each in self.scores), self.finishing.shards):
            step.settle()
        self._count()
        async with AsyncExitStack() as stack:
            client = self.run.job.client(self.counters.notice)
            models = Models(client, self.run.job.instruction, self.counters, stack)
            generation = Generation(self.run, models, self.counters, self.stop.event, self._finish)
            stack.callback(generation.close)
            while not self.stop() and await self._round(models, generation, stack):
                pass
            if not self.stop():
                await self._whole(models, stack)

    async def _round(self, models: Models, generation: Generation, stack: AsyncExitStack) -> bool:
        """Do what is there to do and nobody else does; False when that was nothing."""
        done = self.generated.done()
        todo = self.share.order([n for n in range(self.shards) if n not in done], set(self.generated.started()))
        behind = self.share.order(self.finishing.behind(done & set(range(self.shards))))
        if not todo and not behind:
            return False
        before = state(self.run)
        if self.run.pairs:
            self.counters.phase = "scoring"
        await self._open_scorers(models, stack)
        try:
            async with self.tasks:
                for index in behind:
                    self._finish(index)
                if todo:
                    await generation.all(todo, self.tasks)
        except* SynthError as group:
            raise _first(group) from None
        finally:
            generation.close()
            self.tasks = asyncio.TaskGroup()
        return before != state(self.run)

    async def _open_scorers(self, models: Models, stack: AsyncExitStack) -> None:
        """Open the models that the scorers need, and no others."""
        if self.scoring.ready:
            return
        job = self.run.job
        chat = models.chat(job) if self.scoring.wants("chat") else None
        encoder = models.encoder(job) if self.scoring.wants("encoder") else None
        await self.scoring.open(stack, Services(chat=chat, encoder=encoder), models.client)

    def _finish(self, index: int) -> None:
        self.tasks.create_task(self.finishing.shard(index, self.stop.event))

    async def _whole(self, models: Models, stack: AsyncExitStack) -> None:
        """What has to wait until all shards are there: scorers and rules that look at all of them, and the swap.

        One process does it; for the others it is done, or somebody is at it.
        """
        if not (self.finishing.late or self.finishing.view.hidden):
            return
        if len(done := sorted(self.generated.done())) < self.shards:
            return
        claim = self.run.folder.step(_WHOLE).claim(0)
        if claim is None:
            return
        try:
            if self.scoring.lacks(done):
                await self._open_scorers(models, stack)
                await self.scoring.all_shards(done, self.stop, self.counters)
            if not self.stop():
                await self._settle_view(done)
            claim.drop()
        finally:
            claim.close()

    async def _settle_view(self, done: list[int]) -> None:
        folder = self.run.folder
        view = keep.default_view(self.run, self.scores)  # it may have been swapped in since
        if not set(keep.ready(folder, view.scores)).issuperset(done):
            return
        if self.finishing.late:
            await asyncio.to_thread(fill, folder, view, progress=self.counters.shard_done)
        if view.hidden and view.folder(folder).done().issuperset(done):
            folder.swap_view(view.hidden, view.name)

    def _count(self) -> None:
        done = self.generated.done()
        if self.run.pairs:
            done -= set(self.finishing.behind(done))
        count_items(self.run, self.counters, done)


def state(run: Run) -> tuple[int, ...]:
    """How many shards each step has: tells whether a round of work has got anywhere."""
    steps = score.steps_of(run)
    folders = [run.folder.step("generated"), *(each.folder(run.folder) for each in steps)]
    return tuple(len(each.done()) for each in [*folders, keep.default_view(run, steps).folder(run.folder)])


def _first(group: BaseExceptionGroup[SynthError]) -> SynthError:
    """The error that ends the run: the most telling of those that came together."""
    errors: list[SynthError] = []
    pending: list[BaseException] = [group]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
        elif isinstance(each, SynthError):
            errors.append(each)
    return min(errors, key=lambda error: error.exit_code)
