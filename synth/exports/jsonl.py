"""JSON lines with everything: one pair a line, its columns, scores, negatives and why they are negatives."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import yaml

from synth.exports._export import Export, block, page
from synth.exports._rows import Counts, Facts, Shape, Source, whole
from synth.exports._writers import Files, front_matter

__all__ = ["Jsonl"]


class Jsonl(Export):
    """All columns of the pairs, `negatives` and `extra_positives` with their numbers, and the `instruction`."""

    title: ClassVar[str] = "JSON lines"
    hub: ClassVar[bool] = True

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """Any number."""
        del found, asked
        return Shape(0, self.negatives, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Rows as they stand, and the types of their columns, which no reader can tell from nulls."""
        columns: dict[str, pa.DataType] = {}
        for batch in source.batches(facts.shape):
            table = whole(batch)
            columns |= {each.name: each.type for each in table.schema}
            for row in table.to_pylist():
                files.line(f"{batch.split}.jsonl", row | {"instruction": facts.instruction})
        columns["instruction"] = pa.string()
        head = front_matter({"default": {split: f"{split}.jsonl" for split in facts.counts.rows}}, facts.languages)
        types = yaml.safe_dump(
            {"dataset_info": {"features": [_feature(n, t) for n, t in columns.items()]}}, sort_keys=False
        )
        files.text("README.md", head.removesuffix("---\n") + types + "---\n" + self.train(facts))

    def train(self, facts: Facts) -> str:
        """How to read them."""
        return page(
            facts,
            "Pairs as JSON lines",
            block(
                "python",
                "from datasets import load_dataset",
                "",
                f'rows = load_dataset({facts.address!r}, split="train")',
            ),
            "Trainers feed the columns that they get to the model: pick and rename those that yours wants. Queries are "
            "bare; the prompt before them is:",
            block("", self.prefix(facts.instruction) + "…"),
        )


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A column in the words of a card; what JSON has no type for is text there, as it is in the file."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"name": name, "list": _inner(kind.value_type)}
    if pa.types.is_struct(kind):
        return {"name": name, "struct": _fields(kind)}
    return {"name": name, "dtype": _name(kind)}


def _inner(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return _fields(kind)
    found = _feature("", kind)
    return found.get("dtype") or {key: value for key, value in found.items() if key != "name"}


def _fields(kind: pa.StructType) -> list[dict[str, Any]]:
    return [_feature(each.name, each.type) for each in kind]


def _name(kind: pa.DataType) -> str:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    names = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return names.get(str(kind), str(kind)) if numeric else "string"
