"""Step 0: input rows become `passages/` shards, once. Every later position is a row of these.

Each revision adds a part (`synth.run.history`): its new inputs, or the rejected items to ask again. A part is a pure
function of the recorded inputs and the shard size, so a killed run reads again from the start, commits only what is
missing, and two processes that read at the same time write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from synth.job import Job
from synth.run import history
from synth.run import run as runs
from synth.run.run import Run
from synth.shards import Origin, StepFolder
from synth.sources import InputFile, PassageRow, RejectedRow, carried_schema, count_rows, read_passages, sample_rows
from synth.steps import retry
from synth.tables import PASSAGES, SCHEMA_VERSION, rejected_row_table

Progress = Callable[[int, int], None]
"""Called with (input rows read, rejected so far)."""

_TELL_EVERY = 1000
_NOTHING = {"shards": 0, "passages": 0, "rows_in": 0, "rejected": 0, "retried": 0}


@dataclass(slots=True)
class _Open:
    """The shard being filled. A row belongs to the shard that holds its first chunk, a rejected row to the open one."""

    index: int
    first: int
    rows: list[PassageRow] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    rows_in: int = 0


def make(run: Run, tell: Progress, notify: Callable[[str], None] = print) -> Mapping[str, int]:
    """Make every part that is missing; returns shards, passages, rows_in, rejected and retried over all of them.

    Raises InputError when an input turns out to be unreadable or different from what the run recorded.
    """
    step = run.folder.step("passages")
    sums: dict[str, int] = dict(_NOTHING)
    for record in history.read_revisions(run.folder):
        done = history.totals_of(run.folder, record)
        if done is None:
            step.settle()
            own = runs.reading_at(run, record.number)
            done = _again(own, step, sums) if record.retry else _read(own, step, sums, tell, notify)
            history.put_totals(run.folder, record, done)
        sums = {**_NOTHING, **done}
    return sums


def _read(
    run: Run, step: StepFolder, sums: Mapping[str, int], tell: Progress, notify: Callable[[str], None]
) -> dict[str, int]:
    """The inputs that this revision brought, after the shards of earlier ones."""
    columns = schema(*_first(run))
    finished = step.done()
    added = dict(sums)
    for shard in _fill(run, _Open(sums["shards"], sums["passages"]), tell, notify):
        if shard.index not in finished:
            _commit(run, step, shard, columns)
        added["shards"] += 1
        added["passages"] += len(shard.rows)
        added["rows_in"] += shard.rows_in + len(shard.rejected)
        added["rejected"] += len(shard.rejected)
    return added


def _again(run: Run, step: StepFolder, sums: Mapping[str, int]) -> dict[str, int]:
    """The passages of rejected items, one row for each item that is asked again."""
    finished = step.done()
    added = dict(sums)
    size = run.job.run.shard_size
    for start in range(0, len(run.retry), size):
        items = run.retry[start : start + size]
        if added["shards"] not in finished:
            table = retry.passages_of(run.folder, items, added["passages"])
            count = table.num_rows
            origin = Origin(
                identity=run.identity,
                input="",
                first=added["passages"],
                rows_in=count,
                rows_out=count,
                schema=SCHEMA_VERSION,
            )
            step.commit(added["shards"], table, origin)
        added["shards"] += 1
        added["passages"] += len(items)
        added["retried"] += len(items)
    return added


def _first(run: Run) -> tuple[Job, Sequence[InputFile]]:
    """Job and inputs of the first revision, whose columns all shards have."""
    first = runs.reading_at(run, 1)
    return first.job, first.inputs


def _fill(run: Run, shard: _Open, tell: Progress, notify: Callable[[str], None]) -> Iterator[_Open]:
    """Shards of `shard_size` passages in input order; a last one also when only rejected rows are left over."""
    only = None if run.sample is None else sample_rows(count_rows(run.inputs), run.sample)
    read = rejected = 0
    limits = run.job.read_limits()
    job, inputs = _first(run)
    carried = carried_schema(job.corpora, inputs, limits)
    outcomes = read_passages(
        run.job.corpora, run.inputs, limits, only=only, carried=carried, notice=notify, seen=run.seen
    )
    for outcome in outcomes if run.seen < len(run.inputs) else ():
        if isinstance(outcome, RejectedRow):
            shard.rejected.append(outcome)
            rejected += 1
            read += 1
        else:
            if len(shard.rows) == run.job.run.shard_size:
                yield shard
                shard = _Open(shard.index + 1, shard.first + len(shard.rows))
            shard.rows.append(outcome)
            shard.rows_in += outcome.chunk == 0
            read += outcome.chunk == 0
        if read % _TELL_EVERY == 0:
            tell(read, rejected)
    tell(read, rejected)
    if shard.rows or shard.rejected:
        yield shard


def schema(job: Job, inputs: Sequence[InputFile]) -> pa.Schema:
    """The columns of `passages/`; a carried column with one of their names comes as `input_<name>`."""
    own = carried_schema(job.corpora, inputs, job.read_limits())
    renamed = [pa.field(_own_name(each.name), each.type) for each in own]
    return pa.schema([*PASSAGES, *renamed])


def _own_name(name: str) -> str:
    return f"input_{name}" if name in PASSAGES.names else name


def _commit(run: Run, step: StepFolder, shard: _Open, schema: pa.Schema) -> None:
    table = pa.Table.from_pylist([record(row, shard.first + n) for n, row in enumerate(shard.rows)], schema=schema)
    origin = Origin(
        identity=run.identity,
        input="",
        first=shard.first,
        rows_in=shard.rows_in + len(shard.rejected),
        rows_out=shard.rows_in,
        schema=SCHEMA_VERSION,
    )
    rejects = rejected_row_table(_rejected(row) for row in shard.rejected) if shard.rejected else None
    step.commit(shard.index, table, origin, rejects=rejects)


def record(row: PassageRow, position: int) -> dict[str, Any]:
    """A passage as a row of `passages/`."""
    own = {_own_name(name): value for name, value in row.carried.items()}
    return own | {
        "position": position,
        "id": row.id,
        "text": row.text,
        "title": row.title,
        "language": row.language,
        "source": row.source,
        "source_row": row.source_row,
        "chunk": row.chunk,
    }


def _rejected(row: RejectedRow) -> dict[str, Any]:
    return {
        "id": f"{row.source}:{row.source_row}",
        "passage_id": row.id,
        "reason": row.reason,
        "detail": row.detail,
        "source": row.source,
        "source_row": row.source_row,
        "text": row.text_excerpt,
    }
