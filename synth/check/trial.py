"""A few passages taken through the whole pipeline in memory, every call recorded: what `synth preview` shows."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from synth.check.data import MOST_ROWS
from synth.errors import InputError, JobError
from synth.generators import CONFIG, QUERY, Generators
from synth.job import Job
from synth.personas import Personas
from synth.runners.generation import Models
from synth.runners.progress import Counters
from synth.runs.preflight import require_suited
from synth.runs.run import prepare, writer_of
from synth.scores import PairBatch, Scorer
from synth.sources import InputFile, PassageRow, carried_schema, inspect, read_passages, sample_rows, wanted_rows
from synth.stage import ChatModel, ChatReply, ChatRequest, Services
from synth.steps import ingest
from synth.steps.generate import candidates_of
from synth.steps.prepare import asked
from synth.tables import pair_table
from synth.tables import passages as passage_records
from synth.types import Candidates, Notify, Pair, Passage, Rejected

Positioned = tuple[int, PassageRow, pa.Table]
"""Position, passage, and its carried columns."""


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the model: reply None where the server rejected it, `verdict` what became of it."""

    request: ChatRequest
    reply: ChatReply | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Tried:
    """A passage with all calls and outcomes; `rows` are its pairs as they would be stored, with scores and `kept`."""

    passage: Passage
    candidates: Candidates
    calls: Sequence[Call]
    outcomes: Sequence[Pair | Rejected]
    rows: Sequence[dict[str, Any]]


def choose(job: Job, inputs: Sequence[InputFile], count: int, passage_id: str | None) -> list[Positioned]:
    """`count` passages spread over the corpora, or the one with this id, each with the position it has in a run.

    A passage is added for each of several language models that none of them would reach.

    Of more than 20,000 rows positions are not known without reading them all; then rows stand for them. Raises
    JobError when no passage has the id, InputError without any passage.
    """
    limits = job.read_limits()
    unknown = any(file.rows is None or file.kind == "hub" for file in inputs)
    only: Container[int] | None = job.part
    if not unknown and wanted_rows(inputs, job.part)[1] > MOST_ROWS and passage_id is None:
        only, _ = wanted_rows(inputs, job.part, 4 * count)
    blocks = read_passages(job.corpora, inputs, limits, only=only)
    rows = (row for block in blocks for row in block.rows())
    numbered: Iterator[Positioned] = ((n, row, carried) for n, (row, carried) in enumerate(rows))
    if passage_id is not None:
        found = list(islice((each for each in numbered if each[1].id == passage_id), count))
        if not found:
            raise JobError(f"no passage has the id {passage_id!r}.", "Ids are those of the corpus, or FILE:ROW.")
        return found
    every = list(islice(numbered, MOST_ROWS))
    if not every:
        raise InputError(f"{job.source}: the inputs hold no usable passage.", "See `synth check`.")
    require_suited(job, sorted({each[1].language for each in every}))
    picked = {*sample_rows(len(every), count)}
    if isinstance(job.llm, Generators):
        slots = range(job.require_task().items_per_passage)
        calls = {
            n: [(each[0], slot, name) for slot in slots for name in (CONFIG, QUERY)] for n, each in enumerate(every)
        }
        for _, llm in job.llm.members:  # a model that none of them is drawn for gets one more, where there is one
            if not any(job.llm.drawn(*call) == llm for n in picked for call in calls[n]):
                more = (n for n, found in calls.items() if any(job.llm.drawn(*call) == llm for call in found))
                picked.update(islice(more, 1))
    return [every[n] for n in sorted(picked)]


