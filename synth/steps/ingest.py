"""Step 0: input rows become shards, once: `passages/` from corpora, `generated/` from existing pairs.

Each revision adds a part (`synth.runs.history`): its new inputs, the rejected items to retry, or a round. A part is a
pure function of the recorded inputs and the shard size, so a killed run reads again from the start and commits only
what is missing, and two processes that read at the same time write the same bytes.

A retried item is a row of its own in `passages/`, with a new position, so every draw for it is a new one; `retry_of`
names the old item, whose rejected row stays as it is. So is a passage that a round of a target asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar, Generic

import pyarrow as pa
import pyarrow.compute as pc

from synth import registry
from synth.errors import JobError, SynthError
from synth.runs.history import Record
from synth.runs.preflight import require_suited
from synth.runs.run import OpenRun
from synth.scores import Scorer
from synth.shards import Origin, StepFolder
from synth.sources import (
    Block,
    InputFile,
    PairRow,
    PairSet,
    PassageRow,
    RejectedRow,
    carried_schema,
    pair_files,
    pairs_schema,
    read_pairs,
    read_passages,
    wanted_rows,
)
from synth.sources.records import FileKey, Row
from synth.tables import EXTERNAL_PAIRS, JUDGEMENT, PAIRS, PASSAGES, rejected_row_table
from synth.types import QueryConfig, Written, position_and_slot

Progress = Callable[[int, int], None]
"""Called with (input rows read, rejected so far)."""

Only = Container[int] | None
"""Numbers of the wanted rows, None for all."""


def make(run: OpenRun, progress: Progress, notify: Callable[[str], None] = print) -> Mapping[str, int]:
    """Make every part that is missing; returns the totals of all: shards, passages or pairs, rows_in, rejected, ….

    Raises InputError when an input cannot be read or is not the recorded one, SynthError when rows are missing, and
    JobError where the job does not suit the data: a column that a rule or a scorer reads and nothing makes, groups
    without a threshold, queries in languages that the model cannot write.
    """
    if run.pairs:
        return _Pairs(run, progress, notify).make()
    totals = _Passages(run, progress, notify).make()
    step = run.folder.step("passages")
    todo = sorted(step.done() - run.folder.step("generated").done())
    found = (pc.unique(step.read_columns(index, ["language"])["language"]).to_pylist() for index in todo)
    require_suited(run.job, sorted({language for languages in found for language in languages}))
    return totals


@dataclass(slots=True)
class _Shard(Generic[Row]):
    """The shard being filled. Input rows belong to the shard of their first row, rejected ones to the open one."""

    index: int
    first: int
    rows: list[Row] = field(default_factory=list)
    carried: list[pa.Table] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    @property
    def used(self) -> int:
        return sum(row.first for row in self.rows)


class _Ingest(ABC, Generic[Row]):
    name: ClassVar[str]
    counted: ClassVar[str]

    def __init__(self, run: OpenRun, progress: Progress, notify: Callable[[str], None]) -> None:
        self.run, self.progress, self.notify = run, progress, notify
        self.step, self.limits = run.folder.step(self.name), run.job.read_limits()

    @abstractmethod
    def files(self, record: Record) -> Sequence[InputFile]:
        """The inputs of a revision, as they are today."""

    @abstractmethod
    def read(self, record: Record, only: Only, seen: Container[FileKey]) -> Iterator[Block[Row]]:
        """The rows of a revision's inputs, without those of files in `seen`."""

    @abstractmethod
    def table(self, shard: _Shard[Row]) -> pa.Table:
        """A full shard as it is stored."""

    def make(self) -> Mapping[str, int]:
        sums = dict.fromkeys(("shards", self.counted, "rows_in", "rows_used", "rejected", "retried"), 0)
        seen: frozenset[FileKey] = frozenset()
        finished = self.step.done()
        for record in self.run.history.records:
            inputs = frozenset(file.key for file in record.inputs)
            done = self.run.history.totals(record)
            lost = set(range(sums["shards"], done["shards"])) - finished if done else set()
            for index in sorted(lost):
                self.notify(f"{self.step.file(index)}: is missing; made again from the inputs")
            if done is None or lost:
                self.step.settle()
                done = dict(sums)
                if record.retry:
                    items = [(position_and_slot(item)[0], item) for item in record.retry]
                    _repeat(self.run, record, self.step, done, items)
                    done["retried"] += len(record.retry)
                elif record.round:
                    rows = record.round.passages.tolist()
                    _repeat(self.run, record, self.step, done, [(position, None) for position in rows])
                    done["planned"] = done.get("planned", 0) + len(rows)
                elif inputs != seen:
                    self._read(record, done, seen)
                self.run.history.put_totals(record, done)
            sums, seen = sums | done, inputs
        return sums

    def _read(self, record: Record, sums: dict[str, int], seen: Container[FileKey]) -> None:
        files, sample, finished = self.files(record), self.run.record.sample, self.step.done()
        only: Only = self.run.job.part
        expected = None
        if sample is not None or all(file.rows is not None for file in files):
            only, expected = wanted_rows(files, self.run.job.part, sample)
        for shard in self._fill(_Shard(sums["shards"], sums[self.counted]), self.read(record, only, seen)):
            if shard.index not in finished:
                self._commit(record, shard)
            sums["shards"] += 1
            sums[self.counted] += len(shard.rows)
            sums["rows_used"] += shard.used
            sums["rejected"] += len(shard.rejected)
        sums["rows_in"] = sums["rows_used"] + sums["rejected"]
        if expected is not None and sums["rows_in"] != expected:
            raise SynthError(f"rows are missing: {expected} in, {sums['rows_used']} used, {sums['rejected']} rejected.")

    def _fill(self, shard: _Shard[Row], blocks: Iterator[Block[Row]]) -> Iterator[_Shard[Row]]:
        """Shards of `shard_size` rows in input order; a last one also when only rejected rows are left over."""
        size, read, rejected = self.run.job.run.shard_size, 0, 0
        for block in blocks:
            start = place = 0
            for outcome in block.outcomes:
                if isinstance(outcome, RejectedRow):
                    shard.rejected.append(outcome)
                    rejected += 1
                    continue
                if len(shard.rows) == size:
                    shard.carried.append(block.carried.slice(start, place - start))
                    start = place
                    yield shard
                    shard = _Shard(shard.index + 1, shard.first + size)
                shard.rows.append(outcome)
                place += 1
                read += outcome.first
            shard.carried.append(block.carried.slice(start))
            self.progress(read + rejected, rejected)
        if shard.rows or shard.rejected:
            yield shard

    def _commit(self, record: Record, shard: _Shard[Row]) -> None:
        rows_out = len(shard.rows) if self.run.pairs else shard.used  # a long passage is several rows of its shard
        rows_in = rows_out + len(shard.rejected)
        origin = Origin(identity=record.sha256, input="", first=shard.first, rows_in=rows_in, rows_out=rows_out)
        rejects = [
            {
                "id": f"{row.source}:{row.source_row}",
                "passage_id": row.id,
                "step": self.name,
                "reason": row.reason,
                "detail": row.detail,
                "source": row.source,
                "source_row": row.source_row,
                "text": row.text_excerpt,
            }
            for row in shard.rejected
        ]
        table = self.table(shard)
        self.step.commit(shard.index, table, origin, rejects=rejected_row_table(rejects) if rejects else None)


