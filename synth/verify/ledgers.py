"""Accounting of step 0, generation, rejected rows and views: every input row and every item has exactly one outcome."""

from __future__ import annotations

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
from synth.verify import files
from synth.verify.files import Layout, Opened, Report, Stamp, StepFiles, Unreadable

PASSAGE_COLUMNS = ["position", "source", "source_row", "chunk"]
ROW_COLUMNS = ["source", "source_row"]
PAIR_COLUMNS = ["id", *ROW_COLUMNS, "positive"]
"""Of external pairs: `positive` numbers the pairs that one input row made, if rows may make several."""


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

    def positions(self, table: pa.Table, first: int, *, existing: bool) -> Iterable[str]:
        """Positions continue without a gap from the previous shard; external pairs have them in their ids, slot 0."""
        if self.position is not None and first != self.position:
            yield f"begins at position {first}, but the previous shard ends at {self.position}"
        self.position = first + table.num_rows
        if not existing:
            if not np.array_equal(table["position"].to_numpy(), np.arange(first, self.position)):
                yield f"its positions are not {first} to {self.position - 1} once each"
        elif table["id"].to_pylist() != [f"{position}-0" for position in range(first, self.position)]:
            yield f"its ids are not {first}-0 to {self.position - 1}-0 once each"

    def rows(self, begun: pa.Table, rejected: pa.Table | None, *, gapless: bool) -> Iterable[str]:
        """Every input row occurs once, in order; `begun` are the rows that something was made from."""
        parts = [begun] if rejected is None else [begun, rejected.select(ROW_COLUMNS)]
        both = pa.concat_tables([part.cast(begun.schema) for part in parts])
        for source in pc.unique(both["source"]).to_pylist():
            numbers = np.sort(both.filter(pc.equal(both["source"], source))["source_row"].to_numpy())
            twice = numbers[1:][numbers[1:] == numbers[:-1]]
            if twice.size:
                yield f"row {twice[0]} of {source} occurs twice"
            reached = self._reached.get(source, 0)
            if numbers[0] < reached:
                yield f"row {numbers[0]} of {source} also occurs in an earlier shard"
            known = source in self._reached or self.position == 0
            missing = np.setdiff1d(np.arange(reached if known else numbers[0], numbers[-1] + 1), numbers)
            if gapless and missing.size:
                yield f"rows of {source} are missing from all shards: {some(missing.tolist())}"
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


def retries(passages: pa.Table) -> list[list[str]]:
    """For each passage the ids of the rejected items that it retries."""
    if "retry_of" not in passages.column_names:
        return [[]] * passages.num_rows
    return [[old] if isinstance(old, str) else list(old or []) for old in passages["retry_of"].to_pylist()]


def due(passages: pa.Table, slots: Iterable[int]) -> list[str]:
    """Ids of all items of these passages in order, so many for each; of a retried one the slots that were rejected."""
    items = []
    for position, again, count in zip(passages["position"].to_pylist(), retries(passages), slots, strict=False):
        rejected = sorted(int(each.rpartition("-")[2]) for each in again)
        items += [f"{position}-{slot}" for slot in rejected or range(count)]
    return items


def begun(table: pa.Table, place: str) -> pa.Table:
    """The input rows that begin in a shard of step 0: first chunks, or first pairs of a row, by the column `place`."""
    if place in table.column_names:
        table = table.filter(pc.equal(pc.fill_null(table[place], 0), 0))
    return table.select(ROW_COLUMNS)


def differences(due: Sequence[str], shard: Opened) -> Iterable[str]:
    """What is wrong with the outcomes of a shard: each due item occurs once, in order, as a pair or as rejected."""
    if shard.rejected is None and shard.stamp.rejected:
        return  # its rejected rows cannot be read, which is reported
    pairs, rejected = shard.ids, shard.rejected_ids
    whole = len(pairs) + len(rejected) == len(due) and not set(pairs) & set(rejected)
    if whole and _in_order(due, pairs) and _in_order(due, rejected):
        return
    counts = Counter(pairs)
    counts.update(rejected)
    wanted = set(due)
    if absent := [each for each in due if not counts[each]]:
        yield f"items are neither pairs nor rejected: {some(absent)}"
    elif twice := [each for each, count in counts.items() if count > 1]:
        yield f"items occur more than once: {some(twice)}"
    elif strange := [each for each in counts if each not in wanted]:
        yield f"items do not belong to this shard: {some(strange)}"
    else:
        yield "its items are out of order"


def _in_order(due: Sequence[str], some: Sequence[str]) -> bool:
    rest = iter(due)
    return all(each in rest for each in some)