class Trial:
    """A job ready to be tried out: nothing it does touches a disk but to read. Raises JobError and InputError."""

    def __init__(self, job: Job, notify: Notify) -> None:
        for scorer in job.scores:
            scorer.require()
        self.job, self.notify = job, notify
        self.prompts, self.library = prepare(job)
        self.inputs = inspect(job.corpora, job.base, job.read_limits(), notify=notify)
        self.prepared: Mapping[str, Any] | None = None
        """What the task prepared before the first passage."""
        self.preparing: list[Call] = []

    async def run(self, chosen: Sequence[Positioned]) -> list[Tried]:
        """Generate and score for the chosen passages, one after the other. Raises what models raise."""
        job = self.job
        async with AsyncExitStack() as stack:
            models = Models(job.client(self.notify), job.instruction, Counters(), stack)
            personas = await models.personas(job, self.library, remember=False)
            here = [scorer for scorer in job.scores if scorer.scope == "shard"]
            later = {name for each in job.scores if each not in here for name, _ in each.named_outputs()}
            if unused := sorted(later & job.rules.columns()):
                self.notify(f"keep: {', '.join(unused)} needs all pairs of a run, so rules on it are left out here")
            opened = [(scorer, scorer.open(models.client, job.instruction)) for scorer in here]
            scorers = [(scorer, models.services(job, scorer.needs, own)) for scorer, own in opened]
            await self._prepare(models.chat(job))
            return [await self._try(each, models.chat(job), personas, scorers) for each in chosen]

    async def _prepare(self, chat: ChatModel) -> None:
        """Ask what a run would ask before its first passage, of the same passages."""
        if count := self.job.require_task().prepares_from:
            rows = [(position, row) for position, row, _ in choose(self.job, self.inputs, count, None)]
            records = [Passage(n, row.id, row.text, row.language, row.source, row.title) for n, row in rows]
            writer = writer_of(self.job, self.prompts, lambda *call: self.preparing.append(Call(*call)))
            self.prepared = await asked(writer, records, chat)

    async def offers(self, chosen: Sequence[Positioned]) -> Sequence[Candidates]:
        """The personas that these passages would be offered as one shard; ones that the embedder refuses have none."""
        async with AsyncExitStack() as stack:
            models = Models(self.job.client(self.notify), self.job.instruction, Counters(), stack)
            personas = await models.personas(self.job, self.library)
            rows = [(position, row) for position, row, _ in chosen]
            records = [Passage(n, row.id, row.text, row.language, row.source, row.title) for n, row in rows]
            return (await candidates_of(self.job, records, personas))[0]

    async def _try(
        self,
        chosen: Positioned,
        chat: ChatModel,
        personas: Personas | None,
        scorers: Sequence[tuple[Scorer, Services]],
    ) -> Tried:
        position, row, carried = chosen
        columns = ingest.passage_columns(carried_schema(self.job.corpora, self.inputs, self.job.read_limits()))
        source = ingest.passage_table([row], [carried], position, columns)
        record = passage_records(source)[0]
        found, refused = await candidates_of(self.job, [record], personas)
        if refused:
            raise InputError(f"passage {record.id!r}: the embedder refuses it: {refused[0]}.")
        calls: list[Call] = []
        writer = writer_of(self.job, self.prompts, lambda *call: calls.append(Call(*call)), prepared=self.prepared)
        outcomes = await writer.write(found[0], chat)
        rows: list[dict[str, Any]] = []
        if pairs := [outcome for outcome in outcomes if isinstance(outcome, Pair)]:
            table = pair_table(pairs, self.prompts.folder.name, 1, source, self.job.require_task().item_columns)
            batch = PairBatch(table)
            for scorer, own in scorers:
                scores = await scorer.score(batch, own)
                for scored in scores.schema:
                    table = table.append_column(scored, scores[scored.name])
            verdict = self.job.rules.only(table.column_names).apply(table)
            verdicts = zip(verdict.kept.tolist(), verdict.failed.to_pylist(), strict=True)
            named = ({"kept": kept, "failed": failed} for kept, failed in verdicts)
            rows = [row | more for row, more in zip(table.to_pylist(), named, strict=True)]
        return Tried(record, found[0], calls, outcomes, rows)
