"""Marks that people give to rows while they look at them: good or bad, with a comment; appended to OUT/marks.jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from synth.errors import JobError
from synth.shards import OutputFolder, disk

FILE = "marks.jsonl"
"""One JSON object a line: `id`, `mark`, `comment`, `at`. The last line of an id is what holds."""
NAME = "marks"
"""What stands for them where a column of labels is asked for."""

ID = re.compile(r"[0-9]{1,18}-[0-9]{1,9}")
"""Ids of pairs and items, which can be marked."""

Verdict = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a person says of a pair or item; without `mark` a comment alone, without both a mark undone."""

    id: str
    mark: Verdict | None
    comment: str = ""

    @classmethod
    def of(cls, given: object) -> Mark:
        """A mark from JSON. Raises JobError for one that cannot be."""
        found = given if isinstance(given, dict) else {}
        row, mark, comment = (found.get(name) for name in ("id", "mark", "comment"))
        if not ID.fullmatch(str(row)):
            raise JobError(f"{row!r} is not the id of a pair or an item, which is POSITION-SLOT.")
        if mark not in (None, *get_args(Verdict)) or not isinstance(comment or "", str):
            raise JobError("a mark is good, bad or null, and its comment a text.")
        return cls(str(row), mark, comment or "")


def read(folder: OutputFolder) -> Mapping[str, Mark]:
    """The marks that hold, by id. Other lines, as a kill may leave one, are passed over, and `verify` says so.

    Raises SystemFault, OutputError.
    """
    path = folder.path / FILE
    found: dict[str, Mark] = {}
    for line in disk.read_whole(path).splitlines() if disk.exists(path) else ():
        try:
            mark = Mark.of(json.loads(line))
        except (ValueError, JobError):
            continue
        found[mark.id] = mark
    return {row: mark for row, mark in found.items() if mark.mark or mark.comment}


def add(folder: OutputFolder, mark: Mark) -> None:
    """Append a mark, durable when this returns; several processes may. Raises SystemFault, OutputError."""
    line = asdict(mark) | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    disk.append_line(folder.file(FILE), json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
