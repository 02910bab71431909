"""JSON lines with everything: one pair a line, its columns, scores, negatives and why they are negatives."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import yaml

from synth.exports._export import Export, Files, front_matter
from synth.exports._rows import Facts, Source, whole
from synth.types import Layout

__all__ = ["Jsonl"]


class Jsonl(Export):
    """All columns of the pairs, `negatives` and `extra_positives` with their numbers, and the `instruction`."""

    title: ClassVar[str] = "JSON lines"
    hub: ClassVar[bool] = True
    any_number: ClassVar[bool] = True

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """All rows, and a card with the types of their columns, which a reader cannot infer from nulls."""
        columns: dict[str, pa.DataType] = {}
        for batch in source.batches(facts.shape):
            table = whole(batch)
            columns |= {each.name: each.type for each in table.schema}
            for row in table.to_pylist():
                files.line(f"{batch.split}.jsonl", row | {"instruction": facts.instruction})
        columns["instruction"] = pa.string()
        head = front_matter({"default": {split: f"{split}.jsonl" for split in facts.counts.rows}}, facts)
        features = [{"name": name} | _feature(kind) for name, kind in columns.items()]
        types = yaml.safe_dump({"dataset_info": {"features": features}}, sort_keys=False)
        files.text("README.md", head.removesuffix("---\n") + types + "---\n" + self.train(facts))

    def train(self, facts: Facts) -> str:
        return self.render("jsonl.md.j2", facts)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type as a card describes it; a type that JSON does not have is text, as in the file."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": each.name} | _feature(each.type) for each in kind]}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        names = {"double": "float64", "float": "float32", "halffloat": "float16"}
        return {"dtype": names.get(str(kind), str(kind))}
    return {"dtype": "string"}
