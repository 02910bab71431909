"""Accounting of step 0, generation, rejected rows and views: every input row and every item has exactly one outcome."""

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
from synth.verify.files import BODY, FOREIGN, JOURNAL, SHARD, Layout, ShardFile, Stamp, StepFiles, Unreadable, sha256_of
from synth.verify.findings import Book
from synth.verify.records import Record

PASSAGE_COLUMNS = ["position", "source", "source_row", "chunk"]
ROW_COLUMNS = ["source", "source_row"]
PAIR_COLUMNS = ["id", *ROW_COLUMNS, "positive"]
"""Of external pairs: `positive` numbers the pairs that one input row made, if rows may make several."""
_SHOWN = 3


@dataclass(slots=True)
class RowLedger:
    """Checks the shards of step 0 in order and yields what is wrong with each."""

    position: int | None = 0
    """Of the next passage; None after a shard that cannot be read."""
    _reached: dict[str, int] = field(default_factory=dict)
    """For each source the row after the last one seen."""
    _last: tuple[str, int, int] | None = None

    def lose(self) -> None:
        """Continue after a missing or unreadable shard."""
        self.position = None
        self._last = None
        self._reached.clear()

    def positions(self, table: pa.Table, first: int) -> Iterable[str]:
        """Positions continue without a gap from the previous shard."""
        if self.position is not None and first != self.position:
            yield f"begins at position {first}, but the previous shard ends at {self.position}"
        found = table["position"].to_numpy()
        if not np.array_equal(found, np.arange(first, first + table.num_rows)):
            yield f"its positions are not {first} to {first + table.num_rows - 1} once each"
        self.position = first + table.num_rows

    def ids(self, table: pa.Table, first: int) -> Iterable[str]:
        """The same for the ids of external pairs, which have one slot each."""
        if self.position is not None and first != self.position:
            yield f"begins at position {first}, but the previous shard ends at {self.position}"
        if table["id"].to_pylist() != [f"{position}-0" for position in range(first, first + table.num_rows)]:
            yield f"its ids are not {first}-0 to {first + table.num_rows - 1}-0 once each"
        self.position = first + table.num_rows

    def rows(self, begun: pa.Table, rejected: pa.Table | None, *, gapless: bool) -> Iterable[str]:
        """Every input row occurs once, in order; `begun` are the rows that something was made from."""
        parts = [begun] if rejected is None else [begun, rejected.select(ROW_COLUMNS)]
        both = pa.concat_tables([part.cast(begun.schema) for part in parts])
        for source in pc.unique(both["source"]).to_pylist():
            numbers = np.sort(both.filter(pc.equal(both["source"], source))["source_row"].to_numpy())
            yield from self._source(source, numbers, gapless=gapless)

    def _source(self, source: str, numbers: np.ndarray, *, gapless: bool) -> Iterable[str]:
        twice = numbers[1:][numbers[1:] == numbers[:-1]]
        if twice.size:
            yield f"row {twice[0]} of {source} occurs twice"
        reached = self._reached.get(source, 0)
        if numbers[0] < reached:
            yield f"row {numbers[0]} of {source} also occurs in an earlier shard"
        known = source in self._reached or self.position == 0
        missing = np.setdiff1d(np.arange(reached if known else numbers[0], numbers[-1] + 1), numbers)
        if gapless and missing.size:
            yield f"rows of {source} are missing from all shards: {_some(missing.tolist())}"
        self._reached[source] = int(numbers[-1]) + 1

    def chunks(self, table: pa.Table) -> Iterable[str]:
        """The chunks of a row follow one another."""
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
    """Which items a shard of passages must produce, and which rejected items were retried as new ones."""

    retried: dict[str, str] = field(default_factory=dict)
    """Old id → new id."""

    def due(self, positions: Sequence[int], retry_of: Sequence[str | list[str] | None], record: Record) -> list[str]:
        """Ids of all items of these passages in order; a retried passage only has the slots that were rejected."""
        every = range(record.slots or 0)
        items = []
        for position, old in zip(positions, retry_of, strict=True):
            again = [old] if isinstance(old, str) else list(old or [])
            items += [f"{position}-{slot}" for slot in sorted(int(each.rpartition("-")[2]) for each in again) or every]
        return items

    def retry(self, positions: Sequence[int], retry_of: Sequence[str | list[str] | None]) -> Iterable[str]:
        """Every item is retried at most once."""
        for position, old in zip(positions, retry_of, strict=True):
            for each in [old] if isinstance(old, str) else old or []:
                if each in self.retried:
                    yield f"retries item {each} a second time"
                self.retried[each] = f"{position}-{each.rpartition('-')[2]}"


