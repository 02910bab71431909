"""A data set for the Hugging Face Hub: Parquet parts by size and a card."""

from __future__ import annotations

from typing import ClassVar

from synth.exports._export import Export, Files, front_matter
from synth.exports._rows import Facts, Source, whole
from synth.types import Layout
from synth.validation import Size

__all__ = ["Hub"]


class Hub(Export):
    """`data/train-00000-of-000NN.parquet` with all columns of the pairs, their negatives and why they are negatives."""

    title: ClassVar[str] = "the Hugging Face Hub"
    hub: ClassVar[bool] = True
    any_number: ClassVar[bool] = True

    part_size: Size = 500_000_000
    """Bytes after which a new Parquet file begins."""

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        for batch in source.batches(facts.shape):
            files.table(f"data/{batch.split}", whole(batch), self.part_size)

    def card(self, facts: Facts) -> str:
        configs = {"default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows}}
        return front_matter(configs, facts, ["synthetic"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        return self.render("hub.md.j2", facts)
