"""Generation over one shard: passages → candidates → pairs and rejected items, every finished call journaled.

`OpenShard` is the unit that a runner holds open: it is claimed, filled passage by passage in any order, and committed
in item order, so neither the order of replies nor a crash shows in the bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synth.batching import Refused, encode_all
from synth.errors import RequestRejected, Stopped
from synth.job import Job
from synth.personas import Personas
from synth.runs.run import OpenRun
from synth.shards import Journal, Origin, Shard
from synth.stage import ChatModel, ChatReply, ChatRequest, Encoder
from synth.steps import ingest
from synth.tables import pair_table, passages, rejected_item_table
from synth.types import Candidates, Pair, Passage, Rejected, Written, position_and_slot

TITLE_WEIGHT = 0.5
"""Of a title beside its text in the search for personas: it says what a passage taken by itself may leave out."""

_REVISION = "revision"
"""Key of a journal's first line; those of calls begin with a position."""


@dataclass(slots=True)
class JournaledChat:
    """A chat model that writes every finished call to the shard's journal and never asks twice what is in it."""

    chat: ChatModel
    journal: Journal
    stopping: Callable[[], bool]

    @property
    def slots(self) -> int:
        return self.chat.slots

    @property
    def troubled(self) -> bool:
        return self.chat.troubled

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The journal's reply to this very request, or the model's; while stopping, Stopped instead of a request."""
        key = f"{request.key.position}-{request.key.slot}-{request.key.stage}-{request.key.attempt}"
        # names what was asked, so that a journal written under other settings is not believed
        sha = hashlib.sha256(f"{request.seed}/{request.max_tokens}/{request.schema_name}".encode())
        for role, content in request.messages:
            sha.update(f"\0{role}\0{content}".encode("utf-8", "surrogatepass"))
        asked = sha.hexdigest()[:16]
        known = self.journal.get(key)
        if known is not None and known["asked"] == asked:
            if "reason" in known:
                raise RequestRejected(known["reason"], known["detail"])
            return ChatReply(known["text"], known["finish"], known["model"], *known["tokens"])
        if self.stopping():
            raise Stopped("stopping: no further requests are sent")
        try:
            reply = await self.chat.complete(request)
        except RequestRejected as exc:
            self.journal.append(key, {"asked": asked, "reason": exc.reason, "detail": exc.detail})
            raise
        answer = {"asked": asked, "text": reply.text, "finish": reply.finish_reason, "model": reply.model}
        self.journal.append(key, answer | {"tokens": [reply.prompt_tokens, reply.completion_tokens]})
        return reply

    async def close(self) -> None:
        """Nothing: the model belongs to the run, the journal to the shard."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one passage is asked for: its slots, the queries that it has, and values fixed by slot and column."""

    slots: Sequence[int]
    before: Sequence[Written] = ()
    fixed: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class OpenShard:
    """One claimed shard of `generated/`: what goes in, what came out so far, and the revision it is made under."""

    run: OpenRun
    index: int
    source: Shard
    passages: Sequence[Passage]
    asked: Sequence[Asked]
    candidates: Sequence[Candidates]
    journal: Journal
    input: str
    outcomes: dict[int, Sequence[Pair | Rejected]] = field(default_factory=dict)

    @property
    def waiting(self) -> Sequence[int]:
        return [n for n in range(len(self.passages)) if n not in self.outcomes]

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.passages)


def revision(journal: Journal, now: int) -> int:
    """The revision that a claimed shard was begun under; one that nobody began is begun under `now`."""
    known = journal.get(_REVISION)
    if known is not None:
        return int(known["number"])
    begin(journal, now)
    return now


def begin(journal: Journal, revision: int) -> None:
    journal.append(_REVISION, {"number": revision})


async def open_shard(run: OpenRun, index: int, journal: Journal, personas: Personas | None) -> OpenShard:
    """Find out what the passages of a claimed shard are asked, under the revision of `run`, and their candidates."""
    step = run.folder.step("passages")
    source = step.read(index)
    records = passages(source.table)
    asked = asked_of(run, index, source.table["retry_of"].to_pylist())
    due = any(each.slots for each in asked)
    candidates, refused = await candidates_of(run.job, records if due else (), personas)
    outcomes: dict[int, Sequence[Pair | Rejected]] = {n: () for n, each in enumerate(asked) if not each.slots}
    outcomes |= {
        n: [Rejected(records[n], slot, why.reason, f"embedding the passage: {why.detail}") for slot in asked[n].slots]
        for n, why in refused.items()
    }
    return OpenShard(run, index, source, records, asked, candidates, journal, step.checksum(index), outcomes)


