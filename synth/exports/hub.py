"""A data set for the Hugging Face Hub: Parquet parts by size and a card."""

from __future__ import annotations

from typing import ClassVar

from synth.exports._export import Export, block, page
from synth.exports._rows import Counts, Facts, Shape, Source, whole
from synth.exports._writers import Files, front_matter
from synth.validation import Size

__all__ = ["Hub"]


class Hub(Export):
    """`data/train-00000-of-000NN.parquet` with all columns of the pairs, their negatives and why they are negatives."""

    title: ClassVar[str] = "the Hugging Face Hub"
    hub: ClassVar[bool] = True

    part_size: Size = 500_000_000
    """Bytes after which a new Parquet file begins."""

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """Any number."""
        del found, asked
        return Shape(0, self.negatives, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Tables as they come."""
        for batch in source.batches(facts.shape):
            files.table(f"data/{batch.split}", whole(batch), self.part_size)

    def card(self, facts: Facts) -> str:
        """One configuration."""
        configs = {"default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows}}
        return front_matter(configs, facts.languages, ["synthetic"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """How to load it."""
        return page(
            facts,
            f"Query–passage pairs: {facts.title}",
            block(
                "python",
                "from datasets import load_dataset",
                "",
                f'pairs = load_dataset({facts.address!r}, split="train")',
                'pairs = pairs.select_columns(["query", "passage"])',
            ),
            "Trainers feed every column that they get to the model, so select the texts first. `negatives` holds the "
            "passages with rank, score, margin and source. Queries are bare; the prompt before them is:",
            block("", self.prefix(facts.instruction) + "…"),
        )
