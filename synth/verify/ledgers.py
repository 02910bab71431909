"""The ledgers of step 0 and of generation: every input row and every item once, as what it became or as rejected."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth.shards.journal import locked
from synth.verify.files import BODY, JOURNAL, SHARD, Layout, ShardFile, Stamp, StepFiles, Unreadable, sha256_of
from synth.verify.findings import Book
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


class Bodies:
    """Checks bodies, and remembers which ones shards name, so that the others are known for orphans."""

    def __init__(self, root: Path, book: Book, *, deep: bool) -> None:
        self.named: set[str] = set()
        """Names of bodies, which hold a hash of the content; the same in whichever folder."""
        self.linked: dict[str, set[int]] = defaultdict(set)
        """For each step the shards whose rejected rows readers find under `rejected/`."""
        self._root = root
        self._book = book
        self._deep = deep

    def note(self, stamp: Stamp) -> None:
        """Remember the body of a shard that is not checked."""
        self.named.add(stamp.rejects_file)

    def read(self, step: StepFiles, stamp: Stamp, columns: list[str]) -> pa.Table | None:
        """Some columns of the rejected rows (all in deep mode), None where they cannot be had or there are none."""
        shard = step.file(stamp.shard)
        if not stamp.rejected or not stamp.rejects_file:
            if stamp.rejected or stamp.rejects_file or stamp.rejects_sha256:
                self._book.damage(shard, "its metadata tell of rejected rows without naming their file, or the reverse")
            return None
        self.named.add(stamp.rejects_file)
        self.linked[step.name].add(stamp.shard)
        match = BODY.fullmatch(stamp.rejects_file)
        if not match or int(match[1]) != stamp.shard or match[2] != stamp.rejects_sha256[:16]:
            self._book.damage(shard, f"names {stamp.rejects_file!r} as its rejected rows, which cannot be")
            return None
        body = self._root / ".rejects" / step.name / stamp.rejects_file
        try:
            table = self._table(body, stamp, columns)
        except Unreadable as exc:
            self._book.damage(body, f"the rejected rows of {step.name}/{shard.name}: {exc}")
            return None
        self._check_link(step, stamp, body)
        return table

    def _table(self, body: Path, stamp: Stamp, columns: list[str]) -> pa.Table:
        with ShardFile(body) as file:
            if file.sha256() != stamp.rejects_sha256:
                raise Unreadable("its sha256 is not the one that its shard names")
            if file.rows != stamp.rejected:
                raise Unreadable(f"its shard says {stamp.rejected} rows, it holds {file.rows}")
            return file.read(None if self._deep else columns)

    def _check_link(self, step: StepFiles, stamp: Stamp, body: Path) -> None:
        link = self._root / "rejected" / step.name / f"{stamp.shard:08d}.parquet"
        if not link.exists():
            self._book.note(link, "the link to the rejected rows is missing; the next run makes it")
            return
        try:
            same = link.samefile(body) or sha256_of(link) == stamp.rejects_sha256
        except (OSError, Unreadable) as exc:
            self._book.damage(link, f"cannot be read ({exc})")
            return
        if not same:
            self._book.damage(link, "is not the file of rejected rows that the shard names")


def check_leftovers(layout: Layout, bodies: Bodies, book: Book) -> None:
    """Name orphaned rejected rows, stale links, journals and temporary files."""
    _bodies(layout, bodies, book)
    _links(layout, bodies, book)
    _journals(layout, book)
    for path in _still(layout, "tmp"):
        book.note(path, f"a temporary file ({_size(path):,} bytes): of a process at work, or left by a crash")


def _still(layout: Layout, folder: str) -> list[Path]:
    """What was listed at first and is there now: a run under way has put the rest in order."""
    return [path for path in layout.aside[folder] if os.path.lexists(path)]


def _bodies(layout: Layout, bodies: Bodies, book: Book) -> None:
    for path in _still(layout, ".rejects"):
        if not BODY.fullmatch(path.name):
            book.note(path, "is not of synth's making")
        elif path.name not in bodies.named:
            book.note(path, "rejected rows that no shard names: about to be, or left by a crash")


def _links(layout: Layout, bodies: Bodies, book: Book) -> None:
    root = layout.root
    known = {step.name: step.shards for step in layout.steps()}
    for path in _still(layout, "rejected"):
        step = path.parent.relative_to(root / "rejected").as_posix()
        if step not in known or not SHARD.fullmatch(path.name):
            book.damage(path, "is no step's rejected rows, and whoever reads *.parquet reads it too")
        elif (index := int(path.stem)) not in known[step]:
            book.damage(layout.root / step / path.name, "is missing, though its rejected rows are shown")
        elif index not in bodies.linked[step] and not book.blames(root / step / path.name):
            book.damage(path, "belongs to a shard that rejects nothing")


def _journals(layout: Layout, book: Book) -> None:
    done = {step.name.replace("/", "-"): step.shards for step in layout.steps()}
    wip = layout.root / "wip"
    for name in sorted(path.name for path in _still(layout, "wip")):
        match = JOURNAL.fullmatch(name)
        if match is None:
            book.note(wip / name, "is not of synth's making")
        elif int(match[2]) in done.get(match[1], frozenset()):
            book.note(wip / name, "the journal of a finished shard")
        else:
            state = {True: "being worked on", False: "to be taken up by the next run", None: "begun"}
            book.note(wip / name, f"finished calls of an open shard: {state[locked(wip / name)]}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_MOST_TRIES = 5000


@dataclass(frozen=True, slots=True)
class ScoreShard:
    """A scorer's shard as a view needs it: its place among all of them, columns after `id`, checksum."""

    place: int
    columns: tuple[str, ...]
    sha256: str


def made_from(pairs: str, scores: Sequence[ScoreShard]) -> str:
    """The `synth.input` of a view's shard: one checksum over those of the pairs and of the scores in their order."""
    return sha256_of_json({"inputs": [pairs, *(each.sha256 for each in scores)]})


def fingerprint(rules: object, scores: Sequence[str]) -> str:
    """What names a view's rules over its score folders in every shard."""
    return sha256_of_json({"rules": rules, "scores": scores})


def sha256_of_json(value: object) -> str:
    """Hash over canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def candidates(columns: Sequence[str], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    """Every row of score folders whose columns are `columns`: several where a scorer was run with other options."""
    return islice(_rows(tuple(columns), scores), _MOST_TRIES)


def _rows(columns: tuple[str, ...], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    if not columns:
        yield ()
        return
    for each in scores:
        count = len(each.columns)
        if count and columns[:count] == each.columns:
            for rest in _rows(columns[count:], scores):
                yield (each, *rest)


def wrong_rows(pairs: pa.Table, scores: Sequence[pa.Table], kept: pa.Table, rejected: pa.Table | None) -> Iterable[str]:
    """Columns of a view whose values are not those of the pairs and scores it was made from; all tables whole.

    Columns are compared by place: a view may rename those whose names clash.
    """
    sources = [*pairs.columns, *(table[name] for table in scores for name in table.column_names if name != "id")]
    row: Mapping[str, int] = {name: n for n, name in enumerate(pairs["id"].to_pylist())}
    for what, table in (("kept", kept), ("rejected", rejected)):
        if table is None:
            continue
        places = [row.get(name) for name in table["id"].to_pylist()]
        if None in places:
            return
        taken = pa.array(places, pa.int64())
        for name, source, column in zip(table.column_names, sources, table.columns, strict=False):
            if not column.equals(source.take(taken).cast(column.type)):
                yield f"column {name} of its {what} rows is not what the pairs and scores hold"
                break
