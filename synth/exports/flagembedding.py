"""JSON lines for FlagEmbedding: query, pos, neg, and a teacher's scores where a reranker graded every passage."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.errors import JobError
from synth.exports._export import PART, Export, Files, tokens
from synth.exports._rows import Counts, Facts, Shape, Source, logit, meta

__all__ = ["FlagEmbedding"]


class FlagEmbedding(Export):
    """`query`, `pos`, `neg`, `prompt`, each split in a folder of its own because the trainer reads whole folders.

    A row without negatives divides by zero there, so none is written: mine first, or `on_short: fill`.
    """

    title: ClassVar[str] = "FlagEmbedding"

    def shape(self, found: Counts, mined: int | None) -> Shape:
        """At least one. Raises JobError if no pair has any."""
        if self.negatives == 0 or (self.on_short == "drop" and not any(found.lengths)):
            raise JobError(
                "flagembedding: needs a negative in every row, but no pair has any.",
                "Mine them with `synth mine`, or use random passages of other pairs: --on-short fill",
            )
        return super().shape(found, mined)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The prompt is in every row, as its own field."""
        prompt, _ = self._prompt(facts.instruction)
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                found: dict[str, Any] = {
                    "query": row.query,
                    "pos": row.answers,
                    "neg": [each.passage for each in row.negatives],
                }
                if facts.counts.teacher:
                    found["pos_scores"] = [round(logit(score), 6) for _, score in row.taught]
                    found["neg_scores"] = [round(logit(each.reranker), 6) for each in row.negatives]
                if prompt:
                    found["prompt"] = prompt
                files.line(f"{batch.split}{_suffix(facts)}/{batch.split}.jsonl", found)
            files.table(f"meta/{batch.split}", meta(batch), PART)

    def train(self, facts: Facts) -> str:
        """The command, with distillation where there are scores."""
        prompt, form = self._prompt(facts.instruction)
        query_tokens = tokens(facts.counts.query_bytes + len(prompt) + len(form))
        passage_tokens = query_tokens if facts.layout.symmetric else tokens(facts.counts.passage_bytes)
        values = {"prompt": prompt, "form": form, "query_tokens": query_tokens, "passage_tokens": passage_tokens}
        values["suffix"] = _suffix(facts)
        return self.render("flagembedding.md.j2", facts, values)

    def _prompt(self, instruction: str) -> tuple[str, str]:
        """The prompt and the format that puts it before the query; empty where the template is bare."""
        head, _, rest = self.query_template.removesuffix("{query}").partition("{instruction}")
        if "{instruction}" in self.query_template and not set("{}") & set(head + rest):
            return instruction, f"{head}{{}}{rest}{{}}"
        return self.prompt(instruction), "{}{}"


def _suffix(facts: Facts) -> str:
    """What the trainer knows a folder by whose positives repeat, so that no other row's is a negative."""
    return "_no_in_batch_neg" if facts.layout.labels else ""
