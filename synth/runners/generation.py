"""Generation in one process: shards stream through a fixed number of askers, one for each request in flight.

The next shard is opened before the last runs dry, so nothing waits at shard ends and memory holds a few shards,
not the run. A shard that was begun under an earlier revision is finished under it. Each model is opened when it is
first needed, once for all revisions that name the same one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from synth.errors import OutputError, Stopped
from synth.generators import Generators, Routed
from synth.job import Job
from synth.personas import Library, Personas, encode_library
from synth.runners.progress import Counters
from synth.runs.run import OpenRun
from synth.shards import Journal
from synth.stage import (
    ChatModel,
    ChatReply,
    ChatRequest,
    ClientSettings,
    EmbedStage,
    Encoded,
    Encoder,
    ModelStage,
    ReplyKey,
    Services,
)
from synth.steps import generate, prepare
from synth.steps.generate import JournaledChat, OpenShard
from synth.steps.keep import clear_views
from synth.tasks import Writer

CACHED_SHARDS = 4
"""Shards whose passage vectors are kept from the choice of personas to scoring."""


class VectorCache:
    """An Encoder that keeps the document vectors of the last `CACHED_SHARDS` calls, a few MB each."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kept: OrderedDict[tuple[str, ...], Encoded] = OrderedDict()

    async def encode(self, texts: Sequence[str], role: Literal["query", "document"]) -> Encoded:
        """As the wrapped encoder; a repeated batch of documents costs nothing."""
        if role == "query":
            return await self._encoder.encode(texts, role)
        key = tuple(texts)
        if key not in self._kept:
            self._kept[key] = await self._encoder.encode(texts, role)
            if len(self._kept) > CACHED_SHARDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    async def close(self) -> None:
        await self._encoder.close()


_NAMED = 5
"""Calls in flight that the message about a stall names."""


@dataclass(slots=True, eq=False)
class MeteredChat:
    """A ChatModel that counts calls and tokens, and watches for a stall."""

    chat: ChatModel
    counters: Counters
    pending: dict[ReplyKey, float] = field(default_factory=dict)
    """Calls in flight, with their start (monotonic seconds)."""
    last: float = 0.0
    """When a call last ended."""

    @property
    def slots(self) -> int:
        return self.chat.slots

    @property
    def troubled(self) -> bool:
        return self.chat.troubled

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, counted. Raises Stopped where the budget has no room for it."""
        budget = self.counters.budget
        async with budget.room(request) if budget else nullcontext():
            self.counters.in_flight += 1
            self.pending[request.key] = time.monotonic()
            try:
                reply = await self.chat.complete(request)
            finally:
                self.counters.in_flight -= 1
                del self.pending[request.key]
                self.last = time.monotonic()
            self.counters.replies += 1
            self.counters.prompt_tokens += reply.prompt_tokens
            self.counters.completion_tokens += reply.completion_tokens
        return reply

    async def watch(self, askers: Iterable[asyncio.Task[None]], stall: float) -> None:
        """Return when all askers have ended.

        Raises Stopped, naming the calls in flight, once no call has ended for `stall` seconds. While servers are in
        trouble their own limits apply; calls that were in flight then get `stall` seconds afterwards.
        """
        excused = 0.0
        while (await asyncio.wait(askers, timeout=stall / 4))[1]:
            now = time.monotonic()
            if self.chat.troubled:
                excused = now
            since = max(excused, self.last, min(self.pending.values(), default=now))
            if now - since >= stall:
                names = [
                    f"passage {at.position} slot {at.slot} ({at.stage}, attempt {at.attempt + 1}) for {now - t:.0f} s"
                    for at, t in sorted(self.pending.items(), key=lambda each: each[1])
                ]
                more = [f"and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
                what = f"no model call has ended for {stall:g} s (limits.stall)"
                hint = "Look at the server's log, or raise limits.stall."
                raise Stopped(f"{what}; in flight: {'; '.join(names[:_NAMED] + more)}.", hint)

    async def close(self) -> None:
        await self.chat.close()


Model = TypeVar("Model", ChatModel, VectorCache)


class Models:
    """Opens chat models and encoders, each once; `stack` closes them."""

    def __init__(self, client: ClientSettings, instruction: str, counters: Counters, stack: AsyncExitStack) -> None:
        self.client = client
        self._instruction = instruction
        self._counters = counters
        self._stack = stack
        self._open: list[tuple[ModelStage, Any]] = []
        self._metered: list[tuple[ModelStage, MeteredChat]] = []

    def chat(self, job: Job) -> MeteredChat:
        """The job's language model, or its several behind one."""
        stage = job.llm
        assert stage is not None  # noqa: S101 - a job without one needs no chat model
        chat = next((known for each, known in self._metered if each == stage), None)
        if chat is None:
            if isinstance(stage, Generators):
                model: ChatModel = Routed(
                    stage, [self._once(llm, partial(llm.open, self.client)) for _, llm in stage.members]
                )
            else:
                model = self._once(stage, partial(stage.open, self.client))
            chat = MeteredChat(model, self._counters)
            self._metered.append((stage, chat))
            self._counters.chats += [chat] if stage.urls() else []
        return chat

    def encoder(self, job: Job) -> VectorCache | None:
        """The job's embedder, None where it has none."""
        return None if job.embed is None else self._encoder(job.embed)

    async def personas(self, job: Job, library: Library | None, *, remember: bool = True) -> Personas | None:
        """The persona library with its vectors and the embedder that finds them, None where the job has no personas."""
        if library is None or job.persona_embed is None:
            return None
        encoder = self._encoder(job.persona_embed)
        model = json.dumps(job.persona_embed.identity(), sort_keys=True)
        return Personas(library, await encode_library(library, encoder, model, remember=remember), encoder)

    def _encoder(self, stage: EmbedStage) -> VectorCache:
        return self._once(stage, lambda: VectorCache(stage.open(self.client, self._instruction)))

    def services(self, job: Job, needs: Collection[str], own: Mapping[str, Any]) -> Services:
        """What a step needs: the models of its own, and for the rest those of the job."""
        shared: dict[str, Callable[[Job], Any]] = {"chat": self.chat, "encoder": self.encoder}
        for model in own.values():
            self._stack.push_async_callback(model.close)
        return Services(**{name: shared[name](job) for name in needs if name in shared and name not in own}, **own)

    def _once(self, stage: ModelStage, opened: Callable[[], Model]) -> Model:
        for known, model in self._open:
            if known == stage:
                found: Model = model
                return found
        new = opened()
        self._stack.push_async_callback(new.close)
        self._open.append((stage, new))
        return new


