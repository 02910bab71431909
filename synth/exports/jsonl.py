"""JSON lines with everything: one pair a line, its columns, scores, negatives and why they are negatives."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import yaml

from synth.exports._export import Export
from synth.exports._rows import Facts, Source, whole
from synth.exports._writers import Files, front_matter

__all__ = ["Jsonl"]


class Jsonl(Export):
    """All columns of the pairs, `negatives` and `extra_positives` with their numbers, and the `instruction`."""

    title: ClassVar[str] = "JSON lines"
    hub: ClassVar[bool] = True
    any_number: ClassVar[bool] = True

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """All rows, and a card with the types of their columns, which a reader cannot infer from nulls."""
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
        return self.render("jsonl.md.j2", facts)


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A column as a card describes it; a type that JSON does not have is text, as in the file."""
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
