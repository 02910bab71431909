"""JSON lines for FlagEmbedding: query, pos, neg, and a teacher's scores where a reranker graded every passage."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from synth.errors import JobError
from synth.exports._export import TEMPERATURE, Export, block, page, quoted, tokens
from synth.exports._rows import Counts, Facts, Row, Shape, Source, meta
from synth.exports._writers import Files

__all__ = ["FlagEmbedding"]

_PART = 256_000_000
_GRADED = "`pos_scores` and `neg_scores` are the logits of the reranker's P(yes)."
_UNGRADED = "There are no teacher scores: a reranker did not grade every passage. Leave --knowledge_distillation off."
_NOTES = """Queries in the file are bare: their `prompt` counts only when --query_instruction_for_retrieval is given.
`meta/`, row by row the same: ids, scores, and why each negative is one. The trainer draws `train_group_size` less one
of a row's negatives, some of them twice where there are fewer. It has no sampler that keeps equal passages out of a
batch: let `synth keep` hold one query a passage, `unique: {by: passage_cluster, best: cosine}`."""
_SURE = 1e-6
"""Probabilities are kept this far from 0 and 1, so that their logits stay finite (±13.8)."""


class FlagEmbedding(Export):
    """`query`, `pos`, `neg`, `prompt`, each split in a folder of its own because the trainer reads whole folders.

    A row without negatives divides by zero there, so none is written: mine first, or `on_short: fill`.
    """

    title: ClassVar[str] = "FlagEmbedding"

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """One at least. Raises JobError where no pair has any."""
        if self.negatives == 0 or (self.on_short == "drop" and not any(found.lengths)):
            raise JobError(
                "flagembedding: needs a negative in every row, and there are none.",
                "Mine them with `synth mine`, or let random passages of other pairs stand in: --on-short fill",
            )
        return super().shape(found, asked)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The prompt is in every row, as its own field."""
        prompt, _ = self._prompt(facts.instruction)
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                files.line(f"{batch.split}/{batch.split}.jsonl", _line(row, prompt, teacher=facts.counts.teacher))
            files.table(f"meta/{batch.split}", meta(batch), _PART)

    def train(self, facts: Facts) -> str:
        """The command, with distillation where there are scores."""
        prompt, form = self._prompt(facts.instruction)
        count = facts.negatives()
        teacher = ["  --knowledge_distillation True \\"] if facts.counts.teacher else []
        asked = [
            f"  --query_instruction_for_retrieval {quoted(prompt)} \\",
            f"  --query_instruction_format {quoted(form)} \\",
        ]
        lines = [
            "torchrun --nproc_per_node 1 -m FlagEmbedding.finetune.embedder.decoder_only.base \\",
            "  --model_name_or_path Qwen/Qwen3-Embedding-0.6B --use_lora False --output_dir model \\",
            f"  --train_data {quoted(str(facts.folder / 'train'))} \\",
            *(asked if prompt else []),
            f"  --train_group_size {1 + count} --same_dataset_within_batch True \\",
            (
                f"  --query_max_len {tokens(facts.counts.query_bytes + len(prompt) + len(form))} "
                f"--passage_max_len {tokens(facts.counts.passage_bytes)} \\"
            ),
            f"  --temperature {TEMPERATURE:g} --normalize_embeddings True --sentence_pooling_method last_token \\",
            *teacher,
            (
                "  --negatives_cross_device --per_device_train_batch_size 32 --learning_rate 1e-5 --num_train_epochs 1 "
                f"--seed {facts.seed}"
            ),
        ]
        scores = _GRADED if facts.counts.teacher else _UNGRADED
        return page(facts, "Training with FlagEmbedding", block("bash", *lines), scores, _NOTES)

    def _prompt(self, instruction: str) -> tuple[str, str]:
        """The prompt and the format that puts it before the query; empty where the template is bare."""
        head, _, rest = self.query_template.removesuffix("{query}").partition("{instruction}")
        if "{instruction}" in self.query_template and not set("{}") & set(head + rest):
            return instruction, f"{head}{{}}{rest}{{}}"
        return self.prefix(instruction), "{}{}"


def _line(row: Row, prompt: str, *, teacher: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "query": row.query,
        "pos": [row.passage, *(each.passage for each in row.positives)],
        "neg": [each.passage for each in row.negatives],
    }
    if teacher:
        found["pos_scores"] = [_logit(row.reranker), *(_logit(each.reranker) for each in row.positives)]
        found["neg_scores"] = [_logit(each.reranker) for each in row.negatives]
    return found | ({"prompt": prompt} if prompt else {})


def _logit(probability: float | None) -> float:
    assert probability is not None  # noqa: S101 - every passage is graded where there is a teacher
    near = min(max(probability, _SURE), 1 - _SURE)
    return round(math.log(near / (1 - near)), 6)