@dataclass(frozen=True, slots=True)
class _Revision:
    run: OpenRun
    chat: MeteredChat
    writer: Writer
    personas: Personas | None


class Generation:
    """Generates shards; `committed` is called with the index of each. One object serves a whole `work` call."""

    def __init__(
        self, run: OpenRun, models: Models, counters: Counters, stop: asyncio.Event, committed: Callable[[int], None]
    ) -> None:
        self._run, self._models, self._counters = run, models, counters
        self._stop, self._committed = stop, committed
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
            self._counters.phase = "encoding personas"
            personas = await self._models.personas(run.job, run.library)
            self._counters.phase = "preparing"
            chat = self._models.chat(run.job)
            await prepare.once(run, chat, self._stop.is_set)
            self._counters.phase = "generating"
            self._revisions[number] = _Revision(run, chat, run.writer(), personas)
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
            journal = self._generated.claim(index)
            if journal is None:
                self._counters.at(index, False)
            else:
                with ExitStack() as closing:
                    closing.callback(journal.close)
                    under = await self._begun_under(index, journal)
                    shard = await generate.open_shard(under.run, index, journal, under.personas)
                    closing.pop_all()
        if shard is None:
            self._room.release()
            return None
        self._open[index] = shard
        for outcomes in shard.outcomes.values():
            self._counters.passage_done(outcomes)
        return shard

    async def _begun_under(self, index: int, journal: Journal) -> _Revision:
        try:
            return await self._revision(generate.revision(journal, self._run.revision))
        except OutputError as exc:
            self._counters.notice(f"shard {index:08d}: starts again under revision {self._run.revision}: {exc}")
            generate.begin(journal, self._run.revision)
            return await self._revision(self._run.revision)

    async def _ask(self, queue: asyncio.Queue[tuple[OpenShard, int] | None]) -> None:
        while (work := await queue.get()) is not None:
            shard, n = work
            under = self._revisions[shard.run.revision]
            journaled = JournaledChat(under.chat, shard.journal, self._stop.is_set)
            asked = shard.asked[n]
            try:
                outcomes = await under.writer.write(
                    shard.candidates[n], journaled, asked.slots, asked.before, asked.fixed
                )
                self._counters.passage_done(outcomes)
            except Stopped:
                self._room.release()  # the shard stays open; the task that waits for room has to see the stop
                continue
            shard.outcomes[n] = outcomes
            if shard.complete:
                self._commit(shard)

    def _commit(self, shard: OpenShard) -> None:
        clear_views(self._run.folder, shard.index)
        generate.commit(shard)
        del self._open[shard.index]
        self._room.release()
        self._committed(shard.index)
