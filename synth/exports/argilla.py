"""A data set of Argilla 2, for `rg.Dataset.from_disk`: records to judge, with scores, and with marks as suggestions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from synth import marks
from synth.exports._export import Export, Files, as_json
from synth.exports._rows import Facts, Source
from synth.marks import Mark
from synth.types import Layout

__all__ = ["Argilla"]

_QUESTION = "verdict"
_COMMENT = "comment"
_NAME = re.compile(r"(?=.*[a-z0-9])[a-z0-9_-]{1,200}")
"""What Argilla accepts as the name of a field or of metadata."""
_SPLIT = "split"


class Argilla(Export):
    """`records.json` and `.argilla/`: both texts, the question whether they fit, and other columns as metadata.

    Columns of lists and records, and those whose names Argilla refuses, are left out.
    """

    title: ClassVar[str] = "Argilla"
    any_number: ClassVar[bool] = True

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Settings, and a record for each row; with `--split` its split is metadata."""
        texts = (facts.layout.anchor, facts.layout.positive)
        fields = {name: _kind(kind) for name, kind in source.fields().items() if name not in texts}
        kinds = {name: kind for name, kind in fields.items() if kind and _NAME.fullmatch(name)}
        splits = [*facts.counts.rows]
        kinds |= {_SPLIT: "terms"} if len(splits) > 1 else {}
        files.line(".argilla/dataset.json", {"name": _title(facts.title), "allow_extra_metadata": True})
        files.line(".argilla/settings.json", _settings(facts, texts, kinds))
        given, start = marks.read(source.folder), "["
        for batch in source.batches(facts.shape):
            for row, columns in zip(batch.rows, batch.table.to_pylist(), strict=True):
                known = {name: _value(value, kinds[name]) for name, value in columns.items() if name in kinds}
                known |= {_SPLIT: batch.split} if _SPLIT in kinds else {}
                record = {
                    "id": row.id,
                    "fields": dict(zip(texts, (row.query, row.passage), strict=True)),
                    "metadata": {name: value for name, value in known.items() if value is not None},
                    "suggestions": _suggestions(given.get(row.id)),
                    "responses": {},
                    "vectors": {},
                }
                files.text("records.json", f"{start}\n{json.dumps(json.loads(as_json(record)))}")
                start = ","
        files.text("records.json", "\n]\n")

    def train(self, facts: Facts) -> str:
        return self.render("argilla.md.j2", facts)


def _kind(kind: pa.DataType) -> str | None:
    """The kind of metadata that a column is; None for lists and records."""
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "terms"
    return "integer" if pa.types.is_integer(kind) else "float" if pa.types.is_floating(kind) else None


def _value(value: Any, kind: str) -> Any:
    return str(value).lower() if isinstance(value, bool) else value if value is None or kind != "terms" else str(value)


def _title(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9 _-]", "-", name).lstrip("-_ ") or "synth"


def _suggestions(mark: Mark | None) -> Mapping[str, Any]:
    if mark is None:
        return {}
    found = {_QUESTION: mark.mark, _COMMENT: mark.comment}
    return {name: {"value": value, "agent": marks.FILE} for name, value in found.items() if value}


def _settings(facts: Facts, texts: tuple[str, str], kinds: Mapping[str, str]) -> Mapping[str, Any]:
    plain = {"type": "text", "use_markdown": False}
    verdict = {"type": "label_selection", "options": [{"value": each, "text": each} for each in ("good", "bad")]}
    asked = f"Do {texts[0]} and {texts[1]} fit?"
    return {
        "guidelines": facts.instruction,
        "allow_extra_metadata": True,
        "fields": [{"name": name, "title": name, "required": True, "settings": plain} for name in texts],
        "questions": [
            {"name": _QUESTION, "title": asked, "required": True, "settings": verdict},
            {"name": _COMMENT, "title": "Comment", "required": False, "settings": plain},
        ],
        "metadata": [
            {"name": name, "title": name, "settings": {"type": kind}, "visible_for_annotators": True}
            for name, kind in kinds.items()
        ],
        "vectors": [],
    }
