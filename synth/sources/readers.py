"""Rows of every kind of file behind the same functions, and the one loop that turns them into passages or pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Generic

import pyarrow as pa

from synth.errors import InputError, JobError
from synth.sources import carried, parquet, text
from synth.sources.checks import storable
from synth.sources.columns import Columns, find_columns, keys_of, values_at
from synth.sources.files import current
from synth.sources.options import Corpus, ReadLimits
from synth.sources.records import (
    COLUMNAR,
    Block,
    Fault,
    FileKey,
    InputFile,
    LanguageSource,
    RawRows,
    RejectedRow,
    Row,
    Selection,
)
from synth.sources.text import ObjectRow, Wanted

PEEK = 1000
"""Rows whose keys and values decide which columns a file has and of what type."""
BLOCK = 1024
"""Rows of a text file that are in memory at once, unless they are long; Parquet has batches of its own."""
_SHARE = 8
"""A block of long rows ends at this part of `limits.max_batch_bytes`."""


class Rows(ABC, Generic[Row]):
    """What depends on whether rows become passages or pairs: how a file is read, and what one row becomes.

    `open` begins a file whose first row has this number over all files, and `source_row` in its source. `outcome` is
    what one row without a fault becomes, `describe` the id and the excerpt of a rejected one.
    """

    reread = False
    """Whether files that were read before are read again, because later rows depend on them."""

    @abstractmethod
    def open(self, file: InputFile, number: int, source_row: int) -> None: ...

    @abstractmethod
    def raw_rows(self, wanted: Wanted | None) -> Iterator[RawRows]: ...

    @abstractmethod
    def outcome(self, raw: RawRows, place: int) -> Sequence[Row] | Fault: ...

    @abstractmethod
    def describe(self, raw: RawRows, place: int) -> tuple[str, str]: ...


def read_rows(
    kind: Rows[Row],
    files: Iterable[InputFile],
    limits: ReadLimits,
    only: Container[int] | None,
    seen: Container[FileKey],
) -> Iterator[Block[Row]]:
    """What the rows of all files become, block by block, in input order.

    `only` has the wanted rows by their number over all files; the others are not parsed. Files in `seen`, by
    `InputFile.key`, were read before: they are counted, and nothing comes from them. Raises InputError for a file that
    changed or is cut off, and at the first rejected row if `limits.strict`.
    """
    number = 0
    source_rows: dict[str, int] = {}
    for file in files:
        start, rows = source_rows.get(file.source, 0), file.rows
        wanted = None if only is None else _wanted(number, only)
        skipped = rows is not None and wanted is not None and not any(map(wanted, range(rows)))
        if rows != 0 and not skipped and (kind.reread or file.key not in seen):
            current(file)
            kind.open(file, number, start)
            fresh = file.key not in seen
            for raw in kind.raw_rows(wanted):
                block = _block(kind, raw, file, start, strict=limits.strict and fresh)
                if fresh:
                    yield block
                if file.rows is None:
                    rows = raw.numbers[-1] + 1
            current(file)
        number += rows or 0
        source_rows[file.source] = start + (rows or 0)


def _wanted(first: int, only: Container[int]) -> Wanted:
    return lambda row: first + row in only


def _block(kind: Rows[Row], raw: RawRows, file: InputFile, start: int, *, strict: bool) -> Block[Row]:
    block, used = Block[Row](), []
    for place, number in enumerate(raw.numbers):
        outcome = raw.faults.get(place) or kind.outcome(raw, place)
        if not isinstance(outcome, Fault):
            block.outcomes += outcome
            used += [place] * len(outcome)
            continue
        if strict:
            hint = "Fix the row, or set `limits.strict: false` to reject such rows and go on."
            raise InputError(f"{file.path}: row {number}: {outcome.reason}: {outcome.detail}.", hint)
        ident, shown = kind.describe(raw, place)
        detail, shown = storable(outcome.detail), storable(outcome.excerpt) or shown
        block.outcomes.append(RejectedRow(file.source, start + number, ident, outcome.reason, detail, shown))
    if raw.carried.num_columns:
        block.carried = raw.carried.take(pa.array(used, pa.int64()))
    return block


def raw_rows(
    file: InputFile, selection: Selection, limits: ReadLimits, wanted: Wanted | None = None
) -> Iterator[RawRows]:
    """The wanted rows of one file in order. Raises InputError where the file cannot be read on."""
    if file.kind in COLUMNAR:
        yield from parquet.read(file.path, selection, limits, wanted)
        return
    block: list[ObjectRow] = []
    size = 0
    for row in _object_rows(file, limits, wanted):
        block.append(row)
        size += row.size
        if len(block) == BLOCK or size > limits.max_batch_bytes // _SHARE:
            yield _raw_rows(block, selection)
            block, size = [], 0
    if block:
        yield _raw_rows(block, selection)


def _object_rows(file: InputFile, limits: ReadLimits, wanted: Wanted | None = None) -> Iterator[ObjectRow]:
    if file.kind != "hub":
        return text.rows(file.path, file.kind, limits, wanted)
    from synth.sources import hub  # noqa: PLC0415 - `datasets` costs seconds

    return hub.rows(file, wanted)


def _raw_rows(block: Sequence[ObjectRow], selection: Selection) -> RawRows:
    faults = {place: row.values for place, row in enumerate(block) if isinstance(row.values, Fault)}
    objects: list[Mapping[str, Any]] = [{} if isinstance(row.values, Fault) else row.values for row in block]
    columns = {}
    for each in (field for field in selection.schema if field.name in selection.carried):
        found, as_json = values_at(objects, each.name), each.name in selection.as_json
        columns[each.name] = carried.array(found, each, faults, as_json=as_json)
    values = {name: values_at(objects, name) for name in selection.values}
    numbers = [row.number for row in block]
    return RawRows(numbers, values, carried.table_of(columns, selection.schema, len(block)), faults)


def columns_of(corpus: Corpus, file: InputFile, limits: ReadLimits) -> Columns:
    """The columns of a file of a corpus. Raises InputError for a missing one or an unusable Parquet type."""
    if file.kind == "text":
        columns = find_columns(corpus, ["text"], file.path)
        if columns != Columns("text", None, None, None, ()):
            hint = "Remove id, title and carry from this corpus."
            raise InputError(f"{file.path}: a text file has no columns.", hint)
        return columns
    if file.kind not in COLUMNAR:
        csv = file.kind in ("csv", "tsv")
        available = text.header(file.path, limits) if csv else keys_of(first_objects(file, limits))
        if file.kind == "jsonl" and not {corpus.text, corpus.title, *corpus.carry} <= {"auto", None, *available}:
            available = list(dict.fromkeys([*available, *parquet.column_names(file_schema(file, limits))]))
        return find_columns(corpus, available, file.path)
    schema = parquet.schema(file.path)
    columns = find_columns(corpus, parquet.column_names(schema), file.path)
    for name in columns[:4]:
        kind = pa.string() if name is None else parquet.type_of(schema, str(name))
        if not (parquet.is_text(kind) or pa.types.is_null(kind) or (name == columns.id and _may_be_id(kind))):
            hint = "Name another column in the job, or convert this one."
            raise InputError(f"{file.path}: column {name!r} is {kind}, not text.", hint)
    return columns


def _may_be_id(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return number or getattr(kind, "extension_name", "") == "arrow.uuid"


@lru_cache(maxsize=1024)
def types_of(file: InputFile, names: tuple[str, ...], limits: ReadLimits) -> pa.Schema:
    """These columns of a file of a corpus as they are carried; JSON lines are read whole for it, and once.

    Raises InputError for a column whose first values have several types.
    """
    if file.kind in COLUMNAR:
        known = parquet.schema(file.path)
        return pa.schema([(name, carried.plain_type(parquet.type_of(known, name))) for name in names])
    if file.kind in ("csv", "tsv"):
        return pa.schema([(name, pa.string()) for name in names])
    rows = iter(first_objects(file, limits))
    if file.kind == "jsonl":
        rows = (row.values for row in _object_rows(file, limits) if not isinstance(row.values, Fault))
    found: dict[str, pa.DataType] = {}
    exact = dict.fromkeys(names, True)
    while block := list(islice(rows, PEEK)):
        for name in names:
            values = values_at(block, name)
            known = found.get(name)
            kind = carried.infer_type(values) if known is None else carried.widened(known, values, exact=exact[name])
            if kind is None:
                what = "its values have several types, or one that Arrow does not support"
                hint = "Make the types equal, or leave the column out of `carry`."
                raise InputError(f"{file.path}: field {name}: {what}.", hint)
            found[name], exact[name] = kind, exact[name] and carried.is_exact(values)
    return pa.schema(list(found.items()))


def first_objects(file: InputFile, limits: ReadLimits) -> Sequence[Mapping[str, Any]]:
    """The first objects of a file of JSON lines or a data set on the hub. Raises InputError if there are none."""
    found = [row.values for row in islice(_object_rows(file, limits), PEEK)]
    objects = [values for values in found if not isinstance(values, Fault)]
    if not objects:
        raise InputError(f"{file.path}: no JSON object in its first {PEEK} rows.", "Is it JSON lines?")
    return objects


@lru_cache(maxsize=1024)
def file_schema(file: InputFile, limits: ReadLimits) -> pa.Schema:
    """Columns of a file as they are carried; remembered, since JSON lines are read whole for it. Raises InputError."""
    if file.kind in COLUMNAR:
        known = parquet.schema(file.path)
        schema = pa.schema([pa.field(each.name, carried.plain_type(each.type)) for each in known])
    elif file.kind in ("csv", "tsv"):
        schema = pa.schema([(name, pa.string()) for name in text.header(file.path, limits)])
    elif file.kind == "jsonl":
        found = (row.values for row in text.rows(file.path, "jsonl", limits))
        schema = carried.json_schema(values for values in found if not isinstance(values, Fault))
        if file.rows and not schema.names:
            raise InputError(f"{file.path}: no line is a JSON object with a key.", "Is it JSON lines?")
    else:
        raise InputError(f"{file.path}: pairs cannot be read from text files.", "Name Parquet, JSON lines, CSV or TSV.")
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        raise InputError(f"{file.path}: two columns are called {min(twice)!r}.", "Rename one of them.")
    return schema


def count_rows(files: Iterable[InputFile]) -> int:
    """Rows of all files, rejected ones too. Raises InputError for a data set on the hub of unknown size."""
    total = 0
    for file in files:
        if file.rows is None:
            raise InputError(f"{file.path}: the number of rows is unknown.", "Leave out --sample, or download it.")
        total += file.rows
    return total


def sample_rows(total: int, n: int) -> frozenset[int]:
    """`n` of the row numbers below `total`, spread evenly (the middles of n equal parts); all when there are fewer."""
    if n >= total:
        return frozenset(range(total))
    return frozenset((2 * part + 1) * total // (2 * n) for part in range(n))


@dataclass(frozen=True, slots=True)
class Part(Container[int]):
    """The rows of the corpora whose place on a circle, 0..1, lies from `start` to before `end`.

    Row n lies n golden ratios from where the seed begins. Such places fill every arc evenly (Knuth, The Art of Computer
    Programming 3, 6.4), so a part has its share of any number of rows, to within a few.
    """

    start: float
    end: float
    seed: int

    def __contains__(self, row: object) -> bool:
        place = (row * _GOLDEN + self.seed * _TURN) % _CIRCLE if isinstance(row, int) else _CIRCLE
        return self.start * _CIRCLE <= place < self.end * _CIRCLE


_CIRCLE, _GOLDEN, _TURN = 2**64, 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9


def wanted_rows(
    files: Iterable[InputFile], part: Part | None, most: int | None = None
) -> tuple[Container[int] | None, int]:
    """The rows of a part (None: of all) to read, `most` at most, spread evenly, and their number; None for all rows.

    Raises InputError for a data set on the hub of unknown size.
    """
    total = count_rows(files)
    size = total if part is None else sum(row in part for row in range(total))
    if most is None or most >= size:
        return part, size
    places = sample_rows(size, most)
    if part is None:
        return places, most
    return frozenset(row for n, row in enumerate(filter(part.__contains__, range(total))) if n in places), most


def language_at(source: LanguageSource, raw: RawRows, place: int) -> str | Fault | None:
    """The language code that a row states, None where it is left to the detector."""
    if source.code is not None:
        return source.code
    value = raw.values[source.column][place] if source.column is not None else None
    if value in (None, ""):
        return None
    if value == "und":
        return "und"
    from synth.languages import language  # noqa: PLC0415 - the table is read when it is needed

    try:
        return language(value).code
    except JobError as exc:
        return Fault("language", exc.message) if source.strict else None
