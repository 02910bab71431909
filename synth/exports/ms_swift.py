"""Conversations for ms-swift 4.x: `embedding/` with the prompt in the query, `reranker/` with it as system message."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.exports._export import TEMPERATURE, Export, block, page, quoted, tokens
from synth.exports._rows import Facts, Row, Source, meta
from synth.exports._writers import Files

__all__ = ["MsSwift"]

_PART = 256_000_000
_LOSS = """`INFONCE_TEMPERATURE` is 0.1 unless set. The mask leaves out in-batch negatives that score above the positive
by 0.1; INCLUDE_QQ and INCLUDE_DD add query–query and passage–passage terms: the loss of the Qwen3-Embedding report,
but for passage–passage terms, which ms-swift does not mask.
ms-swift has no sampler that keeps an equal passage out of a batch, and the mask does not see it: with several queries
a passage let `synth keep` hold one, `unique: {by: passage_cluster, best: cosine}`. The instruction is in the user
message: as a system message it would stand before it with a space between."""
_FORMER = """In ms-swift 4 `--train_type` is `--tuner_type`, and rows of the form query, response, rejected_response are
read as preference data, not as negatives."""


class MsSwift(Export):
    """`messages`, `positive_messages`, `negative_messages`, for embedding and for reranker training.

    For embedding only the first positive of a row counts, so a further one makes a row of its own. Rerankers need
    negatives: without any only `embedding/` is written.
    """

    title: ClassVar[str] = "ms-swift 4.x"

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Both forms in one pass."""
        prefix = self.prefix(facts.instruction)
        reranker = facts.shape.least > 0
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                for positive in (row.passage, *(each.passage for each in row.positives)):
                    files.line(f"embedding/{batch.split}.jsonl", _embedding(row, positive, prefix))
                if reranker:
                    files.line(f"reranker/{batch.split}.jsonl", _reranker(row, facts.instruction))
            repeats = [1 + len(row.positives) for row in batch.rows]
            files.table(f"meta/embedding/{batch.split}", meta(batch, repeats), _PART)
            if reranker:
                files.table(f"meta/reranker/{batch.split}", meta(batch), _PART)

    def train(self, facts: Facts) -> str:
        """Environment and command; defaults of ms-swift that do not fit are named."""
        count = facts.negatives()
        parts = [
            "`meta/`, row by row the same: ids, scores, and why each negative is one.",
            "## Embedding",
            block("bash", *self._embedding(facts, count)),
            _LOSS,
        ]
        if facts.shape.least:
            parts += [
                "## Reranker",
                block("bash", *self._reranker(facts, count)),
                "The instruction is the system message, passages are the assistant's. MAX_NEGATIVE_SAMPLES is else 7.",
            ]
        return page(facts, "Training with ms-swift", *parts, _FORMER)

    def _embedding(self, facts: Facts, count: int) -> list[str]:
        hard = [f"INFONCE_HARD_NEGATIVES={count} \\"] if count else []
        return [
            f"INFONCE_TEMPERATURE={TEMPERATURE:g} \\",
            "INFONCE_MASK_FAKE_NEGATIVE=True INFONCE_FAKE_NEG_MARGIN=0.1 \\",
            "INFONCE_INCLUDE_QQ=True INFONCE_INCLUDE_DD=True \\",
            *hard,
            "swift sft --model Qwen/Qwen3-Embedding-0.6B --model_type qwen3_emb \\",
            "  --task_type embedding --loss_type infonce --tuner_type full \\",
            *_shared(facts, "embedding"),
            "  --per_device_train_batch_size 32 --learning_rate 6e-6 --dataloader_drop_last true",
        ]

    def _reranker(self, facts: Facts, count: int) -> list[str]:
        return [
            f"MAX_POSITIVE_SAMPLES=1 MAX_NEGATIVE_SAMPLES={count} \\",
            "swift sft --model Qwen/Qwen3-Reranker-0.6B --model_type qwen3_reranker \\",
            "  --task_type generative_reranker --loss_type listwise_reranker --tuner_type full \\",
            *_shared(facts, "reranker"),
            "  --per_device_train_batch_size 8 --learning_rate 6e-6 --dataloader_drop_last true",
        ]


def _shared(facts: Facts, form: str) -> list[str]:
    evaluated = [
        f"  --val_dataset {quoted(f'{facts.folder}/{form}/{name}.jsonl')} \\"
        for name in facts.counts.rows
        if name != "train"
    ]
    longest = tokens(facts.counts.passage_bytes + (facts.counts.query_bytes if form == "reranker" else 0))
    return [
        f"  --dataset {quoted(f'{facts.folder}/{form}/train.jsonl')} \\",
        *(evaluated[:1] or ["  --split_dataset_ratio 0 \\"]),
        f"  --max_length {longest} --seed {facts.seed} \\",
    ]


def _said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _embedding(row: Row, positive: str, prefix: str) -> dict[str, Any]:
    found = {"messages": _said("user", prefix + row.query), "positive_messages": [_said("user", positive)]}
    negatives = [_said("user", each.passage) for each in row.negatives]
    return found | ({"negative_messages": negatives} if negatives else {})


def _reranker(row: Row, instruction: str) -> dict[str, Any]:
    positives = (row.passage, *(each.passage for each in row.positives))
    return {
        "messages": _said("system", instruction) + _said("user", row.query),
        "positive_messages": [_said("assistant", text) for text in positives],
        "negative_messages": [_said("assistant", each.passage) for each in row.negatives],
    }
