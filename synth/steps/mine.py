"""Negatives for the pairs of a view: `mined/` has its shards with negatives, extra positives and refusals.

After a crash the same call resumes at its shard and writes the same bytes: a search is exact whichever queries are
searched together, and answers of models are in the shard's journal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import JobError
from synth.negatives import Item, Negatives, Positives, Selector, query_key, query_keys
from synth.registry import stage_identity
from synth.runs import identity
from synth.runs.run import OpenRun
from synth.search import Corpus, CorpusText, build, digest, products, usable
from synth.shards import Origin, OutputFolder, Shard, StepFolder
from synth.sources import Corpus as CorpusOptions
from synth.sources import InputFile, PassageRow, inspect, read_passages
from synth.sources.checks import id_text
from synth.stage import Services
from synth.steps.generate import JournaledChat
from synth.steps.score import vectors_of
from synth.tables import parted, with_columns
from synth.types import SCHEMA_VERSION, MinedPair, Notify, position_and_slot


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


def positives(step: StepFolder, corpus: Corpus) -> Positives:
    """Which rows of the corpus answer which query, by the pairs of a step without those labelled 0 or less."""
    parts = []
    for index in sorted(step.done()):
        names = [name for name in ("query", "passage", "label") if name in step.schema(index).names]
        table = step.read_columns(index, names).to_pylist()
        pairs = [(row["query"], row["passage"]) for row in table if row["query"] and row["passage"] and not denied(row)]
        rows = corpus.rows([passage for _, passage in pairs])
        found = rows >= 0
        parts.append((query_keys(query for query, _ in pairs)[found], rows[found]))
    return Positives(parts)


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
            f"{run.folder.path}: the run is not finished ({view}: {count}), and negatives come from the whole run.",
            f"Finish it first: synth run {run.folder.path}",
        )
    return sorted(done)


TOGETHER = 4096
"""Pairs that are searched in one pass over the corpus, in whole shards."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `mined/` is made from: options, view and corpus."""

    run: OpenRun
    use: str
    options: Negatives
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


@dataclass(slots=True)
class Counts:
    """What was mined so far, including shards of earlier calls."""

    shards: int = 0
    done: int = 0
    rows: int = 0
    full: int = 0
    too_few: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    negatives: int = 0
    extra_positives: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    written: int = 0
    """Of the negatives."""
    written_auc: float | None = None
    """How well a linear model tells written negatives from mined ones by their vectors: 0.5 not at all, 1 always."""

    def add(self, table: pa.Table, rejects: pa.Table | None, wanted: int) -> None:
        """Count a finished shard."""
        self.done += 1
        lengths = pc.list_value_length(table["negatives"]).to_numpy()
        self.rows += table.num_rows
        self.negatives += int(lengths.sum())
        sources = pc.struct_field(pc.list_flatten(table["negatives"]), "source")
        self.written += pc.sum(pc.equal(sources, "written")).as_py() or 0
        self.full += int((lengths >= wanted).sum())
        self.too_few += int((lengths < wanted).sum())
        self.extra_positives += int(pc.list_value_length(table["extra_positives"]).to_numpy().sum())
        for row in table["refused"].to_pylist():
            for each in row:
                self.refused[each["reason"]] = self.refused.get(each["reason"], 0) + each["count"]
        for reason in rejects["reason"].to_pylist() if rejects is not None else []:
            self.rows += 1
            self.dropped[reason] = self.dropped.get(reason, 0) + 1


PROBED = 500
FEWEST_PROBED = 30


def separability(vectors: NDArray[np.float32], labels: NDArray[np.int64], groups: Sequence[str]) -> float | None:
    """AUC of a logistic regression on vectors (n, width) for labels of 0 and 1, over five folds; None without sklearn.

    Texts of one group are in one fold, so that it learns no pair by heart. The shortcut and this way to see it are
    those of CausalNeg (arXiv 2606.01304).
    """
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - half a second, and only where it is used
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - as above
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict  # noqa: PLC0415 - as above
    except ImportError:
        return None
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(max_iter=1000)
    found = cross_val_predict(model, vectors, labels, groups=groups, cv=folds, method="decision_function")
    return round(float(roc_auc_score(labels, found)), 3)


