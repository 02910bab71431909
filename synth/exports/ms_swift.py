"""Conversations for ms-swift 4.x: `embedding/` with the prompt in the query, `reranker/` with it as system message."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.exports._export import PART, Export, Files, tokens
from synth.exports._rows import Facts, Source, meta

__all__ = ["MsSwift"]


class MsSwift(Export):
    """`messages`, `positive_messages`, `negative_messages`, for embedding and for reranker training.

    For embedding only the first positive of a row counts, so an extra one makes a row of its own. Rerankers need
    negatives: without any only `embedding/` is written.
    """

    title: ClassVar[str] = "ms-swift 4.x"

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Both forms in one pass."""
        prompt = self.prompt(facts.instruction)
        reranker = facts.shape.least > 0
        before = prompt if facts.layout.symmetric else ""
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                negatives = [each.passage for each in row.negatives]
                for positive in row.answers:
                    found: dict[str, Any] = {
                        "messages": _message("user", prompt + row.query),
                        "positive_messages": [_message("user", before + positive)],
                    }
                    if negatives:
                        found["negative_messages"] = [_message("user", before + text) for text in negatives]
                    files.line(f"embedding/{batch.split}.jsonl", found)
                if reranker:
                    found = {
                        "messages": _message("system", facts.instruction) + _message("user", row.query),
                        "positive_messages": [_message("assistant", text) for text in row.answers],
                        "negative_messages": [_message("assistant", text) for text in negatives],
                    }
                    files.line(f"reranker/{batch.split}.jsonl", found)
            files.table(f"meta/embedding/{batch.split}", meta(batch, one_answer=True), PART)
            if reranker:
                files.table(f"meta/reranker/{batch.split}", meta(batch), PART)

    def train(self, facts: Facts) -> str:
        """Environment and command; defaults of ms-swift that do not fit are named."""
        passage, query = facts.counts.passage_bytes, facts.counts.query_bytes
        limits = {"passage_tokens": tokens(passage), "both_tokens": tokens(passage + query)}
        return self.render("ms_swift.md.j2", facts, limits)


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]