def asked_of(run: OpenRun, index: int, again: Sequence[str | None]) -> Sequence[Asked]:
    """What each passage of a shard is asked; `again` are the rejected items that its rows retry.

    With a target, passages of the input are asked in rounds only, which repeat them and know what earlier rounds wrote.
    """
    parts = run.history.parts()
    part = parts.of_shard(index)
    if part.round is None:
        every = Asked(range(0 if run.job.file.target else run.task.items_per_passage))
        before = ingest.written_before(run, [item for item in again if item])
        return [Asked((position_and_slot(item)[1],), before[item]) if item else every for item in again]
    rows, places = part.planned(index), dict[int, int]()
    for earlier in parts.parts:
        if earlier.round is not None and earlier.number < part.number:
            passages = earlier.round.passages
            found = np.flatnonzero(np.isin(passages, [passage for passage, _ in rows]))
            places |= zip((earlier.first + found).tolist(), passages[found].tolist(), strict=True)
    texts: dict[int, list[Written]] = defaultdict(list)
    for position, queries in sorted(ingest.written(run, places).items()):
        texts[places[position]] += queries
    return [Asked(range(len(fixed)), texts[passage], fixed) for passage, fixed in rows]


async def candidates_of(
    job: Job, records: Sequence[Passage], personas: Personas | None
) -> tuple[Sequence[Candidates], Refused]:
    """Candidates of each passage of a shard, and the passages that the embedder refused, by number.

    A passage is compared by its text and, with half the weight, by its title where it has one.
    """
    options = job.file.personas
    if options is None or personas is None or not records:
        return [Candidates(record, (), ()) for record in records], {}
    texts, refused = await _vectors(personas.encoder, [record.text for record in records])
    if len(refused) == len(records):
        return [Candidates(record, (), ()) for record in records], refused
    if any(record.title for record in records):
        titles, unknown = await _vectors(personas.encoder, [record.title or record.text for record in records])
        titles[list(unknown)] = texts[list(unknown)]
        texts = texts + TITLE_WEIGHT * titles
        texts /= np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-6)
    offered = personas.offer(
        texts,
        max(options.top_k, options.pool),
        least=options.min_similarity,
        most=math.ceil(options.max_share * len(records)),
    )
    sentences = personas.library.sentences
    found = [
        Candidates(record, tuple(sentences[n] for n, _ in near), tuple(cosine for _, cosine in near))
        for record, near in zip(records, offered, strict=True)
    ]
    return found, refused


async def _vectors(encoder: Encoder, texts: Sequence[str]) -> tuple[NDArray[np.float32], Refused]:
    """Vectors of the texts, one row each, and those that were refused, by number."""
    # always the same distinct texts for a shard, so that the bits of their vectors are too
    distinct = tuple(dict.fromkeys(texts))
    encoded, refused = await encode_all(encoder, distinct, "document")
    row = {text: n for n, text in enumerate(distinct)}
    rows = [row[text] for text in texts]
    return encoded.vectors[rows], {n: refused[at] for n, at in enumerate(rows) if at in refused}


def commit(shard: OpenShard) -> None:
    """Write a complete shard and drop its journal."""
    run = shard.run
    step = run.folder.step("generated")
    ordered = [outcome for n in range(len(shard.passages)) for outcome in shard.outcomes[n]]
    pairs = [outcome for outcome in ordered if isinstance(outcome, Pair)]
    rejected = [outcome for outcome in ordered if isinstance(outcome, Rejected)]
    table = pair_table(pairs, run.template, run.revision, shard.source.table, run.task.item_columns)
    origin = Origin(
        identity=run.identity,
        input=shard.input,
        first=shard.source.meta.first,
        rows_in=sum(len(each.slots) for each in shard.asked),
        rows_out=len(pairs),
        models=tuple(sorted({pair.model for pair in pairs})),
    )
    rejects = rejected_item_table(rejected, run.job.run.keep_replies) if rejected else None
    step.commit(shard.index, table, origin, rejects=rejects)
    if run.job.run.keep_replies == "all":
        calls = ((key, value) for key, value in shard.journal.items() if key != _REVISION)
        lines = [json.dumps({"call": key, **value}, ensure_ascii=True) for key, value in calls]
        name = f"logs/replies/{step.file(shard.index).stem}.jsonl"
        run.folder.put_if_absent(name, ("\n".join(lines) + "\n").encode())
    shard.journal.drop()