def some(names: Sequence[object], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


class Bodies:
    """The files of rejected rows: checks them and remembers which ones shards name, so that orphans are recognised."""

    def __init__(self, report: Report) -> None:
        self.named: set[str] = set()
        """Names of these files, which contain a hash of the content and are the same in every folder."""
        self.linked: dict[str, set[int]] = defaultdict(set)
        """For each step the shards whose rejected rows are visible under `rejected/`."""
        self._report = report

    def read(self, step: StepFiles, stamp: Stamp, columns: list[str]) -> pa.Table | None:
        """Some columns of the rejected rows (all in deep mode); None if there are none or they cannot be read."""
        shard = step.file(stamp.shard)
        if not stamp.rejected or not stamp.rejects_file:
            if stamp.rejected or stamp.rejects_file or stamp.rejects_sha256:
                self._report.blame(shard, "its metadata contradict themselves about rejected rows and their file")
            return None
        self.named.add(stamp.rejects_file)
        self.linked[step.name].add(stamp.shard)
        match = files.BODY.fullmatch(stamp.rejects_file)
        if not match or int(match[1]) != stamp.shard or match[2] != stamp.rejects_sha256[:16]:
            self._report.blame(shard, f"names {stamp.rejects_file!r} as its rejected rows, which is not a valid name")
            return None
        body = self._report.root / ".rejects" / step.name / stamp.rejects_file
        try:
            with files.ShardFile(body) as file:
                if file.sha256 != stamp.rejects_sha256:
                    raise Unreadable("its sha256 differs from the one in its shard")  # noqa: TRY301 - one report for all
                if file.rows != stamp.rejected:
                    raise Unreadable(f"its shard says {stamp.rejected} rows, it holds {file.rows}")  # noqa: TRY301 - as above
                table = file.read(None if self._report.deep else columns)
        except Unreadable as exc:
            self._report.blame(body, f"the rejected rows of {step.name}/{shard.name}: {exc}")
            return None
        self._check_link(step, stamp, body)
        return table

    def _check_link(self, step: StepFiles, stamp: Stamp, body: Path) -> None:
        link = self._report.root / "rejected" / step.name / f"{stamp.shard:08d}.parquet"
        if not link.exists():
            self._report.note(link, "the link to the rejected rows is missing; the next run restores it")
            return
        try:
            same = link.samefile(body) or files.sha256_of(link) == stamp.rejects_sha256
        except (OSError, Unreadable) as exc:
            self._report.blame(link, f"cannot be read ({exc})")
            return
        if not same:
            self._report.blame(link, "is not the file of rejected rows that the shard names")


def check_leftovers(layout: Layout, bodies: Bodies, report: Report) -> None:
    """Report orphaned rejected rows, stale links, journals and temporary files."""
    for path in _still(layout, ".rejects"):
        if not files.BODY.fullmatch(path.name):
            report.note(path, files.FOREIGN)
        elif path.name not in bodies.named:
            report.note(path, "rejected rows that no shard names: about to be committed, or left by a crash")
    _links(layout, bodies, report)
    _journals(layout, report)
    for path in _still(layout, "tmp"):
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        report.note(path, f"a temporary file ({size:,} bytes) of a running process or of a crash")


def _still(layout: Layout, folder: str) -> list[Path]:
    """Files that were listed at the start and still exist: an active run may have removed the others."""
    return [path for path in layout.others[folder] if os.path.lexists(path)]


def _links(layout: Layout, bodies: Bodies, report: Report) -> None:
    known = {step.name: step.shards for step in layout.steps()}
    for path in _still(layout, "rejected"):
        step = path.parent.relative_to(layout.root / "rejected").as_posix()
        if step not in known or not files.SHARD.fullmatch(path.name):
            report.blame(path, "does not belong to a step, but a reader of *.parquet reads it")
        elif (index := int(path.stem)) not in known[step]:
            report.blame(layout.root / step / path.name, "is missing, although its rejected rows exist")
        elif index not in bodies.linked[step] and not report.blames(layout.root / step / path.name):
            report.blame(path, "belongs to a shard without rejected rows")


def _journals(layout: Layout, report: Report) -> None:
    done = {step.name.replace("/", "-"): step.shards for step in layout.steps()}
    for path in _still(layout, "wip"):
        match = files.JOURNAL.fullmatch(path.name)
        if match is None:
            report.note(path, files.FOREIGN)
        elif int(match[2]) in done.get(match[1], frozenset()):
            report.note(path, "the journal of a finished shard")
        else:
            state = {True: "in progress", False: "the next run resumes it", None: "begun"}
            report.note(path, f"finished calls of an unfinished shard: {state[locked(path)]}")


_MOST_TRIES = 5000


def made_from(view: Opened, pairs: Opened, scores: Sequence[Opened]) -> tuple[list[Opened] | None, bool]:
    """The score shards that a view's shard was made from, in order, and whether any have its columns.

    Its `synth.input` is a checksum over those of the pairs and of the scores.
    """
    added = view.file.names[len(pairs.file.names) :]
    known = False
    for some in islice(_sequences(added, scores), _MOST_TRIES):
        known = True
        checksums = [each.file.sha256 for each in (pairs, *some)]
        if files.sha256_of_json({"inputs": checksums}) == view.stamp.input:
            return some, True
    return None, known


def _sequences(columns: list[str], scores: Sequence[Opened]) -> Iterator[list[Opened]]:
    """All sequences of score shards with these columns: several if a scorer was run with different options."""
    if not columns:
        yield []
    for each in scores if columns else ():
        own = [name for name in each.file.names if name != "id"]
        if own and columns[: len(own)] == own:
            for rest in _sequences(columns[len(own) :], scores):
                yield [each, *rest]


def wrong_rows(pairs: pa.Table, scores: Sequence[pa.Table], view: Opened) -> Iterable[str]:
    """Columns of a view whose values differ from the pairs and scores it was made from; takes whole tables.

    Columns are compared by position, because a view renames columns whose names clash.
    """
    sources = [*pairs.columns, *(table[name] for table in scores for name in table.column_names if name != "id")]
    row: Mapping[str, int] = {name: n for n, name in enumerate(pairs["id"].to_pylist())}
    for what, table in (("kept", view.table), ("rejected", view.rejected)):
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
