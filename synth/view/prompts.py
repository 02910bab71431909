"""What the model was asked for a rejected item: prompts are rendered again, and answered by its recorded replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from synth.errors import JobError, RequestRejected
from synth.runners.generation import Models
from synth.runners.progress import Counters
from synth.runs.run import OpenRun, prepare
from synth.shards import OutputFolder
from synth.stage import ChatReply, ChatRequest
from synth.steps.generate import asked_of, candidates_of
from synth.steps.ingest import written_before
from synth.tables import passages
from synth.types import Attempt, Candidates, Notify, Passage, position_and_slot

_OUTAGE = 10.0
"""Seconds to wait for an embedder that does not answer."""


class _Recorded:
    """A chat model that gives recorded replies again, as long as it is asked with the same seeds."""

    slots, troubled = 1, False

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.asked: list[tuple[tuple[str, str], ...]] = []
        self._left = list(attempts)

    async def complete(self, request: ChatRequest) -> ChatReply:
        if not self._left or (self._left[0].stage, self._left[0].seed) != (request.key.stage, request.seed):
            raise RequestRejected("bad_request", "nothing more is recorded")
        self.asked.append(request.messages)
        reply = self._left.pop(0)
        return ChatReply(reply.reply, "length" if reply.reason == "truncated" else "stop", "")

    async def close(self) -> None:
        """Nothing to close."""


class Prompter:
    """Finds the prompts of items of a run. Personas are found by the run's embedder, as on a resume, once a shard."""

    def __init__(self, folder: OutputFolder, notify: Notify) -> None:
        self._folder, self._notify = folder, notify
        self._candidates: dict[int, Sequence[Candidates]] = {}

    def prompts_of(self, item: str, attempts: Sequence[Attempt]) -> list[list[tuple[str, str]]]:
        """For each attempt its messages as (role, text); fewer than attempts where replies before were not kept.

        Raises JobError for pairs that existed before, and what an embedder raises that does not answer.
        """
        run = OpenRun.recorded(self._folder)
        if run.job.data:
            raise JobError("these pairs existed before: no model was asked for them.")
        position, slot = position_and_slot(item)
        index = run.history.parts().shard_of(position)
        generated, source = self._folder.step("generated"), self._folder.step("passages").read(index)
        made_by = generated.meta(index).identity
        run = run.at(next(each.number for each in run.history.records if each.sha256 == made_by))
        place = position - source.meta.first
        again = source.table["retry_of"][place].as_py()
        asked = asked_of(run, index, source.table["retry_of"].to_pylist())[place]
        before = [*asked.before]
        if not again:  # its passage had those of the earlier slots
            ids = map(position_and_slot, generated.read_columns(index, ["id"])["id"].to_pylist())
            own = written_before(run, [item])[item]
            before += own[: sum(there == position and other < slot for there, other in ids)]
        recorded = _Recorded(attempts)

        async def work() -> None:
            if index not in self._candidates:
                self._candidates[index] = await self._offered(run, passages(source.table))
            await run.writer().write(self._candidates[index][place], recorded, [slot], before, asked.fixed)

        asyncio.run(work())
        return [list(messages) for messages in recorded.asked]

    async def _offered(self, run: OpenRun, records: Sequence[Passage]) -> Sequence[Candidates]:
        library = run.library or prepare(run.job)[1]
        if library and library.sha256 != run.record.identity["personas"]["sha256"]:
            raise JobError(f"{library.name} is another library than the run's, so its prompts cannot be shown.")
        client = replace(run.job.client(self._notify), outage=_OUTAGE, startup=_OUTAGE)
        async with AsyncExitStack() as stack:
            models = Models(client, run.job.instruction, Counters(), stack)
            found, _ = await candidates_of(run.job, records, await models.personas(run.job, library))
            return found