def _table(ours: Mapping[str, Sequence[Any]], carried: Sequence[pa.Table], columns: pa.Schema) -> pa.Table:
    arrays = [pa.array(values, columns.field(name).type) for name, values in ours.items()]
    if others := list(columns)[len(ours) :]:
        filled = [each for each in carried if each.num_rows]
        arrays += (
            pa.concat_tables(filled).combine_chunks().columns if filled else [pa.nulls(0, each.type) for each in others]
        )
    return pa.Table.from_arrays(arrays, schema=columns)


# passages -------------------------------------------------------------------------------------------------------------


class _Passages(_Ingest[PassageRow]):
    name = counted = "passages"

    def files(self, record: Record) -> Sequence[InputFile]:
        return self.run.reading_at(record.number).inputs

    def read(self, record: Record, only: Only, seen: Container[FileKey]) -> Iterator[Block[PassageRow]]:
        first, now = self.run.reading_at(1), self.run.reading_at(record.number)
        carried = carried_schema(first.job.corpora, first.inputs, self.limits)  # all shards have the same columns
        self._columns = passage_columns(carried)
        return read_passages(
            now.job.corpora, now.inputs, self.limits, only=only, carried=carried, notify=self.notify, seen=seen
        )

    def table(self, shard: _Shard[PassageRow]) -> pa.Table:
        return passage_table(shard.rows, shard.carried, shard.first, self._columns)