class Mining:
    """One call of `synth mine`, between `prepare` and `finish`."""

    def __init__(self, plan: Plan, services: Services, notify: Notify) -> None:
        assert services.encoder is not None  # noqa: S101 - a plan without an embedder is refused
        self.plan, self.services, self._encoder, self._notify = plan, services, services.encoder, notify
        self.record = plan.record()
        self.fingerprint = identity.sha256(self.record)
        self.counts = Counts()
        self._folder: OutputFolder = plan.run.folder
        self._view = self._folder.step(plan.view)
        self.hidden = self._folder.aside("mined", self.fingerprint)
        self.step = self._folder.step("mined", hidden=self.hidden)
        self._corpus: Corpus
        self._known: Positives
        self._positives: Positives

    async def prepare(self) -> list[int]:
        """Build the index if needed; returns the shards still to do. Raises JobError if nothing can be mined."""
        shards = finished(self.plan.run, self.plan.view)
        self.step.settle()
        done = self.step.done()
        self.counts.shards = len(shards)
        for index in sorted(done):
            self.counts.add(self.step.read(index).table, self.step.rejects(index), self.plan.options.num_negatives)
        todo = [index for index in shards if index not in done]
        if todo:
            folder = self._folder.path / "index" / self.plan.source.fingerprint
            record = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
            self._folder.put_if_absent(f"index/mined-{self.fingerprint[:16]}.json", record.encode())
            texts, stored = self.plan.source.texts, vectors_of(self.plan.run)
            self._corpus = await build(folder, texts, self._encoder, self._notify, self._check_size, stored)
            self._known = positives(self._folder.step("generated"), self._corpus)
            self._positives = positives(self._view, self._corpus)
        return todo

    async def mine(self, todo: Sequence[int]) -> AsyncIterator[int]:
        """Mine these shards; yields each when it is written. Skips those that another process works on."""
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

    async def probe(self) -> None:
        """Count how well written negatives can be told from mined ones, once; a trainer would learn the difference.

        Up to `PROBED` of each are embedded. Without as many as `FEWEST_PROBED` of either, nothing is said.
        """
        if not self.plan.options.has_facets or self.counts.done < self.counts.shards:
            return
        name = f"index/mined-{self.fingerprint[:16]}-probe.json"
        path = self._folder.path / name
        if not path.exists():
            texts: dict[str, dict[str, str]] = {"mined": {}, "written": {}}
            for index in sorted(self.step.done()):
                for row in self.step.read_columns(index, ["id", "negatives"]).to_pylist():
                    for each in row["negatives"]:
                        texts.get(each["source"], {}).setdefault(each["passage"], row["id"])
            drawn = {source: sorted(found, key=digest)[:PROBED] for source, found in texts.items()}
            groups = [texts[source][text] for source, found in drawn.items() for text in found]
            value = None
            if min(map(len, drawn.values())) >= FEWEST_PROBED:
                encoded, _ = await encode_all(self._encoder, [*drawn["mined"], *drawn["written"]], "document")
                labels = np.repeat([0, 1], [len(found) for found in drawn.values()])
                value = await asyncio.to_thread(separability, encoded.vectors, labels, groups)
            self._folder.put_if_absent(name, json.dumps({"auc": value}).encode())
        self.counts.written_auc = json.loads(path.read_text(encoding="utf-8"))["auc"]

    def swap(self) -> None:
        """Replace `mined/` by the hidden folder once that is complete."""
        self.step.settle()
        if self.hidden and len(self.step.done()) == self.counts.shards:
            self._folder.swap_view(self.hidden, "mined")

    def _check_size(self, passages: int) -> None:
        problem = self.plan.options.corpus_problem(passages)
        if problem is not None:
            raise JobError(f"{problem[0]}, so no pair would get a negative.", problem[1])

    async def _items(self, index: int, table: pa.Table) -> tuple[list[Item], dict[int, str]]:
        options, names = self.plan.options, table.column_names
        own = [name for name in ("id", "query", "passage", "label") if name in names]
        rows = table.select([*own, *options.columns(names)]).to_pylist()
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
            chunks = np.empty(0, np.int64)
            if not options.same_document:
                chunks = np.setdiff1d(self._corpus.chunks(known), known, assume_unique=True)
            texts = (query, row["passage"], vectors[query])
            items.append(Item(row["id"], *place, *texts, known, lowest[query], chunks, options.supplied(row)))
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

    async def _finish(
        self, index: int, shard: Shard, items: Sequence[Item], pools: Sequence[Any], lost: Mapping[int, str]
    ) -> bool:
        journal = self.step.claim(index)
        if journal is None:
            return False
        with closing(journal):
            options, seed, services = self.plan.options, self.plan.run.job.file.seed, self.services
            chat = JournaledChat(services.chat, journal, lambda: False) if services.chat is not None else None
            selector = Selector(options, self._corpus, seed, self._encoder, chat, services.reranker, journal)
            found: list[MinedPair] = []
            if items:
                found = await selector.choose(items, await options.candidates(items, pools, selector))
            self._commit(index, shard, found, lost)
            journal.drop()
        return True

    def _commit(self, index: int, shard: Shard, found: Sequence[MinedPair], lost: Mapping[int, str]) -> None:
        wanted = self.plan.options.num_negatives
        ends = iter(found)
        by_row = [MinedPair() if n in lost else next(ends) for n in range(shard.table.num_rows)]
        reasons = [lost.get(n) for n in range(len(by_row))]
        if self.plan.options.on_short == "drop":
            few = ["too_few" if len(each.negatives) < wanted else None for each in by_row]
            reasons = [reason or other for reason, other in zip(reasons, few, strict=True)]
        whole = with_columns(shard.table, by_row, facets=self.plan.options.has_facets)
        table, rejects = parted(whole, reasons, wanted)
        rows_in, rows_out, checksum = whole.num_rows, table.num_rows, self._view.checksum(index)
        origin = Origin(
            identity=self.fingerprint, input=checksum, first=shard.meta.first, rows_in=rows_in, rows_out=rows_out
        )
        self.step.commit(index, table, origin, rejects=rejects)
        self.counts.add(table, rejects, wanted)
