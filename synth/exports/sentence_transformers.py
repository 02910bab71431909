"""Parquet for sentence-transformers: its collator feeds every column to the model, so there are texts and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import pyarrow as pa

from synth.exports._export import PART, Export, Files, front_matter, tokens
from synth.exports._rows import Batch, Counts, Facts, Shape, Source, meta
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
    """

    title: ClassVar[str] = "sentence-transformers"
    hub: ClassVar[bool] = True

    part_size: Size = PART
    """Bytes after which a new Parquet file begins."""
    form: Literal["scores", "triplets"] = "scores"
    """What pairs with a grade become: all of them with their `scores`, or those with negatives as `triplets`."""

    score: str | None = None
    """The column to take as scores, as it stands, such as a judge's; null: the grade that the task asked for."""

    def layout(self, layout: Layout) -> Layout:
        return layout if self.score is None else replace(layout, score=self.score, scale=(0.0, 1.0))

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None and self.form == "scores"

    def shape(self, found: Counts, mined: int | None) -> Shape:
        """The same number for every row: the requested one, else the most that nine in ten of those with any have."""
        count = self.negatives
        if count is None:
            some, enough = max(1, found.lengths.total() - found.lengths[0]), 0.9
            shares = {
                n: sum(found.lengths[m] for m in found.lengths if m >= n) / some for n in range(2, (mined or 0) + 1)
            }
            count = max((n for n, share in shares.items() if share >= enough), default=1 if mined else 0)
        return Shape(count, count, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        for batch in source.batches(facts.shape):
            texts = _scored(batch, facts.layout) if facts.shape.graded else _texts(batch, facts.shape.least)
            files.table(f"data/{batch.split}", texts, self.part_size)
            files.table(f"meta/{batch.split}", meta(batch, one_answer=True), self.part_size)
        files.text("train.py", self.render("train.py.j2", facts, {"tokens": self._tokens(facts)}))

    def card(self, facts: Facts) -> str:
        configs = {
            "default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows},
            "meta": {split: f"meta/{split}-*.parquet" for split in facts.counts.rows},
        }
        return front_matter(configs, facts, ["sentence-transformers"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        return self.render(
            "sentence_transformers.md.j2", facts, {"n": facts.shape.least, "tokens": self._tokens(facts)}
        )

    def _tokens(self, facts: Facts) -> int:
        prompt = len(self.prompt(facts.instruction).encode())
        passage = facts.counts.passage_bytes + (prompt if facts.layout.symmetric else 0)
        return tokens(max(passage, facts.counts.query_bytes + prompt))


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
