"""Step 0 of a pass over existing data: the pairs become `generated/` shards, once, and every later step is as usual.

The shards are a pure function of the recorded inputs and the shard size, so a killed pass reads again from the start
and commits only what is missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from synth import registry
from synth.errors import JobError, SynthError
from synth.job import Job
from synth.pairs import PairRow, PairSet, own_schema, pair_files, read_pairs
from synth.run import history
from synth.run.history import Record
from synth.run.run import Run
from synth.scores import Scorer
from synth.shards import Origin, OutputFolder, StepFolder
from synth.sources import RejectedRow, count_rows, sample_rows
from synth.tables import FOREIGN, SCHEMA_VERSION, rejected_row_table

Progress = Callable[[int, int], None]
"""Called with (input rows read, rejected so far)."""

_LISTED = ("flag", "messages")


@dataclass(slots=True)
class _Open:
    """The shard being filled; a rejected row belongs to the shard that was open when it was read."""

    index: int
    first: int
    rows: list[PairRow] = field(default_factory=list)
    own: list[pa.Table] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Input rows whose first pair is here."""
        return sum(not row.positive for row in self.rows)


def make(run: Run, tell: Progress, notify: Callable[[str], None] = print) -> Mapping[str, int]:
    """Make every part that is missing; returns shards, pairs, rows_in, rows_used and rejected over all of them.

    `notify` hears which columns of the data get another name.

    Raises InputError when an input is unreadable or no longer what the run recorded, JobError for a column that a rule
    or a scorer reads and nobody makes, and for groups without a threshold, SynthError when rows are missing.
    """
    step = run.folder.step("generated")
    sums = {"shards": 0, "pairs": 0, "rows_in": 0, "rows_used": 0, "rejected": 0}
    seen: set[tuple[int, str]] = set()
    for record in history.read_revisions(run.folder):
        done = history.totals_of(run.folder, record)
        names = {(file.corpus_index, file.relative) for file in record.inputs}
        if done is None:
            step.settle()
            if not sums["shards"] and (new := renamed(*_columns(run))):
                notify(f"carried under other names: {describe_renamed(new)}")
            done = _part(run, record, sums, seen, tell)
            history.put_totals(run.folder, record, done)
        sums, seen = done, names
    if sums["shards"]:
        present = step.schema(0).names
        _require_columns(run.job, present)
        by = [name for name in run.job.rules.grouping if name in present]
        run.job.rules.require_groups(step.read_columns(index, by) for index in sorted(step.done()) if by)
    return sums


def _require_columns(job: Job, present: Sequence[str]) -> None:
    """Raises JobError for a column that a rule or a scorer reads and nobody makes, before any model is asked."""
    for scorer in job.scores:
        for name in scorer.reads or ():
            if name not in present:
                raise JobError(
                    f"scores: {scorer.name}: there is no column {name!r}.", f"There are: {', '.join(present)}."
                )
    job.rules.require({*present, *(name for scorer in job.scores for name, _ in scorer.named_outputs())})


def _part(
    run: Run, record: Record, sums: Mapping[str, int], seen: set[tuple[int, str]], tell: Progress
) -> dict[str, int]:
    """The inputs that one revision brought, after the shards of earlier ones."""
    if {(file.corpus_index, file.relative) for file in record.inputs} == seen:
        return dict(sums)
    sets = _of(run, record)
    first, own = _columns(run)
    columns = schema(first, own)
    step = run.folder.step("generated")
    finished = step.done()
    added = dict(sums)
    for shard in _fill(run, sets, own, _Reading(_Open(sums["shards"], sums["pairs"]), seen, tell)):
        if shard.index not in finished:
            _commit(step, record.sha256, shard, _table(shard, columns, len(columns) - len(own)))
        added["shards"] += 1
        added["pairs"] += len(shard.rows)
        added["rows_used"] += shard.used
        added["rejected"] += len(shard.rejected)
    rows = count_rows(pair_files(sets))
    added["rows_in"] = rows if run.sample is None else min(rows, run.sample)
    if added["rows_in"] != added["rows_used"] + added["rejected"]:
        raise SynthError(f"{added['rows_in']} rows in, but {added['rows_used']} used and {added['rejected']} rejected.")
    return added


def _columns(run: Run) -> tuple[list[PairSet], pa.Schema]:
    """The data that the run began with, and their columns, which all shards have."""
    first = _of(run, history.read_revisions(run.folder)[0])
    return first, own_schema(first, run.job.read_limits())


def _of(run: Run, record: Record) -> list[PairSet]:
    """The run's data as far as a revision had them."""
    names = {(file.corpus_index, file.relative) for file in record.inputs}
    sets = (
        replace(each, files=tuple(file for file in each.files if (file.corpus_index, file.relative) in names))
        for each in run.pairs
    )
    return [each for each in sets if each.files]


def schema(sets: Sequence[PairSet], own: pa.Schema) -> pa.Schema:
    """The columns of `generated/`: ours, then the data's; one with a name of ours or of a score is `input_<name>`."""
    columns = _ours(sets)
    new = renamed(sets, own)
    return pa.schema([*columns, *(each.with_name(new.get(each.name, each.name)) for each in own)])


def renamed(sets: Sequence[PairSet], own: pa.Schema) -> dict[str, str]:
    """The new names of those of the data's columns that cannot keep theirs."""
    taken = {each.name for each in _ours(sets)} | _score_columns()
    free = set(own.names) - taken
    found: dict[str, str] = {}
    for old in own.names:
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


