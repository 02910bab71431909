"""What steps share that look at the passages near each query of a view: `synth mine` and `synth relabel`.

Each writes a folder of its own, shard by shard. After a crash the same call resumes at its shard and writes the same
bytes: a search is exact whichever queries are searched together, and answers of models are in the shard's journal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import JobError, OutputError
from synth.negatives import Item, Pool, Positives, query_key, query_keys
from synth.registry import stage_identity
from synth.runs import identity
from synth.runs.run import OpenRun
from synth.search import Corpus, CorpusText, Rows, build, products, usable
from synth.shards import Journal, Origin, OutputFolder, Shard, StepFolder
from synth.sources import Corpus as CorpusOptions
from synth.sources import InputFile, PassageRow, inspect, read_passages
from synth.sources.checks import id_text
from synth.stage import Services, Stage
from synth.steps.score import vectors_of
from synth.tables import parted
from synth.types import SCHEMA_VERSION, Notify, position_and_slot

RELABELLED = "relabelled"
"""The folder of `synth relabel`; where it fits a view, it stands for that view."""


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Where the passages come from: those of the run, or `files` and the positives of the run's pairs.

    `document` is a column whose equal values mark chunks of one document; if it is None, chunks that synth made are
    recognised by their row.
    """

    run: OpenRun
    options: tuple[CorpusOptions, ...] = ()
    files: tuple[InputFile, ...] = ()
    document: str | None = None

    @classmethod
    def of(cls, run: OpenRun, paths: Sequence[str], document: str | None, notify: Notify) -> CorpusSource:
        """Find the files. Raises JobError, InputError for a file that cannot be read as its name says."""
        carry = () if document is None else (document,)
        options = tuple(CorpusOptions(path=path, min_chars=1, carry=carry) for path in paths)
        files = inspect(options, Path.cwd(), run.job.read_limits(), notify=notify) if options else []
        return cls(run, options, tuple(files), document)

    @property
    def fingerprint(self) -> str:
        """Identifies the index: the passages and the embedder. Reads all shards of the passages once."""
        step = self._step
        embed = self.run.job.embed
        what = {
            "format": 1,
            "document": self.document,
            "files": [(file.corpus_index, file.relative, file.sha256) for file in self.files],
            "shards": [step.checksum(index) for index in sorted(step.done())],
            "embed": None if embed is None else stage_identity(embed),
        }
        return identity.sha256(what)[:16]

    def texts(self) -> Iterator[CorpusText]:
        """Every passage, those of the files first; unusable rows as empty texts, duplicates included."""
        for name, text, chunked, row in self._rows():
            value = None if self.document is None else row.get(self.document)
            own = chunked if self.document is None or value is None else f"{self.document}\0{value}"
            yield CorpusText(name, text, own)

    @property
    def _step(self) -> StepFolder:
        passages = self.run.folder.step("passages")
        return passages if passages.done() and not self.files else self.run.folder.step("generated")

    def _rows(self) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
        """For each passage its id, its text, what it was cut from, and its columns."""
        if self.files:
            for block in read_passages(self.options, self.files, self.run.job.read_limits()):
                carried = itertools.repeat({}) if self.document is None else iter(block.carried.to_pylist())
                for row in block.outcomes:
                    if isinstance(row, PassageRow):
                        yield row.id, row.text, f"{row.source}\0{row.source_row}", next(carried)
                    else:
                        yield "", "", "", {}  # which the index counts
        step = self._step
        passages = step.name == "passages"
        ours = ("text", "id", "source", "source_row") if passages else ("passage", "passage_id", "id")
        for index in sorted(step.done()):
            present = step.schema(index).names
            if self.document not in (None, *present) and not self.files:
                raise JobError(
                    f"{step.file(index)}: has no column {self.document}.",
                    "Carry it: `carry` of the corpus, or name another with --document.",
                )
            names = [name for name in (*ours, self.document) if name in present]
            for each in step.read_columns(index, names).to_pylist():
                if passages:
                    yield each["id"], each["text"], f"{each['source']}\0{each['source_row']}", each
                else:
                    yield id_text(each.get("passage_id")) or each["id"], each["passage"] or "", "", each


def answers(
    step: StepFolder, corpus: Corpus, which: Literal["positives", "ambiguous"] = "positives"
) -> Iterator[tuple[NDArray[np.uint64], Rows]]:
    """Queries of a step with the row of each passage that answers it: its pairs', but for those labelled 0 or less.

    Of `relabelled/` also the further positives; or, in place of both, the passages that were `ambiguous`.
    """
    for index in sorted(step.done()):
        names = [name for name in ("query", "passage", "label", RELABELLED) if name in step.schema(index).names]
        if step.name != RELABELLED:
            names = [name for name in names if name != RELABELLED]
        pairs = []
        for row in step.read_columns(index, names).to_pylist():
            if row["query"] and row["passage"] and not denied(row):
                pairs += [(row["query"], row["passage"])] if which == "positives" else []
                pairs += [(row["query"], each["passage"]) for each in (row.get(RELABELLED) or {}).get(which, ())]
        rows = corpus.rows([passage for _, passage in pairs])
        found = rows >= 0
        yield query_keys(query for query, _ in pairs)[found], rows[found]


