"""Generation in one process: shards stream through a fixed number of askers, one for each request in flight.

The next shard is opened before the last runs dry, so nothing waits at shard ends and memory holds a few shards,
not the run. A shard that was begun under an earlier revision is finished under it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from synth.errors import OutputError, Stopped
from synth.personas import encode_library
from synth.runners.models import MeteredChat, Models
from synth.runners.progress import Counters
from synth.runs.run import OpenRun
from synth.shards import Journal
from synth.stage import Encoder
from synth.steps import generate
from synth.steps.generate import JournaledChat, OpenShard
from synth.steps.keep import clear_views
from synth.tasks import Writer


@dataclass(frozen=True, slots=True)
class _Revision:
    """What makes a shard under one revision: templates, models and personas."""

    run: OpenRun
    chat: MeteredChat
    writer: Writer
    encoder: Encoder | None
    personas: Any


class Generation:
    """Generates shards; `committed` is called with the index of each. One object serves a whole `work` call."""

    def __init__(
        self, run: OpenRun, models: Models, counters: Counters, stop: asyncio.Event, committed: Callable[[int], None]
    ) -> None:
        self._run = run
        self._models = models
        self._counters = counters
        self._stop = stop
        self._committed = committed
        self._open: dict[int, OpenShard] = {}
        self._revisions: dict[int, _Revision] = {}
        self._room = asyncio.Semaphore()
        self._generated = run.folder.step("generated")

    async def all(self, order: Sequence[int], tasks: asyncio.TaskGroup) -> None:
        """Generate the shards of `order` that nobody else has; returns when their last passage was handed out."""
        now = await self._revision(self._run.revision)
        self._counters.phase = "generating"
        slots = now.chat.slots
        queue: asyncio.Queue[tuple[OpenShard, int] | None] = asyncio.Queue(maxsize=slots)
        self._room = asyncio.Semaphore(2 + slots // self._run.job.run.shard_size)
        askers = [tasks.create_task(self._ask(queue)) for _ in range(slots)]
        tasks.create_task(now.chat.watch(askers, self._run.job.limits.stall))
        await self._feed(order, queue)
        for _ in range(slots):
            await queue.put(None)

    def close(self) -> None:
        """Release open shards; their finished calls stay in the journals for the next process."""
        for shard in self._open.values():
            shard.journal.close()
        self._open.clear()

    async def _revision(self, number: int) -> _Revision:
        """Templates, models and personas of a revision, opened once. Raises OutputError when they are gone."""
        if number not in self._revisions:
            run = self._run.at(number)
            encoder = self._models.encoder(run.job) if run.library is not None else None
            personas = None
            if run.library is not None and encoder is not None and run.job.embed is not None:
                self._counters.phase = "encoding personas"
                model = json.dumps(run.job.embed.identity(), sort_keys=True)
                personas = await encode_library(run.library, encoder, model)
                self._counters.phase = "generating"
            self._revisions[number] = _Revision(run, self._models.chat(run.job), run.writer(), encoder, personas)
        return self._revisions[number]

    async def _feed(self, order: Sequence[int], queue: asyncio.Queue[Any]) -> None:
        """Hand out the passages of one shard after the other.

        The next shard is opened while this one is handed out; `self._room` bounds how many are open at once.
        """
        upcoming = asyncio.create_task(self._opened(order[0]))
        try:
            for following in [*order[1:], None]:
                shard = await upcoming
                if following is not None and not self._stop.is_set():
                    upcoming = asyncio.create_task(self._opened(following))
                if self._stop.is_set():
                    return
                if shard is not None and shard.complete:
                    self._commit(shard)
                for n in shard.waiting if shard else ():
                    await queue.put((shard, n))
        finally:
            upcoming.cancel()

    async def _opened(self, index: int) -> OpenShard | None:
        await self._room.acquire()
        if self._stop.is_set():
            return None
        shard = None
        if index not in self._counters.avoid and not self._generated.file(index).exists():
            self._counters.at(index, True)
            shard = await self._claimed(index)
            if shard is None:
                self._counters.at(index, False)
        if shard is None:
            self._room.release()
            return None
        self._open[index] = shard
        for outcomes in shard.outcomes.values():
            self._counters.passage_done(outcomes)
        return shard

    async def _claimed(self, index: int) -> OpenShard | None:
        claimed = generate.claim(self._run, index)
        if claimed is None:
            return None
        journal, number = claimed
        try:
            under = await self._begun_under(number, index, journal)
        except BaseException:
            journal.close()
            raise
        return await generate.open_shard(under.run, index, journal, under.encoder, under.personas)

    async def _begun_under(self, number: int, index: int, journal: Journal) -> _Revision:
        """The revision that a shard was begun under; where that is gone, the current one."""
        try:
            return await self._revision(number)
        except OutputError as exc:
            self._counters.notice(f"shard {index:08d}: starts again under revision {self._run.revision}: {exc}")
            generate.begin(journal, self._run.revision)
            return await self._revision(self._run.revision)

    async def _ask(self, queue: asyncio.Queue[tuple[OpenShard, int] | None]) -> None:
        """One of the askers: takes a passage at a time, with all its slots, until the queue ends."""
        while (work := await queue.get()) is not None:
            shard, n = work
            under = self._revisions[shard.run.revision]
            journaled = JournaledChat(under.chat, shard.journal, self._stop.is_set)
            asked = shard.asked[n]
            try:
                outcomes = await under.writer.write(shard.candidates[n], journaled, asked.slots, asked.before)
                self._counters.passage_done(outcomes)
            except Stopped:
                self._room.release()  # the shard stays open; the task that waits for room has to see the stop
                continue
            shard.outcomes[n] = outcomes
            if shard.complete:
                self._commit(shard)

    def _commit(self, shard: OpenShard) -> None:
        """Write a complete shard and have it scored."""
        clear_views(self._run.folder, shard.index)
        generate.commit(shard)
        del self._open[shard.index]
        self._room.release()
        self._committed(shard.index)
