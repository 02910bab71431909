"""Negatives for the pairs of a view: `mined/` holds its shards with negatives, further positives and refusals.

Killed anywhere, the same call goes on at its shard and writes the same bytes: searches are exact whatever is searched
together, and what models answered is in the shard's journal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth import identity
from synth.encoding import encode_all
from synth.errors import JobError
from synth.negatives import Corpus, Desk, Found, Item, Negatives, Positives, build, products, query_key, usable
from synth.run_folder import Run
from synth.shards import Origin, OutputFolder, Shard, StepFolder
from synth.stage import Encoder, Services
from synth.steps.generate import JournaledChat
from synth.steps.mine_inputs import CorpusSource, Tell, denied, finished, positives
from synth.steps.mine_tables import parted, with_columns
from synth.tables import SCHEMA_VERSION

TOGETHER = 4096
"""Pairs that one pass over the corpus serves, in whole shards."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes `mined/`: the options, the view they are applied to, and what the corpus is."""

    run: Run
    use: str
    options: Negatives
    view: str
    source: CorpusSource

    def record(self) -> dict[str, Any]:
        """All that decides what comes out."""
        run, view = self.run, self.run.folder.step(self.view)
        embed = run.job.embed
        return {
            "format": 1,
            "use": self.use,
            "options": self.options.identity(),
            "view": self.view,
            "rules": view.meta(min(view.done())).identity,
            "corpus": self.source.fingerprint,
            "embed": {"use": f"{type(embed).__module__}"} | embed.identity(),
            "instruction": run.job.instruction,
            "seed": run.job.file.seed,
            "schema": SCHEMA_VERSION,
        }