def passage_columns(carried: pa.Schema) -> pa.Schema:
    """The columns of `passages/`; a carried column with one of their names becomes `input_<name>`."""
    taken = PASSAGES.names
    return pa.schema(
        [*PASSAGES, *((f"input_{each.name}" if each.name in taken else each.name, each.type) for each in carried)]
    )


def passage_table(rows: Sequence[PassageRow], carried: Sequence[pa.Table], first: int, columns: pa.Schema) -> pa.Table:
    """Passages from position `first` on, with their carried columns, as rows of `passages/`."""
    ours: dict[str, Sequence[Any]] = {
        "position": range(first, first + len(rows)),
        **{name: [getattr(row, name) for row in rows] for name in PASSAGES.names if name in PassageRow._fields},
        "retry_of": [None] * len(rows),
    }
    return _table({name: ours[name] for name in PASSAGES.names}, carried, columns)


# pairs ----------------------------------------------------------------------------------------------------------------


class _Pairs(_Ingest[PairRow]):
    name, counted = "generated", "pairs"

    def files(self, record: Record) -> Sequence[InputFile]:
        return pair_files(self._sets(record))

    def read(self, record: Record, only: Only, seen: Container[FileKey]) -> Iterator[Block[PairRow]]:
        first = self._sets(self.run.history.record(1))
        carried = pairs_schema(first, self.limits)  # all shards have the same columns
        self._columns, self._ours = pair_columns(first, carried), [each.name for each in _own_columns(first)]
        if record.number == 1 and (new := renamed(first, carried)):
            self.notify(f"columns renamed: {describe_renamed(new)}")
        return read_pairs(self._sets(record), carried, self.limits, only=only, seen=seen, notify=self.notify)

    def table(self, shard: _Shard[PairRow]) -> pa.Table:
        rows = shard.rows
        ours: dict[str, Sequence[Any]] = {
            "id": [f"{shard.first + n}-0" for n in range(len(rows))],
            "group": [None if row.positive is None else row.source_row for row in rows],
            **{name: [getattr(row, name) for row in rows] for name in self._ours if name in PairRow._fields},
        }
        return _table({name: ours[name] for name in self._ours}, shard.carried, self._columns)

    def make(self) -> Mapping[str, int]:
        """Raises JobError for columns and groups that are missing, before any model is asked."""
        sums = super().make()
        if not sums["shards"]:
            return sums
        job, present = self.run.job, self.step.schema(0).names
        for scorer in job.scores:
            if absent := [name for name in scorer.reads or () if name not in present]:
                there = f"There are: {', '.join(present)}."
                raise JobError(f"scores: {scorer.name}: column {absent[0]!r} does not exist.", there)
        job.rules.require({*present, *(name for scorer in job.scores for name, _ in scorer.named_outputs())})
        by = [name for name in job.rules.grouping if name in present]
        job.rules.require_groups(self.step.read_columns(index, by) for index in sorted(self.step.done()) if by)
        return sums

    def _sets(self, record: Record) -> list[PairSet]:
        names = {file.key for file in record.inputs}
        sets = (replace(each, files=tuple(file for file in each.files if file.key in names)) for each in self.run.pairs)
        return [each for each in sets if each.files]


def pair_columns(sets: Sequence[PairSet], carried: pa.Schema) -> pa.Schema:
    """The columns of `generated/`: ours, then the carried ones, `input_<name>` where one of ours or a score has it."""
    new = renamed(sets, carried)
    return pa.schema([*_own_columns(sets), *(each.with_name(new.get(each.name, each.name)) for each in carried)])


def renamed(sets: Sequence[PairSet], carried: pa.Schema) -> dict[str, str]:
    """The new names of those carried columns that cannot keep theirs."""
    # every column of every scorer of ours, whether the job names it or not: scorers may be added later
    scorers = [registry.find("scores", name) for name in registry.names("scores")]
    taken = {column.name for scorer in scorers if issubclass(scorer, Scorer) for column in scorer.outputs}
    taken |= {JUDGEMENT, *(each.name for each in _own_columns(sets))}
    # the columns of generated pairs mean something in shards of synth only; an id of a passage is one in any data
    known = {"passage_id"}
    if all(each.kind == "shards" for each in sets):
        known |= {
            each.name for each in carried if each.name in PAIRS.names and each.type == PAIRS.field(each.name).type
        }
    taken |= set(PAIRS.names) - known
    free = set(carried.names) - taken
    found: dict[str, str] = {}
    for old in carried.names:
        if old not in taken:
            continue
        name = old
        while name in taken or name in free:
            name = f"input_{name}"
        taken.add(name)
        found[old] = name
    return found


