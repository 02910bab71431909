"""Conversations for ms-swift 4.x: `embedding/` with the prompt in the query, `reranker/` with it as system message."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.exports._export import PART, Export, tokens
from synth.exports._rows import Facts, Row, Source, meta
from synth.exports._writers import Files

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
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                for positive in row.answers:
                    files.line(f"embedding/{batch.split}.jsonl", _embedding(row, positive, prompt))
                if reranker:
                    files.line(f"reranker/{batch.split}.jsonl", _reranker(row, facts.instruction))
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


def _embedding(row: Row, positive: str, prompt: str) -> dict[str, Any]:
    found = {"messages": _message("user", prompt + row.query), "positive_messages": [_message("user", positive)]}
    negatives = [_message("user", each.passage) for each in row.negatives]
    return found | ({"negative_messages": negatives} if negatives else {})


def _reranker(row: Row, instruction: str) -> dict[str, Any]:
    return {
        "messages": _message("system", instruction) + _message("user", row.query),
        "positive_messages": [_message("assistant", text) for text in row.answers],
        "negative_messages": [_message("assistant", each.passage) for each in row.negatives],
    }
