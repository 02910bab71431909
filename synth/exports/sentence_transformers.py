"""Parquet for sentence-transformers: its collator feeds every column to the model, so there are texts and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa

from synth.exports._export import TEMPERATURE, Export, block, page, quoted, tokens
from synth.exports._rows import Batch, Counts, Facts, Shape, Source, meta
from synth.exports._writers import Files, front_matter
from synth.tables import TEXT
from synth.validation import Size

__all__ = ["SentenceTransformers"]

_ENOUGH = 0.9


class SentenceTransformers(Export):
    """Columns anchor, positive, negative_1 … negative_n, the same n in every row; ids and numbers in the config `meta`.

    Without `negatives`, n is the greatest number that nine in ten of the pairs with any have. A further positive of a
    pair makes a row of its own. Also writes train.py, a script that trains on these files.
    """

    title: ClassVar[str] = "sentence-transformers"
    hub: ClassVar[bool] = True

    part_size: Size = 256_000_000
    """Bytes after which a new Parquet file begins."""

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """The same number for every row: what is asked for, else the most that nine in ten of those with any have."""
        count = self.negatives
        if count is None:
            count = next((n for n in range(asked or 0, 1, -1) if _share(found, n) >= _ENOUGH), 1 if asked else 0)
        return Shape(count, count, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Rows, and beside them what is known of each."""
        for batch in source.batches(facts.shape):
            files.table(f"data/{batch.split}", _texts(batch, facts.shape.least), self.part_size)
            repeats = [1 + len(row.positives) for row in batch.rows]
            files.table(f"meta/{batch.split}", meta(batch, repeats), self.part_size)
        files.text("train.py", self._script(facts))

    def card(self, facts: Facts) -> str:
        """Two configurations, row by row the same."""
        configs = {
            "default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows},
            "meta": {split: f"meta/{split}-*.parquet" for split in facts.counts.rows},
        }
        return front_matter(configs, facts.languages, ["sentence-transformers"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """The script's settings, and why."""
        count = facts.shape.least
        last = f" … `negative_{count}`" if count > 1 else ""
        columns = f"`anchor`, `positive`{f', `negative_1`{last}' if count else ''}"
        values = {
            "@PROMPT@": repr(self.prefix(facts.instruction)),
            "@SCALE@": f"{1 / TEMPERATURE:g}",
            "@TEMPERATURE@": f"{TEMPERATURE:g}",
            "@LENGTH@": str(_length(facts)),
        }
        return page(
            facts,
            "Training with sentence-transformers",
            f"Config `default`: {columns}, texts alone: every column goes into the model, in this order. Config "
            "`meta`, row by row the same: ids, scores, and why each negative is one.",
            block(
                "bash",
                'pip install "sentence-transformers[train]>=6.2"',
                f"python {quoted(str(facts.folder / 'train.py'))} --output model",
            ),
            _filled(_SETTINGS, values),
        )

    def _script(self, facts: Facts) -> str:
        splits = [split for split in facts.counts.rows if split != "train"]
        values = {
            "@PROMPT@": repr(self.prefix(facts.instruction)),
            "@LENGTH@": str(_length(facts)),
            "@SCALE@": f"{1 / TEMPERATURE:g}",
            "@SEED@": str(facts.seed),
            "@EVAL@": f'data["{splits[0]}"]' if splits else "None",
        }
        return _filled(_SCRIPT, values)


def _length(facts: Facts) -> int:
    return tokens(max(facts.counts.passage_bytes, facts.counts.query_bytes))


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _share(found: Counts, count: int) -> float:
    """How many of the pairs that have negatives at all have so many."""
    return sum(rows for n, rows in found.lengths.items() if n >= count) / max(
        1, found.lengths.total() - found.lengths[0]
    )


def _texts(batch: Batch, count: int) -> pa.Table:
    rows = [
        (row.query, positive, *(each.passage for each in row.negatives))
        for row in batch.rows
        for positive in (row.passage, *(each.passage for each in row.positives))
    ]
    names = ["anchor", "positive", *(f"negative_{n}" for n in range(1, count + 1))]
    return pa.table([pa.array(column, TEXT) for column in zip(*rows, strict=True)], names=names)


_SETTINGS = """What train.py sets:

- `prompts={"anchor": @PROMPT@}`: the instruction stands before queries only; the files hold them bare. Give the same
  prompt to queries when the model is used.
- `BatchSamplers.NO_DUPLICATES`: one passage has several queries here, and an equal passage elsewhere in the batch would
  count as a negative.
- `CachedMultipleNegativesRankingLoss(scale=@SCALE@)`: InfoNCE at temperature @TEMPERATURE@; cached, so
  that `--batch-size` is the number of in-batch negatives whatever memory there is.
- No mask over in-batch negatives that score above the positive by a margin, as Qwen3-Embedding's loss has: no loss of
  sentence-transformers 6.2 equals it. `CachedGISTEmbedLoss(model, guide, margin=-0.1, contrast_anchors=False,
  contrast_positives=False)` masks the query–passage part by a guide's scores.
- `max_seq_length` @LENGTH@ at most: fits the longest text."""

_SCRIPT = '''"""Train on the files beside this script; TRAIN.md says why these settings."""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

PROMPT = @PROMPT@
MAX_TOKENS = @LENGTH@


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="Qwen/Qwen3-Embedding-0.6B")
    parser.add_argument("--output", default="model")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--mini-batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--max-steps", type=int, default=-1)
    given = parser.parse_args()

    data = load_dataset(str(Path(__file__).parent), "default")
    model = SentenceTransformer(given.model, prompts={"query": PROMPT, "document": ""})
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    loss = CachedMultipleNegativesRankingLoss(model, scale=@SCALE@, mini_batch_size=given.mini_batch_size)
    settings = SentenceTransformerTrainingArguments(
        output_dir=given.output,
        num_train_epochs=given.epochs,
        max_steps=given.max_steps,
        per_device_train_batch_size=given.batch_size,
        per_device_eval_batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        warmup_steps=0.05,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts={"anchor": PROMPT},
        seed=@SEED@,
        save_strategy="no",
        report_to="none",
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=data["train"], eval_dataset=@EVAL@, loss=loss
    )
    trainer.train()
    model.save_pretrained(given.output)


if __name__ == "__main__":
    main()
'''