@dataclass(slots=True)
class Counts:
    """What happened so far, shards done earlier among it."""

    shards: int = 0
    done: int = 0
    rows: int = 0
    full: int = 0
    short: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    negatives: int = 0
    promoted: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def see(self, table: pa.Table, rejects: pa.Table | None, wanted: int) -> None:
        """Add a finished shard."""
        self.done += 1
        lengths = pc.list_value_length(table["negatives"]).to_numpy()
        self.rows += table.num_rows
        self.negatives += int(lengths.sum())
        self.full += int((lengths >= wanted).sum())
        self.short += int((lengths < wanted).sum())
        self.promoted += int(pc.list_value_length(table["further_positives"]).to_numpy().sum())
        for row in table["refused"].to_pylist():
            for each in row:
                self.refused[each["reason"]] = self.refused.get(each["reason"], 0) + each["count"]
        for reason in rejects["reason"].to_pylist() if rejects is not None else []:
            self.rows += 1
            self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Mining:
    """One call of `synth mine`, between `prepare` and `finish`."""

    def __init__(self, plan: Plan, services: Services, tell: Tell) -> None:
        self.plan, self.services, self._tell = plan, services, tell
        self.record = plan.record()
        self.fingerprint = identity.sha256(self.record)
        self.counts = Counts()
        self._folder: OutputFolder = plan.run.folder
        self._view = self._folder.step(plan.view)
        self.hidden, self.step = _target(self._folder, self.fingerprint)
        self._corpus: Corpus
        self._known: Positives
        self._positives: Positives

    async def prepare(self) -> list[int]:
        """Bring the index about; the shards that are still to do. Raises JobError where nothing can be mined."""
        shards = finished(self.plan.run, self.plan.view)
        self.step.settle()
        done = self.step.done()
        self.counts.shards = len(shards)
        for index in sorted(done):
            self.counts.see(self.step.read(index).table, self.step.rejects(index), self.plan.options.num_negatives)
        todo = [index for index in shards if index not in done]
        if todo:
            folder = self._folder.path / "index" / self.plan.source.fingerprint
            self._folder.put_if_absent(f"index/mined-{self.fingerprint[:16]}.json", _json(self.record))
            self._corpus = await build(folder, self.plan.source.texts, self._encoder, self._tell, self._enough)
            self._known = positives(self._folder.step("generated"), self._corpus)
            self._positives = positives(self._view, self._corpus)
        return todo

    async def mine(self, todo: Sequence[int]) -> AsyncIterator[int]:
        """Do these shards; yields each when it is written. Those that another process holds are passed over."""
        waiting: list[tuple[int, Shard, list[Item], dict[int, str]]] = []
        for place, index in enumerate(todo):
            shard = self._view.read(index)
            waiting.append((index, shard, *await self._items(index, shard.table)))
            if sum(len(each[2]) for each in waiting) < TOGETHER and place < len(todo) - 1:
                continue
            items = [item for each in waiting for item in each[2]]
            pools = iter(await asyncio.to_thread(self.plan.options.search, items, self._corpus, self._positives.most))
            for number, read, mine, lost in waiting:
                if await self._finish(number, read, mine, list(itertools.islice(pools, len(mine))), lost):
                    yield number
            waiting = []

    def swap(self) -> None:
        """Show what was filled aside, when all of it is there."""
        self.step.settle()
        if self.hidden and len(self.step.done()) == self.counts.shards:
            self._folder.swap_view(self.hidden, "mined")

    @property
    def _encoder(self) -> Encoder:
        if self.services.encoder is None:
            raise JobError("mining needs an embedder.", "Name one: -s 'embed={use: sentence_transformers}'")
        return self.services.encoder

    def _enough(self, passages: int) -> None:
        unfit = self.plan.options.unfit(passages)
        if unfit is not None:
            raise JobError(f"{unfit[0]}, so that no pair would get a negative.", unfit[1])

    async def _items(self, index: int, table: pa.Table) -> tuple[list[Item], dict[int, str]]:
        """The pairs of a shard that can be mined for, and why the others cannot, by row."""
        options, names = self.plan.options, table.column_names
        own = [name for name in ("id", "query", "passage", "label") if name in names]
        rows = table.select([*own, *options.columns(names)]).to_pylist()
        lost = {n: reason for n, row in enumerate(rows) if (reason := _fault(row))}
        queries = list(dict.fromkeys(row["query"] for n, row in enumerate(rows) if n not in lost))
        if not queries:
            return [], lost
        encoded, _ = await encode_all(self._encoder, queries, "query")
        vectors = dict(zip(queries, usable(encoded.vectors, self._corpus.width), strict=True))
        bars = self._bars(queries, vectors)
        items = []
        for n, row in enumerate(rows):
            if n in lost:
                continue
            query = row["query"]
            if not vectors[query].any() or not np.isfinite(bars[query]):
                lost[n] = "no_vector"
                continue
            known = self._known.of(query_key(query))
            position, _, slot = row["id"].partition("-")
            place = (int(position), int(slot or 0), index)
            chunks = self._chunks(known)
            chunks = np.setdiff1d(chunks, known, assume_unique=True) if len(chunks) else chunks
            texts = (query, row["passage"], vectors[query])
            items.append(Item(row["id"], *place, *texts, known, bars[query], chunks, options.brought(row)))
        return items, lost

    def _chunks(self, known: Any) -> Any:
        allowed = getattr(self.plan.options, "same_document", False)
        return np.empty(0, np.int64) if allowed else self._corpus.chunks(known)

    def _bars(self, queries: Sequence[str], vectors: Mapping[str, Any]) -> dict[str, float]:
        """For each query the least cosine of its positives in the view; infinite where none of them has a vector."""
        found = [self._positives.of(query_key(query)) for query in queries]
        which = np.repeat(np.arange(len(queries)), [len(rows) for rows in found])
        rows = np.concatenate([np.empty(0, np.int64), *found])
        scores = products(np.array([vectors[query] for query in queries]), which, self._corpus, rows)
        scores[~self._corpus.gather(rows).any(axis=1)] = np.inf
        bars = np.full(len(queries), np.inf)
        np.minimum.at(bars, which, scores)
        return dict(zip(queries, bars.tolist(), strict=True))

    async def _finish(
        self, index: int, shard: Shard, items: Sequence[Item], pools: Sequence[Any], lost: Mapping[int, str]
    ) -> bool:
        journal = self.step.claim(index)
        if journal is None:
            return False
        try:
            run, services = self.plan.run, self.services
            chat = JournaledChat(services.chat, journal, lambda: False) if services.chat is not None else None
            desk = Desk(
                self.plan.options, self._corpus, run.job.file.seed, self._encoder, chat, services.reranker, journal
            )
            found = await self.plan.options.choose(items, pools, desk) if items else []
            self._commit(index, shard, found, lost)
        except BaseException:
            journal.close()
            raise
        journal.drop()
        return True

    def _commit(self, index: int, shard: Shard, found: Sequence[Found], lost: Mapping[int, str]) -> None:
        wanted = self.plan.options.num_negatives
        ends = iter(found)
        by_row = [Found() if n in lost else next(ends) for n in range(shard.table.num_rows)]
        reasons = [lost.get(n) for n in range(len(by_row))]
        if self.plan.options.short == "drop":
            few = [len(each.negatives) < wanted for each in by_row]
            reasons = [reason or ("short" if short else None) for reason, short in zip(reasons, few, strict=True)]
        whole = with_columns(shard.table, by_row)
        table, rejects = parted(whole, reasons, wanted)
        origin = Origin(
            identity=self.fingerprint,
            input=self._view.checksum(index),
            first=shard.meta.first,
            rows_in=whole.num_rows,
            rows_out=table.num_rows,
            schema=SCHEMA_VERSION,
        )
        self.step.commit(index, table, origin, rejects=rejects)
        self.counts.see(table, rejects, wanted)


def _fault(row: Mapping[str, Any]) -> str | None:
    """Why a pair cannot have negatives, as far as its texts tell."""
    if not (row["query"] or "").strip():
        return "no_query"
    return "no_positive" if not (row["passage"] or "").strip() or denied(dict(row)) else None


def _target(folder: OutputFolder, fingerprint: str) -> tuple[str, StepFolder]:
    """`mined/` while it is empty or of the same making; else a hidden folder to be swapped in when it is full."""
    names = ("" if n < 0 else f".mined-{fingerprint[:8]}-{n}" for n in itertools.count(-1))
    for hidden in names:
        step = folder.step("mined", hidden=hidden)
        done = step.done()
        if not done or step.meta(min(done)).identity == fingerprint:
            return hidden, step
    raise AssertionError("names do not end")


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
