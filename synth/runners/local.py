"""One process, one event loop: shards stream through generation while finished ones are scored and sorted.

Any number of processes may do this in one folder: a shard is claimed before it is worked on, and whoever finds nothing
more to claim leaves. What needs all shards, the last one to leave does.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from synth.errors import Stopped, SynthError
from synth.run_folder import Run
from synth.runners.counters import Counters
from synth.runners.finishing import Finishing
from synth.runners.generation import Generation
from synth.runners.models import Models
from synth.runners.plan import Share, count_items
from synth.runners.scoring import Scoring
from synth.runners.views import fill
from synth.stage import Services
from synth.steps import keep, score, views

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
        if not set(views.ready(folder, view.scores)).issuperset(done):
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
