"""A BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

from synth.exports._export import Export, block, page
from synth.exports._rows import Counts, Document, Facts, Ids, Shape, Source, documents
from synth.exports._writers import Files

__all__ = ["Beir"]

_HEADER = ("query-id", "corpus-id", "score")


class Beir(Export):
    """A retrieval benchmark: every passage of the run is in the corpus, equal texts once, and pairs are its judgements.

    Equal queries are one query with several relevant passages. Without `--split` all judgements are `test`, the split
    that evaluations ask for. Mined negatives are no judgements and join the corpus only.
    """

    title: ClassVar[str] = "BEIR"
    whole: ClassVar[str] = "test"

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """Any number."""
        del found, asked
        return Shape(0, self.negatives, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then queries and judgements as they come."""
        passages, queries = Ids(), Ids()
        for passage in documents(source, passages):
            files.line("corpus.jsonl", _passage(passage))

        def named(text: str, wanted: str | None) -> str:
            name, new = passages.add(text, wanted)
            if new:
                files.line("corpus.jsonl", _passage(Document(name, "", text)))
            return name

        seen: set[str] = set()
        for batch in source.batches(facts.shape):
            judged = f"qrels/{batch.split}.tsv"
            if judged not in seen:
                files.text(judged, _tsv(_HEADER))
                seen.add(judged)
            for row in batch.rows:
                query, new = queries.add(row.query, row.id)
                if new:
                    files.line("queries.jsonl", {"_id": query, "text": row.query})
                files.text(judged, _tsv((query, named(row.passage, row.passage_id), str(row.relevance))))
                for each in row.positives:
                    files.text(judged, _tsv((query, named(each.passage, each.passage_id), "1")))
                for each in row.negatives:
                    named(each.passage, each.passage_id)

    def train(self, facts: Facts) -> str:
        """How to evaluate on it."""
        split = next(name for name in facts.counts.rows if name != "train")
        return page(
            facts,
            "A benchmark in BEIR's layout",
            block(
                "python",
                "from beir.datasets.data_loader import GenericDataLoader",
                "",
                f'corpus, queries, qrels = GenericDataLoader({str(facts.folder)!r}).load(split="{split}")',
            ),
            "Queries are bare; a model that wants an instruction gets it as its query prompt:",
            block("", self.prefix(facts.instruction) + "…"),
            "Judgements are sparse: a passage that no query was made from may still answer one, so read differences "
            "between models, not absolute figures.",
        )


def _passage(each: Document) -> dict[str, str]:
    return {"_id": each.id, "title": each.title, "text": each.text}


def _tsv(values: tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow(values)
    return line.getvalue()