def _ours(sets: Sequence[PairSet]) -> list[pa.Field]:
    layouts = [each.layout for each in sets]
    columns = [each for each in FOREIGN if each.name not in ("group", "positive", "label")]
    if any(layout.kind in _LISTED for layout in layouts):
        columns += [FOREIGN.field("group"), FOREIGN.field("positive")]
    if any(layout.label is not None for layout in layouts):
        columns.append(FOREIGN.field("label"))
    return columns


def _score_columns() -> set[str]:
    """Every column that a scorer of ours makes, whether the job names it or not: scorers may be added later."""
    scorers = [registry.find("scores", name) for name in registry.names("scores")]
    return {column.name for scorer in scorers if issubclass(scorer, Scorer) for column in scorer.outputs}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where a part begins, which files belong to earlier ones, and who is told how far it is."""

    begin: _Open
    seen: Container[tuple[int, str]]
    tell: Progress


def _fill(run: Run, sets: Sequence[PairSet], own: pa.Schema, reading: _Reading) -> Iterator[_Open]:
    """Shards of `shard_size` pairs in input order; a last one also when only rejected rows are left over."""
    only = None if run.sample is None else sample_rows(count_rows(pair_files(sets)), run.sample)
    size, shard, read, rejected = run.job.run.shard_size, reading.begin, 0, 0
    for block in read_pairs(sets, own, run.job.read_limits(), only=only, seen=reading.seen):
        start = taken = 0
        for outcome in block.outcomes:
            if isinstance(outcome, RejectedRow):
                shard.rejected.append(outcome)
                rejected += 1
                continue
            if len(shard.rows) == size:
                shard.own.append(block.own.slice(start, taken - start))
                start = taken
                yield shard
                shard = _Open(shard.index + 1, shard.first + size)
            shard.rows.append(outcome)
            taken += 1
        shard.own.append(block.own.slice(start))
        read += len(block.outcomes)
        reading.tell(read, rejected)
    if shard.rows or shard.rejected:
        yield shard


def _commit(step: StepFolder, identity: str, shard: _Open, table: pa.Table) -> None:
    origin = Origin(
        identity=identity,
        input="",
        first=shard.first,
        rows_in=table.num_rows + len(shard.rejected),
        rows_out=table.num_rows,
        schema=SCHEMA_VERSION,
    )
    rejects = rejected_row_table(map(_rejected, shard.rejected)) if shard.rejected else None
    step.commit(shard.index, table, origin, rejects=rejects)


def _table(shard: _Open, columns: pa.Schema, count: int) -> pa.Table:
    """The pairs of a shard; the first `count` columns are ours."""
    rows = shard.rows
    ours = {
        "id": [f"{shard.first + n}-0" for n in range(len(rows))],
        "query": [row.query for row in rows],
        "passage": [row.passage for row in rows],
        "source": [row.source for row in rows],
        "source_row": [row.source_row for row in rows],
        "query_language": [row.query_language for row in rows],
        "passage_language": [row.passage_language for row in rows],
        "group": [None if row.positive is None else row.source_row for row in rows],
        "positive": [row.positive for row in rows],
        "label": [row.label for row in rows],
    }
    arrays = [pa.array(ours[each.name], each.type) for each in list(columns)[:count]]
    own = pa.concat_tables(shard.own) if shard.own and len(columns) > count else None
    if own is None:
        arrays += [pa.nulls(len(rows), each.type) for each in list(columns)[count:]]
    else:
        arrays += own.columns
    return pa.Table.from_arrays(arrays, schema=columns)


def _rejected(row: RejectedRow) -> dict[str, object]:
    return {
        "id": f"{row.source}:{row.source_row}",
        "passage_id": row.id,
        "step": "generated",
        "reason": row.reason,
        "detail": row.detail,
        "source": row.source,
        "source_row": row.source_row,
        "text": row.text_excerpt,
    }


def stored_scores(run: Run, name: str, fingerprint: str, pairs: pa.Table) -> pa.Table | None:
    """The rows of a score folder of an earlier run for pairs that come from it; None unless all of them are there.

    `name` is that of the folder, `scores/cosine-1a2b3c4d`. Values count only beside the very shard that they were
    taken of, by its checksum.
    """
    sets = {each.layout.source: each for each in run.pairs}
    if not any(each.layout.kind == "shards" for each in sets.values()):
        return None
    parts: list[pa.Table] = []
    sources, rows = pairs["source"].to_pylist(), pairs["source_row"].to_pylist()
    start = 0
    while start < len(rows):
        found = sets[sources[start]]
        ends = list(accumulate(file.rows or 0 for file in found.files))
        place = bisect_right(ends, rows[start])
        end = start
        while end < len(rows) and sources[end] == sources[start] and bisect_right(ends, rows[end]) == place:
            end += 1
        table = _stored(found, place, name, fingerprint)
        if table is None:
            return None
        first = ends[place] - (found.files[place].rows or 0)
        parts.append(table.take(pa.array([row - first for row in rows[start:end]], pa.int64())))
        start = end
    return pa.concat_tables(parts) if parts else None


def _stored(found: PairSet, place: int, name: str, fingerprint: str) -> pa.Table | None:
    file = found.files[place]
    root = Path(file.path).parent.parent
    if found.layout.kind != "shards" or not (root / "job.json").is_file() or Path(file.path).parent.name != "generated":
        return None
    step = OutputFolder.open(root).step(name)
    index = int(Path(file.path).stem)
    if not step.file(index).exists():
        return None
    shard = step.read(index)
    fresh = shard.meta.identity == fingerprint and shard.meta.input == file.sha256
    return shard.table if fresh else None
