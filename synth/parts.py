"""Which shards step 0 makes: one part for each revision, each beginning at a new shard after the last.

`index/passages.json` (in a pass over existing data `index/pairs.json`) says that the first part is complete,
`index/passages.2.json` the second, with the sums so far. So the number of shards never changes within a revision.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from synth import revisions
from synth.config import Job
from synth.errors import OutputError
from synth.pairs import PairSet, own_schema
from synth.revisions import Record
from synth.shards import OutputFolder


@dataclass(frozen=True, slots=True)
class Part:
    """The shards that one revision added: all hold `size` rows but for the last, whose rows end before `end`."""

    number: int
    shards: range
    first: int
    end: int
    size: int
    retry: bool
    """Whether its rows are items asked again, one slot each."""

    def rows(self, index: int) -> int:
        """Passages (or pairs) of a shard."""
        start = self.first + (index - self.shards.start) * self.size
        return max(0, min(self.end - start, self.size))


@dataclass(frozen=True, slots=True)
class Parts:
    """The finished parts in order."""

    parts: Sequence[Part]

    @property
    def shards(self) -> int:
        """How many shards there are to be."""
        return self.parts[-1].shards.stop if self.parts else 0

    @property
    def several(self) -> bool:
        """Whether shards were appended since the run began."""
        return sum(bool(part.shards) for part in self.parts) > 1

    def of_shard(self, index: int) -> Part:
        """The part that holds a shard."""
        return next(part for part in self.parts if index in part.shards)

    def shard_of(self, position: int) -> int:
        """The shard that holds a position."""
        filled = [part for part in self.parts if part.end > part.first]
        part = filled[bisect_right([each.first for each in filled], position) - 1]
        return part.shards.start + (position - part.first) // part.size


def totals_name(record: Record) -> str:
    """The file that says that a revision's part is complete."""
    stem = "pairs" if record.existing else "passages"
    return f"index/{stem}.json" if record.number == 1 else f"index/{stem}.{record.number}.json"


def put_totals(folder: OutputFolder, record: Record, totals: Mapping[str, int]) -> None:
    """Record that a part is complete: shards, passages (or pairs), rows in and rejected of all parts so far."""
    folder.put_if_absent(totals_name(record), (json.dumps(dict(totals), indent=2) + "\n").encode())


def totals_of(folder: OutputFolder, record: Record) -> dict[str, int] | None:
    """What `put_totals` recorded; None while that part is unfinished. Raises OutputError when it is damaged."""
    path = folder.path / totals_name(record)
    try:
        return {str(key): int(value) for key, value in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it and run again: step 0 counts anew.") from exc


def totals(folder: OutputFolder) -> dict[str, int] | None:
    """The sums over all parts; None while the last revision's is unfinished."""
    return totals_of(folder, revisions.last(folder))


def read(folder: OutputFolder) -> Parts:
    """The parts that are complete. Raises OutputError."""
    found: list[Part] = []
    shards = first = 0
    for record in revisions.read(folder):
        sums: dict[str, Any] | None = totals_of(folder, record)
        if sums is None:
            break
        end = sums["pairs" if record.existing else "passages"]
        size = int(record.identity["shard_size"])
        part = Part(record.number, range(shards, sums["shards"]), first, end, size, bool(record.retry))
        found.append(part)
        shards, first = sums["shards"], end
    return Parts(found)


def require_same_columns(folder: OutputFolder, job: Job, sets: Sequence[PairSet], before: Record) -> None:
    """Raises OutputError where appended pairs would bring columns, or types, that the shards of before do not have."""
    known = {(each.corpus_index, each.relative) for each in before.inputs}
    old = [
        replace(each, files=kept)
        for each in sets
        if (kept := tuple(file for file in each.files if (file.corpus_index, file.relative) in known))
    ]
    new = sorted(_columns(job, sets) - _columns(job, old))
    if new:
        raise OutputError(
            f"{folder.path}: the appended data bring columns that its shards do not have: {', '.join(new)}.",
            "Leave them out with data.carry, or choose another folder with -o.",
        )


def _columns(job: Job, sets: Sequence[PairSet]) -> set[str]:
    names = {f"{each.name} ({each.type})" for each in own_schema(sets, job.read_limits())}
    names |= {"label" for each in sets if each.layout.label is not None}
    return names | {"lists of positives" for each in sets if each.layout.kind in ("flag", "messages")}