def describe_renamed(names: Mapping[str, str]) -> str:
    """`id as input_id, cosine as input_cosine`."""
    return ", ".join(f"{old} as {new}" for old, new in names.items())


def _own_columns(sets: Sequence[PairSet]) -> list[pa.Field]:
    """The columns of pairs that are ours; some only where the data have something to put there."""
    unused = set()
    if not any(each.kind in ("flag", "messages") for each in sets):
        unused |= {"group", "positive"}
    if all(each.label is None for each in sets):
        unused.add("label")
    return [each for each in EXTERNAL_PAIRS if each.name not in unused]


# rejected items that are retried --------------------------------------------------------------------------------------


def rejected_items(run: OpenRun) -> list[str]:
    """Ids of all rejected items of generation that no revision has retried, in the order of positions."""
    generated = run.folder.step("generated")
    retried = {item for record in run.history.records for item in record.retry}
    found = [
        item
        for index in sorted(generated.done())
        if (table := generated.rejects(index)) is not None
        for item in table["id"].to_pylist()
        if item not in retried
    ]
    return sorted(found, key=position_and_slot)


def written_before(run: OpenRun, items: Sequence[str]) -> Mapping[str, Sequence[Written]]:
    """For each retried item the queries that its passage got when it was first used, with their configurations."""
    parts = run.history.parts()
    passages, positions = run.folder.step("passages"), {}
    for item in items:
        position, _ = position_and_slot(item)
        while parts.of_shard(index := parts.shard_of(position)).retry:
            again = passages.read_columns(index, ["retry_of"])["retry_of"]
            position, _ = position_and_slot(again[position - passages.meta(index).first].as_py())
        positions[item] = position
    found = written(run, set(positions.values()))
    return {item: found[position] for item, position in positions.items()}


def written(run: OpenRun, positions: Collection[int]) -> Mapping[int, Sequence[Written]]:
    """The queries that rows of `passages/` have got, with their configurations, by position."""
    parts = run.history.parts()
    found: dict[int, list[Written]] = defaultdict(list)
    wanted = set(positions)
    generated = run.folder.step("generated")
    for index in sorted({parts.shard_of(position) for position in wanted} & generated.done()):
        table = generated.read_columns(index, ["id", "query", "character", "question_type", "difficulty"])
        for row in table.to_pylist():
            position, _ = position_and_slot(row["id"])
            if position in wanted:
                kind = row["question_type"]  # only retrieval has one
                config = QueryConfig(row["character"], kind, row["difficulty"]) if kind else None
                found[position].append(Written(config, row["query"]))
    return found


def _repeat(
    run: OpenRun, record: Record, step: StepFolder, sums: dict[str, int], wanted: Sequence[tuple[int, str | None]]
) -> None:
    """Write passages once more, each at a new position: those at these positions, with the item that each retries.

    Raises OutputError when a shard with one of the passages is damaged or missing.
    """
    finished, size, parts = step.done(), run.job.run.shard_size, run.history.parts()
    for start in range(0, len(wanted), size):
        items, first = wanted[start : start + size], sums["passages"]
        rows = len(items)
        if sums["shards"] not in finished:
            tables = []
            for index, group in groupby(items, lambda item: parts.shard_of(item[0])):
                shard = step.read(index)
                places = [position - shard.meta.first for position, _ in group]
                tables.append(shard.table.take(pa.array(places, pa.int64())))
            table = pa.concat_tables(tables)
            for name, values in {"position": range(first, first + rows), "retry_of": [old for _, old in items]}.items():
                place, kind = table.schema.get_field_index(name), PASSAGES.field(name)
                table = table.set_column(place, kind, pa.array(values, kind.type))
            origin = Origin(identity=record.sha256, input="", first=first, rows_in=rows, rows_out=rows)
            step.commit(sums["shards"], table, origin)
        sums["shards"] += 1
        sums["passages"] += rows
