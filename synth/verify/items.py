"""The ledgers of step 0 and of generation: every input row and every item once, as what it became or as rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth.verify.records import Record

PASSAGE_COLUMNS = ["position", "source", "source_row", "chunk"]
ROW_COLUMNS = ["source", "source_row"]
PAIR_COLUMNS = ["id", *ROW_COLUMNS, "positive"]
"""Of pairs that existed: `positive` counts those that one input row made, where rows may make several."""
_SHOWN = 3


@dataclass(slots=True)
class RowLedger:
    """Walks through the shards of `passages/` in order and says what is wrong with each."""

    position: int | None = 0
    """Of the next passage; None after a shard that could not be read."""
    _reached: dict[str, int] = field(default_factory=dict)
    """For each source the row after the last one seen."""
    _last: tuple[str, int, int] | None = None

    def lose(self) -> None:
        """A shard is missing or unreadable: go on with whatever follows."""
        self.position = None
        self._last = None
        self._reached.clear()

    def positions(self, table: pa.Table, first: int) -> Iterable[str]:
        """Positions go on without a gap from where the shard before ended."""
        if self.position is not None and first != self.position:
            yield f"begins at position {first}, the shard before ends at {self.position}"
        found = table["position"].to_numpy()
        if not np.array_equal(found, np.arange(first, first + table.num_rows)):
            yield f"its positions are not {first} to {first + table.num_rows - 1} once each"
        self.position = first + table.num_rows

    def ids(self, table: pa.Table, first: int) -> Iterable[str]:
        """Pairs that existed have one slot each: the same for their ids."""
        if self.position is not None and first != self.position:
            yield f"begins at position {first}, the shard before ends at {self.position}"
        if table["id"].to_pylist() != [f"{position}-0" for position in range(first, first + table.num_rows)]:
            yield f"its ids are not {first}-0 to {first + table.num_rows - 1}-0 once each"
        self.position = first + table.num_rows

    def rows(self, begun: pa.Table, rejected: pa.Table | None, *, gapless: bool) -> Iterable[str]:
        """Input rows come once, in order: `begun` are those that something was made of."""
        parts = [begun] if rejected is None else [begun, rejected.select(ROW_COLUMNS)]
        both = pa.concat_tables([part.cast(begun.schema) for part in parts])
        for source in pc.unique(both["source"]).to_pylist():
            numbers = np.sort(both.filter(pc.equal(both["source"], source))["source_row"].to_numpy())
            yield from self._source(source, numbers, gapless=gapless)

    def _source(self, source: str, numbers: np.ndarray, *, gapless: bool) -> Iterable[str]:
        twice = numbers[1:][numbers[1:] == numbers[:-1]]
        if twice.size:
            yield f"row {twice[0]} of {source} is in it twice"
        reached = self._reached.get(source, 0)
        if numbers[0] < reached:
            yield f"row {numbers[0]} of {source} was in an earlier shard"
        known = source in self._reached or self.position == 0
        missing = np.setdiff1d(np.arange(reached if known else numbers[0], numbers[-1] + 1), numbers)
        if gapless and missing.size:
            yield f"rows of {source} are in no shard: {_some(missing.tolist())}"
        self._reached[source] = int(numbers[-1]) + 1

    def chunks(self, table: pa.Table) -> Iterable[str]:
        """Later chunks follow their first."""
        if not table.num_rows:
            return
        keys = list(zip(*(table[name].to_pylist() for name in PASSAGE_COLUMNS[1:]), strict=True))
        before = self._last
        for key in keys:
            source, row, chunk = key
            if chunk and before is not None and before != (source, row, chunk - 1):
                yield f"chunk {chunk} of row {row} of {source} does not follow chunk {chunk - 1}"
                break
            before = key
        self._last = keys[-1]


@dataclass(slots=True)
class ItemLedger:
    """What generation owes for the passages of a shard, and which rejected items came back as new ones."""

    retried: dict[str, str] = field(default_factory=dict)
    """Old id → new id."""

    def due(self, positions: Sequence[int], retry_of: Sequence[str | list[str] | None], record: Record) -> list[str]:
        """Ids of all items of these passages in order; a passage that was brought back owes only the old slots."""
        every = range(record.slots or 0)
        items = []
        for position, old in zip(positions, retry_of, strict=True):
            again = [old] if isinstance(old, str) else list(old or [])
            items += [f"{position}-{slot}" for slot in sorted(int(each.rpartition("-")[2]) for each in again) or every]
        return items

    def retry(self, positions: Sequence[int], retry_of: Sequence[str | list[str] | None]) -> Iterable[str]:
        """An item is brought back once at most."""
        for position, old in zip(positions, retry_of, strict=True):
            for each in [old] if isinstance(old, str) else old or []:
                if each in self.retried:
                    yield f"brings item {each} back a second time"
                self.retried[each] = f"{position}-{each.rpartition('-')[2]}"


def begun(table: pa.Table) -> pa.Table:
    """Of a shard of step 0 the input rows that begin in it: first chunks, or first pairs of a row."""
    place = next((name for name in ("chunk", "positive") if name in table.column_names), None)
    first = table if place is None else table.filter(pc.equal(pc.fill_null(table[place], 0), 0))
    return first.select(ROW_COLUMNS)


def differences(due: Sequence[str], pairs: Sequence[str], rejected: Sequence[str]) -> Iterable[str]:
    """What is wrong with the outcomes of a shard: each due item is in it once, in order, as pair or rejected."""
    whole = len(pairs) + len(rejected) == len(due) and not set(pairs) & set(rejected)
    if whole and _in_order(due, pairs) and _in_order(due, rejected):
        return
    counts = Counter(pairs)
    counts.update(rejected)
    wanted = set(due)
    for what, names in (
        ("are neither pairs nor rejected", [each for each in due if not counts[each]]),
        ("come more than once", [each for each, count in counts.items() if count > 1]),
        ("do not belong into this shard", [each for each in counts if each not in wanted]),
    ):
        if names:
            yield f"items {what}: {_some(names)}"
            return
    yield "its items are not in their order"


def _in_order(due: Sequence[str], some: Sequence[str]) -> bool:
    """Whether `some` is a part of `due` in the same order, none twice."""
    rest = iter(due)
    return all(each in rest for each in some)


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name) for name in names[:_SHOWN]) + more
