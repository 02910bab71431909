"""JSON lines for Tevatron: passages with ids, and the corpus to encode."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.exports._export import PART, Export, Files, front_matter, tokens
from synth.exports._rows import Corpus, Facts, Source, meta

__all__ = ["Tevatron"]


class Tevatron(Export):
    """`query_id`, `query`, `positive_passages`, `negative_passages`; `corpus.jsonl` holds every passage once.

    Tevatron on PyPI (0.1.0) has no option for a prompt, so the instruction is in the query.
    """

    title: ClassVar[str] = "Tevatron"
    hub: ClassVar[bool] = True

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then rows that name it."""
        prompt = self.prompt(facts.instruction)
        corpus = Corpus(source, lambda *passage: files.line("corpus.jsonl", _passage(*passage)))

        def named(text: str, wanted: str | None) -> dict[str, str]:
            return _passage(corpus.name(text, wanted), "", text)

        for batch in source.batches(facts.shape):
            for row in batch.rows:
                found: dict[str, Any] = {
                    "query_id": row.id,
                    "query": prompt + row.query,
                    "positive_passages": [
                        named(row.passage, row.passage_id),
                        *(named(each.passage, each.passage_id) for each in row.extra_positives),
                    ],
                    "negative_passages": [named(each.passage, each.passage_id) for each in row.negatives],
                }
                files.line(f"{batch.split}.jsonl", found)
            files.table(f"meta/{batch.split}", meta(batch), PART)

    def card(self, facts: Facts) -> str:
        configs = {
            "default": {split: f"{split}.jsonl" for split in facts.counts.rows},
            "corpus": {"train": "corpus.jsonl"},
        }
        return front_matter(configs, facts, ["tevatron"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """The command of Tevatron 0.1.0, whose model reads 512 tokens at most."""
        query = facts.counts.query_bytes + len(self.prompt(facts.instruction))
        limits = {"query_tokens": tokens(query), "passage_tokens": tokens(facts.counts.passage_bytes)}
        return self.render("tevatron.md.j2", facts, {name: min(512, limit) for name, limit in limits.items()})


def _passage(name: str, title: str, text: str) -> dict[str, str]:
    return {"docid": name, "title": title, "text": text}
