"""A BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

from synth.exports._export import Benchmark, Files
from synth.exports._rows import Facts, Source

__all__ = ["Beir"]


class Beir(Benchmark):
    """A retrieval benchmark: every passage of the run is in the corpus, equal texts once, and pairs are its judgements.

    Equal queries are one query with several relevant passages. Without `--split` all judgements are `test`, the split
    that evaluations ask for. Mined negatives are not judgements; they only join the corpus.
    """

    title: ClassVar[str] = "BEIR"

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        for split, rows in facts.counts.rows.items():
            if rows:
                files.text(f"qrels/{split}.tsv", _tsv("query-id", "corpus-id", "score"))
        super().write(source, facts, files)

    def passage(self, files: Files, name: str, title: str, text: str) -> None:
        files.line("corpus.jsonl", {"_id": name, "title": title, "text": text})

    def query(self, files: Files, name: str, text: str) -> None:
        files.line("queries.jsonl", {"_id": name, "text": text})

    def judgement(self, files: Files, split: str, query: str, passage: str, relevance: int) -> None:
        files.text(f"qrels/{split}.tsv", _tsv(query, passage, str(relevance)))

    def train(self, facts: Facts) -> str:
        return self.render("beir.md.j2", facts, {"split": self.evaluated(facts)})


def _tsv(*values: str) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, delimiter="\t").writerow(values)  # quotes what has a character of its line end
    return line.getvalue().removesuffix("\r\n") + "\n"
