"""Negatives for the pairs of a view: `mined/` has its shards with negatives, extra positives and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import JobError
from synth.negatives import Item, Negatives, Pool, Positives, Selector, query_key
from synth.search import digest
from synth.shards import Journal
from synth.stage import Services
from synth.steps.generate import JournaledChat
from synth.steps.neighbours import RELABELLED, Neighbours, Plan, answers
from synth.tables import with_columns
from synth.types import MinedPair, Negative, Notify


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


class Mining(Neighbours[Negatives]):
    """One call of `synth mine`."""

    name, verb = "mined", "mine"
    counts: Counts

    def __init__(self, plan: Plan[Negatives], services: Services, notify: Notify) -> None:
        super().__init__(plan, services, notify)
        self.counts, self.wanted = Counts(), plan.options.num_negatives
        self._doubtful = Positives(())

    async def prepare(self) -> list[int]:
        """As in the base, with the positives of all pairs of the run, and what `synth relabel` found ambiguous."""
        todo = await super().prepare()
        if todo:
            generated = answers(self._folder.step("generated"), self._corpus)
            if self.plan.view == RELABELLED:
                self._doubtful = Positives(answers(self._view, self._corpus, "ambiguous"))
                generated = chain(generated, answers(self._view, self._corpus))
            self._known = Positives(generated)
        return todo

    async def conclude(self) -> None:
        """Count how well written negatives can be told from mined ones, once; a trainer would learn the difference.

        Up to `PROBED` of each are embedded. Without as many as `FEWEST_PROBED` of either, nothing is said.
        """
        if not self.plan.options.has_facets:
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

    def _count(self, table: pa.Table, rejects: pa.Table | None) -> None:
        self.counts.add(table, rejects, self.wanted)

    def _check_size(self, passages: int) -> None:
        problem = self.plan.options.corpus_problem(passages)
        if problem is not None:
            raise JobError(f"{problem[0]}, so no pair would get a negative.", problem[1])

    def _search(self, items: Sequence[Item]) -> Sequence[Pool]:
        return self.plan.options.search(items, self._corpus, self._positives.most)

    def _reads(self, names: Sequence[str]) -> list[str]:
        return self.plan.options.columns(names)

    def _completed(self, item: Item, row: Mapping[str, Any]) -> Item:
        doubtful = self._doubtful.of(query_key(item.query))
        never = doubtful
        if not self.plan.options.same_document:
            never = np.union1d(doubtful, self._corpus.chunks(item.known))
        never = np.setdiff1d(never, item.known, assume_unique=True)
        return replace(item, never=never, doubtful=doubtful, supplied=self.plan.options.supplied(row))

    async def _made(
        self, table: pa.Table, items: Sequence[Item], pools: Sequence[Pool], lost: Mapping[int, str], journal: Journal
    ) -> tuple[pa.Table, list[str | None]]:
        options, seed, services = self.plan.options, self.plan.run.job.file.seed, self.services
        chat = JournaledChat(services.chat, journal, lambda: False) if services.chat is not None else None
        selector = Selector(options, self._corpus, seed, self._encoder, chat, services.reranker, journal)
        found: list[MinedPair] = []
        if items:
            found = await selector.choose(items, await options.candidates(items, pools, selector))
        ends = iter(found)
        by_row = [MinedPair() if n in lost else next(ends) for n in range(table.num_rows)]
        if self.plan.view == RELABELLED:
            for each, value in zip(by_row, table[RELABELLED].to_pylist(), strict=True):
                each.extra_positives[:0] = [Negative(**positive) for positive in value["positives"]]
        reasons = [lost.get(n) for n in range(len(by_row))]
        if options.on_short == "drop":
            few = ["too_few" if len(each.negatives) < self.wanted else None for each in by_row]
            reasons = [reason or other for reason, other in zip(reasons, few, strict=True)]
        return with_columns(table, by_row, facets=options.has_facets), reasons
