"""PyLate's data for distillation: `train` with scored lists of ids, `queries` and `documents` with the texts."""

from __future__ import annotations

from typing import ClassVar

from synth.exports._export import PART, Export, Files, front_matter, tokens
from synth.exports._rows import Counts, Facts, Ids, Shape, Source, meta

__all__ = ["Pylate"]


class Pylate(Export):
    """`query_id`, `document_ids` and `scores`, as many in every row, positive first; the texts are in other files.

    Scores are a reranker's probabilities. Rows with a passage that it did not score are left out. An extra positive of
    a pair makes a row of its own.
    """

    title: ClassVar[str] = "PyLate"
    hub: ClassVar[bool] = True

    def shape(self, found: Counts, mined: int | None) -> Shape:
        """As many negatives in every row, at least one."""
        count = max(self.same_number(found, mined), 1)
        return Shape(count, count, self.on_short, taught=True)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Texts when they are first named, then the row that names them."""
        queries, documents = Ids(), Ids()

        def document(text: str, wanted: str | None) -> str:
            name, new = documents.add(text, wanted)
            if new:
                files.line("documents.jsonl", {"document_id": name, "text": text})
            return name

        for batch in source.batches(facts.shape):
            for row in batch.rows:
                query, new = queries.add(row.query, row.id)
                if new:
                    files.line("queries.jsonl", {"query_id": query, "text": row.query})
                ids = [row.passage_id, *(each.passage_id for each in row.extra_positives)]
                negatives = [document(each.passage, each.passage_id) for each in row.negatives]
                below = [each.reranker for each in row.negatives]
                for (text, score), wanted in zip(row.taught, ids, strict=True):
                    found = {"query_id": query, "document_ids": [document(text, wanted), *negatives]}
                    files.line(f"{batch.split}.jsonl", found | {"scores": [score, *below]})
            files.table(f"meta/{batch.split}", meta(batch, one_answer=True), PART)

    def card(self, facts: Facts) -> str:
        configs = {
            "train": {split: f"{split}.jsonl" for split in facts.counts.rows},
            "queries": {"train": "queries.jsonl"},
            "documents": {"train": "documents.jsonl"},
        }
        return front_matter(configs, facts, ["pylate"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        limits = {
            "query_tokens": tokens(facts.counts.query_bytes),
            "passage_tokens": tokens(facts.counts.passage_bytes),
        }
        return self.render("pylate.md.j2", facts, limits | {"n": facts.shape.least + 1})