def denied(row: Mapping[str, Any]) -> bool:
    label = row.get("label")
    return label is not None and not label > 0


def finished(run: OpenRun, view: str) -> list[int]:
    """All shards of a view. Raises JobError if the run is not finished or has no such view."""
    totals = run.history.totals()
    done = run.folder.step(view).done()
    if not done and view != "kept":
        raise JobError(f"{run.folder.path}: has no view {view.removeprefix('views/')}.", "See: synth keep --as NAME")
    if totals is None or len(done) < totals["shards"]:
        count = "inputs not fully read" if totals is None else f"{len(done)} of {totals['shards']} shards"
        raise JobError(
            f"{run.folder.path}: the run is not finished ({view}: {count}), and the whole run is searched.",
            f"Finish it first: synth run {run.folder.path}",
        )
    return sorted(done)


def record_of(step: StepFolder) -> dict[str, Any]:
    """How `mined/` or `relabelled/` was made. Raises OutputError without a usable record."""
    path = step.path.parent / "index" / f"{step.name}-{step.meta(min(step.done())).identity[:16]}.json"
    try:
        record = json.loads(path.read_bytes())
        return {**record, "view": str(record["view"]), "options": dict(record["options"])}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        cure = f"Make it again: synth {'mine' if step.name == 'mined' else 'relabel'} {step.path.parent}"
        raise OutputError(f"{path}: does not record how {step.name}/ was made ({exc}).", cure) from exc


def misfit(step: StepFolder, base: StepFolder) -> str | None:
    """Why a step does not fit the pairs that it was made from as they stand now; None if it does."""
    there, done = step.done(), base.done()
    stale = [index for index in sorted(there & done) if step.stale(index, base.checksum(index))]
    if stale:
        return f"shard {stale[0]:08d} has changed since"
    return None if there == done else f"{len(there)} of {len(done)} shards are done"


def relabelled(folder: OutputFolder, view: str) -> bool:
    """Whether `relabelled/` has the pairs of this view. Raises JobError where it does not fit them any more."""
    step = folder.step(RELABELLED)
    if not step.done() or record_of(step)["view"] != view:
        return False
    if (what := misfit(step, folder.step(view))) is None:
        return True
    cure = f"Relabel to the end: synth relabel {folder.path}; or remove it: synth gc {folder.path} --view {RELABELLED}"
    raise JobError(f"{folder.path}: {RELABELLED}/ does not fit {view}: {what}.", cure)


TOGETHER = 4096
"""Pairs that are searched in one pass over the corpus, in whole shards."""

Options = TypeVar("Options", bound=Stage)


@dataclass(frozen=True, slots=True)
class Plan(Generic[Options]):
    """What a step is made from: options, view and corpus."""

    run: OpenRun
    use: str
    options: Options
    view: str
    source: CorpusSource

    def record(self) -> dict[str, Any]:
        """Everything that determines the result."""
        run, view = self.run, self.run.folder.step(self.view)
        embed = run.job.embed
        return {
            "format": 1,
            "use": self.use,
            "options": self.options.identity(),
            "view": self.view,
            "rules": view.meta(min(view.done())).identity,
            "corpus": self.source.fingerprint,
            "embed": None if embed is None else stage_identity(embed),
            "instruction": run.job.instruction,
            "seed": run.job.file.seed,
            "schema": SCHEMA_VERSION,
        }


