"""Parquet for sentence-transformers: its collator feeds every column to the model, so there are texts and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import pyarrow as pa

from synth.exports._export import PART, Export, Files, front_matter, tokens
from synth.exports._rows import Batch, Counts, Facts, Shape, Source, logit, meta
from synth.tables import TEXT
from synth.types import Layout
from synth.validation import Size

__all__ = ["SentenceTransformers"]


class SentenceTransformers(Export):
    """Columns anchor, positive, negative_1 … negative_n, the same n in every row; ids and numbers in the config `meta`.

    Without `negatives`, n is the greatest number that nine in ten of the pairs with any have. An extra positive of a
    pair makes a row of its own. Also writes train.py, a script that trains on these files.

    Pairs that a task grades become sentence1, sentence2, score (0 to 1), for CoSENT; `form: triplets` takes the triples
    among them.

    Three forms have a teacher's scores as `label`, of pairs whose every passage a reranker scored: `kl` a list of
    logits, positive first, for DistillKLDivLoss; `margin` a row for each negative, and how much more probable the
    positive is, for MarginMSELoss; `pairs` a row for each passage, with its probability, for a CrossEncoder.
    """

    title: ClassVar[str] = "sentence-transformers"
    hub: ClassVar[bool] = True

    part_size: Size = PART
    """Bytes after which a new Parquet file begins."""
    form: Literal["scores", "triplets", "kl", "margin", "pairs"] = "scores"
    """What pairs with a grade become: all of them with their `scores`, or those with negatives as `triplets`. `kl`,
    `margin` and `pairs`: rows with a teacher's scores."""

    score: str | None = None
    """The column to take as scores, as it stands, such as a judge's; null: the grade that the task asked for."""

    def layout(self, layout: Layout) -> Layout:
        return layout if self.score is None else replace(layout, score=self.score, scale=(0.0, 1.0))

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None and self.form == "scores"

    def shape(self, found: Counts, mined: int | None) -> Shape:
        """The same number for every row; any where each negative has a row of its own."""
        if self.form in {"margin", "pairs"}:
            return Shape(int(self.form == "margin"), self.negatives, self.on_short, taught=True)
        count = self.same_number(found, mined)
        if self.form == "kl":
            return Shape(max(count, 1), max(count, 1), self.on_short, taught=True)
        return Shape(count, count, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        for batch in source.batches(facts.shape):
            told = meta(batch, one_answer=True)
            if facts.shape.taught:
                texts, places = _taught(batch, self.form, facts.shape.least)
                told = told.take(pa.array(places, pa.int64()))
            else:
                texts = _scored(batch, facts.layout) if facts.shape.graded else _texts(batch, facts.shape.least)
            files.table(f"data/{batch.split}", texts, self.part_size)
            files.table(f"meta/{batch.split}", told, self.part_size)
        if self.form != "pairs":
            files.text("train.py", self.render("train.py.j2", facts, self._values(facts)))

    def card(self, facts: Facts) -> str:
        configs = {
            "default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows},
            "meta": {split: f"meta/{split}-*.parquet" for split in facts.counts.rows},
        }
        return front_matter(configs, facts, ["sentence-transformers"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        return self.render("sentence_transformers.md.j2", facts, self._values(facts))

    def _values(self, facts: Facts) -> dict[str, object]:
        prompt = len(self.prompt(facts.instruction).encode())
        passage = facts.counts.passage_bytes + (prompt if facts.layout.symmetric else 0)
        longest = max(passage, facts.counts.query_bytes + prompt)
        if self.form == "pairs":  # which are read together
            longest = facts.counts.passage_bytes + facts.counts.query_bytes
        return {"n": facts.shape.least, "tokens": tokens(longest), "form": self.form if facts.shape.taught else None}


def _scored(batch: Batch, layout: Layout) -> pa.Table:
    """Pairs with their grade as a score from 0 to 1, or another column's score as it stands."""
    low, high = layout.scale
    scores = pa.array([((row.score or 0.0) - low) / (high - low) for row in batch.rows], pa.float32())
    texts = [pa.array([each.query for each in batch.rows], TEXT), pa.array([each.passage for each in batch.rows], TEXT)]
    return pa.table([*texts, scores], names=["sentence1", "sentence2", "score"])


def _texts(batch: Batch, count: int) -> pa.Table:
    rows = [
        (row.query, positive, *(each.passage for each in row.negatives))
        for row in batch.rows
        for positive in row.answers
    ]
    names = ["anchor", "positive", *(f"negative_{n}" for n in range(1, count + 1))]
    return pa.table([pa.array(column, TEXT) for column in zip(*rows, strict=True)], names=names)


def _taught(batch: Batch, form: str, count: int) -> tuple[pa.Table, list[int]]:
    """Rows with a teacher's scores as `label`, and for each the place among all answers of the one it goes with."""
    rows: list[tuple[Any, ...]] = []
    places: list[int] = []
    place = 0
    for row in batch.rows:
        negatives = [(each.passage, each.reranker or 0.0) for each in row.negatives]
        for n, (positive, score) in enumerate(row.taught):
            made: list[tuple[Any, ...]]
            if form == "kl":
                label = [logit(each) for each in (score, *(other for _, other in negatives))]
                made = [(row.query, positive, *(text for text, _ in negatives), label)]
            elif form == "margin":
                made = [(row.query, positive, text, (score or 0.0) - other) for text, other in negatives]
            else:
                made = [(row.query, *each) for each in ((positive, score), *(negatives if n == 0 else ()))]
            rows += made
            places += [place] * len(made)
            place += 1
    texts = {
        "kl": ["anchor", "positive", *(f"negative_{n}" for n in range(1, count + 1))],
        "margin": ["anchor", "positive", "negative"],
        "pairs": ["query", "passage"],
    }[form]
    kinds = [TEXT] * len(texts) + [pa.list_(pa.float32()) if form == "kl" else pa.float32()]
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return pa.table(columns, names=[*texts, "label"]), places