def begun(table: pa.Table) -> pa.Table:
    """The input rows that begin in a shard of step 0: first chunks, or first pairs of a row."""
    place = next((name for name in ("chunk", "positive") if name in table.column_names), None)
    first = table if place is None else table.filter(pc.equal(pc.fill_null(table[place], 0), 0))
    return first.select(ROW_COLUMNS)


def differences(due: Sequence[str], pairs: Sequence[str], rejected: Sequence[str]) -> Iterable[str]:
    """What is wrong with the outcomes of a shard: each due item occurs once, in order, as a pair or as rejected."""
    whole = len(pairs) + len(rejected) == len(due) and not set(pairs) & set(rejected)
    if whole and _in_order(due, pairs) and _in_order(due, rejected):
        return
    counts = Counter(pairs)
    counts.update(rejected)
    wanted = set(due)
    for what, names in (
        ("are neither pairs nor rejected", [each for each in due if not counts[each]]),
        ("occur more than once", [each for each, count in counts.items() if count > 1]),
        ("do not belong to this shard", [each for each in counts if each not in wanted]),
    ):
        if names:
            yield f"items {what}: {_some(names)}"
            return
    yield "its items are out of order"


def _in_order(due: Sequence[str], some: Sequence[str]) -> bool:
    """Whether `some` is a subsequence of `due`."""
    rest = iter(due)
    return all(each in rest for each in some)


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name) for name in names[:_SHOWN]) + more


class Bodies:
    """The files of rejected rows: checks them and remembers which ones shards name, so that orphans are recognised."""

    def __init__(self, root: Path, book: Book, *, deep: bool) -> None:
        self.named: set[str] = set()
        """Names of these files, which contain a hash of the content and are the same in every folder."""
        self.linked: dict[str, set[int]] = defaultdict(set)
        """For each step the shards whose rejected rows are visible under `rejected/`."""
        self._root = root
        self._book = book
        self._deep = deep

    def note(self, stamp: Stamp) -> None:
        """Remember the file of a shard that is not checked."""
        self.named.add(stamp.rejects_file)

    def read(self, step: StepFiles, stamp: Stamp, columns: list[str]) -> pa.Table | None:
        """Some columns of the rejected rows (all in deep mode); None if there are none or they cannot be read."""
        shard = step.file(stamp.shard)
        if not stamp.rejected or not stamp.rejects_file:
            if stamp.rejected or stamp.rejects_file or stamp.rejects_sha256:
                self._book.damage(shard, "its metadata contradict themselves about rejected rows and their file")
            return None
        self.named.add(stamp.rejects_file)
        self.linked[step.name].add(stamp.shard)
        match = BODY.fullmatch(stamp.rejects_file)
        if not match or int(match[1]) != stamp.shard or match[2] != stamp.rejects_sha256[:16]:
            self._book.damage(shard, f"names {stamp.rejects_file!r} as its rejected rows, which is not a valid name")
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
                raise Unreadable("its sha256 differs from the one in its shard")
            if file.rows != stamp.rejected:
                raise Unreadable(f"its shard says {stamp.rejected} rows, it holds {file.rows}")
            return file.read(None if self._deep else columns)

    def _check_link(self, step: StepFiles, stamp: Stamp, body: Path) -> None:
        link = self._root / "rejected" / step.name / f"{stamp.shard:08d}.parquet"
        if not link.exists():
            self._book.note(link, "the link to the rejected rows is missing; the next run restores it")
            return
        try:
            same = link.samefile(body) or sha256_of(link) == stamp.rejects_sha256
        except (OSError, Unreadable) as exc:
            self._book.damage(link, f"cannot be read ({exc})")
            return
        if not same:
            self._book.damage(link, "is not the file of rejected rows that the shard names")