class Neighbours(ABC, Generic[Options]):
    """One call of a command, between `prepare` and `swap`."""

    name: ClassVar[str]
    """Of the folder."""
    verb: ClassVar[str]
    """Of the command."""
    wanted = 0
    """Negatives that a pair should get."""
    counts: Any
    """A record with `shards` and `done`, and what the step counts."""

    def __init__(self, plan: Plan[Options], services: Services, notify: Notify) -> None:
        assert services.encoder is not None  # noqa: S101 - a plan without an embedder is refused
        self.plan, self.services, self._encoder, self._notify = plan, services, services.encoder, notify
        self.record = plan.record()
        self.fingerprint = identity.sha256(self.record)
        self._folder: OutputFolder = plan.run.folder
        self._view = self._folder.step(plan.view)
        self.hidden = self._folder.aside(self.name, self.fingerprint)
        self.step = self._folder.step(self.name, hidden=self.hidden)
        self._corpus: Corpus
        self._positives: Positives
        self._known: Positives

    async def prepare(self) -> list[int]:
        """Build the index if needed; returns the shards still to do. Raises JobError if nothing can be done."""
        shards = finished(self.plan.run, self.plan.view)
        self.step.settle()
        done = self.step.done()
        self.counts.shards = len(shards)
        for index in sorted(done):
            self._count(self.step.read(index).table, self.step.rejects(index))
        todo = [index for index in shards if index not in done]
        if todo:
            folder = self._folder.path / "index" / self.plan.source.fingerprint
            record = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
            self._folder.put_if_absent(f"index/{self.name}-{self.fingerprint[:16]}.json", record.encode())
            texts, stored = self.plan.source.texts, vectors_of(self.plan.run)
            self._corpus = await build(folder, texts, self._encoder, self._notify, self._check_size, stored)
            self._positives = Positives(answers(self._view, self._corpus))
            self._known = self._positives
        return todo

    async def work(self, todo: Sequence[int]) -> AsyncIterator[int]:
        """Do these shards; yields each when it is written. Skips those that another process works on."""
        waiting: list[tuple[int, Shard, list[Item], dict[int, str]]] = []
        for place, index in enumerate(todo):
            shard = self._view.read(index)
            waiting.append((index, shard, *await self._items(index, shard.table)))
            if sum(len(each[2]) for each in waiting) < TOGETHER and place < len(todo) - 1:
                continue
            items = [item for each in waiting for item in each[2]]
            pools = iter(await asyncio.to_thread(self._search, items))
            for number, read, mine, lost in waiting:
                near = list(itertools.islice(pools, len(mine)))
                if (journal := self.step.claim(number)) is None:
                    continue
                with closing(journal):
                    whole, reasons = await self._made(read.table, mine, near, lost, journal)
                    self._commit(number, read, whole, reasons)
                    journal.drop()
                yield number
            waiting = []

    async def conclude(self) -> None:
        """What is measured once all shards are there."""

    def swap(self) -> None:
        """Replace the step's folder by the hidden one once that is complete."""
        self.step.settle()
        if self.hidden and len(self.step.done()) == self.counts.shards:
            self._folder.swap_view(self.hidden, self.name)

    def _check_size(self, passages: int) -> None:
        """Raises JobError for a corpus that is too small."""

    @abstractmethod
    def _search(self, items: Sequence[Item]) -> Sequence[Pool]:
        """What the corpus holds for each item."""

    @abstractmethod
    async def _made(
        self, table: pa.Table, items: Sequence[Item], pools: Sequence[Pool], lost: Mapping[int, str], journal: Journal
    ) -> tuple[pa.Table, list[str | None]]:
        """A shard with what was found, all rows of `table`, and why each row is rejected, if it is.

        `items` are the rows that are not `lost`.
        """

    @abstractmethod
    def _count(self, table: pa.Table, rejects: pa.Table | None) -> None:
        """Count a finished shard in `counts`."""

    def _reads(self, names: Sequence[str]) -> list[str]:  # noqa: ARG002 - for steps that read some
        """The columns of a pair that it reads, besides id, query, passage and label."""
        return []

    def _completed(self, item: Item, row: Mapping[str, Any]) -> Item:  # noqa: ARG002 - as above
        """An item with what the step itself adds to it."""
        return item

    async def _items(self, index: int, table: pa.Table) -> tuple[list[Item], dict[int, str]]:
        names = table.column_names
        own = [name for name in ("id", "query", "passage", "label") if name in names]
        rows = table.select([*own, *self._reads(names)]).to_pylist()
        lost = {n: "no_positive" for n, row in enumerate(rows) if not (row["passage"] or "").strip() or denied(row)}
        lost |= {n: "no_query" for n, row in enumerate(rows) if not (row["query"] or "").strip()}
        queries = list(dict.fromkeys(row["query"] for n, row in enumerate(rows) if n not in lost))
        if not queries:
            return [], lost
        encoded, _ = await encode_all(self._encoder, queries, "query")
        vectors = dict(zip(queries, usable(encoded.vectors, self._corpus.width), strict=True))
        lowest = self._min_positive_scores(queries, vectors)
        items = []
        for n, row in enumerate(rows):
            if n in lost:
                continue
            query = row["query"]
            if not vectors[query].any() or not np.isfinite(lowest[query]):
                lost[n] = "no_vector"
                continue
            known = self._known.of(query_key(query))
            place = (*position_and_slot(row["id"]), index)
            item = Item(row["id"], *place, query, row["passage"], vectors[query], known, lowest[query])
            items.append(self._completed(item, row))
        return items, lost

    def _min_positive_scores(self, queries: Sequence[str], vectors: Mapping[str, Any]) -> dict[str, float]:
        """For each query the lowest cosine of its positives in the view; infinite if none of them has a vector."""
        found = [self._positives.of(query_key(query)) for query in queries]
        which = np.repeat(np.arange(len(queries)), [len(rows) for rows in found])
        rows = np.concatenate([np.empty(0, np.int64), *found])
        scores = products(np.array([vectors[query] for query in queries]), which, self._corpus, rows)
        scores[~self._corpus.gather(rows).any(axis=1)] = np.inf
        lowest = np.full(len(queries), np.inf)
        np.minimum.at(lowest, which, scores)
        return dict(zip(queries, lowest.tolist(), strict=True))

    def _commit(self, index: int, shard: Shard, whole: pa.Table, reasons: Sequence[str | None]) -> None:
        table, rejects = parted(whole, reasons, self.name, self.wanted)
        rows_in, rows_out, checksum = whole.num_rows, table.num_rows, self._view.checksum(index)
        origin = Origin(
            identity=self.fingerprint, input=checksum, first=shard.meta.first, rows_in=rows_in, rows_out=rows_out
        )
        self.step.commit(index, table, origin, rejects=rejects)
        self._count(table, rejects)