def check_leftovers(layout: Layout, bodies: Bodies, book: Book) -> None:
    """Report orphaned rejected rows, stale links, journals and temporary files."""
    _bodies(layout, bodies, book)
    _links(layout, bodies, book)
    _journals(layout, book)
    for path in _still(layout, "tmp"):
        book.note(path, f"a temporary file ({_size(path):,} bytes) of a running process or of a crash")


def _still(layout: Layout, folder: str) -> list[Path]:
    """Files that were listed at the start and still exist: an active run may have removed the others."""
    return [path for path in layout.others[folder] if os.path.lexists(path)]


def _bodies(layout: Layout, bodies: Bodies, book: Book) -> None:
    for path in _still(layout, ".rejects"):
        if not BODY.fullmatch(path.name):
            book.note(path, FOREIGN)
        elif path.name not in bodies.named:
            book.note(path, "rejected rows that no shard names: about to be committed, or left by a crash")


def _links(layout: Layout, bodies: Bodies, book: Book) -> None:
    root = layout.root
    known = {step.name: step.shards for step in layout.steps()}
    for path in _still(layout, "rejected"):
        step = path.parent.relative_to(root / "rejected").as_posix()
        if step not in known or not SHARD.fullmatch(path.name):
            book.damage(path, "does not belong to a step, but a reader of *.parquet reads it")
        elif (index := int(path.stem)) not in known[step]:
            book.damage(layout.root / step / path.name, "is missing, although its rejected rows exist")
        elif index not in bodies.linked[step] and not book.blames(root / step / path.name):
            book.damage(path, "belongs to a shard without rejected rows")


def _journals(layout: Layout, book: Book) -> None:
    done = {step.name.replace("/", "-"): step.shards for step in layout.steps()}
    wip = layout.root / "wip"
    for name in sorted(path.name for path in _still(layout, "wip")):
        match = JOURNAL.fullmatch(name)
        if match is None:
            book.note(wip / name, FOREIGN)
        elif int(match[2]) in done.get(match[1], frozenset()):
            book.note(wip / name, "the journal of a finished shard")
        else:
            state = {True: "in progress", False: "the next run resumes it", None: "begun"}
            book.note(wip / name, f"finished calls of an unfinished shard: {state[locked(wip / name)]}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_MOST_TRIES = 5000


@dataclass(frozen=True, slots=True)
class ScoreShard:
    """A scorer's shard, as an input of a view: its place in the list of scorers, its columns, its checksum."""

    place: int
    columns: tuple[str, ...]
    sha256: str


def made_from(pairs: str, scores: Sequence[ScoreShard]) -> str:
    """The `synth.input` of a view's shard: a checksum over those of the pairs and of the scores, in order."""
    return sha256_of_json({"inputs": [pairs, *(each.sha256 for each in scores)]})


def fingerprint(rules: object, scores: Sequence[str]) -> str:
    """The identity of a view: its rules and its score folders."""
    return sha256_of_json({"rules": rules, "scores": scores})


def sha256_of_json(value: object) -> str:
    """Hash over canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def candidates(columns: Sequence[str], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    """All sequences of score folders with these columns: several if a scorer was run with different options."""
    return islice(_sequences(tuple(columns), scores), _MOST_TRIES)


def _sequences(columns: tuple[str, ...], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    if not columns:
        yield ()
        return
    for each in scores:
        count = len(each.columns)
        if count and columns[:count] == each.columns:
            for rest in _sequences(columns[count:], scores):
                yield (each, *rest)


def wrong_rows(pairs: pa.Table, scores: Sequence[pa.Table], kept: pa.Table, rejected: pa.Table | None) -> Iterable[str]:
    """Columns of a view whose values differ from the pairs and scores it was made from; takes whole tables.

    Columns are compared by position, because a view renames columns whose names clash.
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
                yield f"column {name} of its {what} rows differs from the pairs and scores"
                break
