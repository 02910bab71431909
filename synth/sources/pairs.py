"""Existing pairs: the layout of every entry is recognised, every input row becomes pairs or one rejected row."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf, isfinite, isnan
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import InputError, JobError
from synth.shards import ShardMeta
from synth.sources import beir
from synth.sources.carried import json_columns, unite
from synth.sources.checks import check_present, excerpt
from synth.sources.columns import (
    JUDGEMENT_NAMES,
    MOST_GRADES,
    content,
    find_pair,
    judgement,
    pair_language,
    require,
    usual_name,
)
from synth.sources.files import FoundFile, expand, look
from synth.sources.options import PairData, ReadLimits
from synth.sources.parquet import column_names, is_text
from synth.sources.readers import Rows, file_schema, language_at, raw_rows, read_rows
from synth.sources.records import (
    Block,
    Fault,
    FileKey,
    InputFile,
    LayoutKind,
    PairRow,
    PairSet,
    RawRows,
    Selection,
)
from synth.sources.text import Wanted
from synth.types import Notify

_SHARD = re.compile(r"[0-9]{8}\.parquet")
_PROMPT = r"(?:Instruct: |<Instruct>: |<instruct>)[^\n]+\n(?:Query:|<Query>:|<query>) ?"
"""What exports put before a query, as Qwen3-Embedding and E5 do: it is for one model, and no part of the query."""
_PEEK = 100_000
"""Queries that are compared to see whether one has several judgements."""
_LISTED = ("flag", "messages", "tevatron")
"""Layouts with a list of positives in each row."""


def inspect_pairs(
    data: Sequence[PairData],
    base: Path,
    limits: ReadLimits,
    known: Iterable[InputFile] = (),
    notify: Notify | None = None,
) -> tuple[PairSet, ...]:
    """Files and layout of every entry; a file of `known` is not hashed again. Raises JobError, InputError."""
    earlier = {file.path: file for file in known}
    names: set[str] = set()
    sets = []
    for index, entry in enumerate(data):
        if entry.source in names:
            raise JobError(f"data: two entries are called {entry.source!r}.", "Give each its own `name`.")
        names.add(entry.source)
        if entry.on_hub:
            raise JobError(f"data.path: {entry.path[0]}: pairs are read from files.", "Download the data set first.")
        files = tuple(
            look(index, entry.source, each, limits, earlier.get(str(each.path))) for each in _find(entry, base, notify)
        )
        sets.append(beir.layout(entry, files, limits) or _layout(entry, files, limits))
    if not any(each.rows for each in sets):
        raise InputError("the input files are empty.", "Check `data.path` in the job.")
    return tuple(sets)


def _find(entry: PairData, base: Path, notify: Notify | None) -> Iterable[FoundFile]:
    """The files of an entry, each with a relative path that no other has: with as many of its folders as it takes."""
    found: dict[Path, FoundFile] = {}
    for named in entry.path:
        one = expand(named, base, pairs=True, notify=notify)
        if len(entry.path) > 1 and {each.relative.split("/")[0].split(".")[0] for each in one} >= {"corpus", "queries"}:
            raise JobError(f"data.path: {named}: a BEIR folder among other paths.", "Make it an entry of its own.")
        for each in one:
            taken = {other.relative for other in found.values()}
            count, relative = len(PurePosixPath(each.relative).parts), each.relative
            while relative in taken:
                count += 1
                relative = "/".join(each.path.parts[-count:])
            found.setdefault(each.path, FoundFile(each.path, relative))
    return found.values()


def _layout(entry: PairData, files: Sequence[InputFile], limits: ReadLimits) -> PairSet:
    filled = [file for file in files if file.rows] or list(files[:1])
    schemas = [(file_schema(file, limits), file.path) for file in filled]
    path = filled[0].path
    if not schemas[0][0].names:
        raise InputError(f"{path}: the file is empty.", "Check `data.path` in the job, or leave it out.")
    names = list(dict.fromkeys(name for schema, _ in schemas for name in schema.names))
    nested = list(dict.fromkeys(name for schema, _ in schemas for name in column_names(schema)))
    kind, query, passage = find_pair(entry, column_names(schemas[0][0]), path)
    for schema, other in schemas[1:]:
        for name in (query, passage):
            require(name, column_names(schema), other, "Give files of another layout their own entry under `data:`.")
    if kind in ("columns", "tuples") and all(_SHARD.fullmatch(Path(file.path).name) for file in files):
        kind = "shards"
        _refuse_newer(files)
    for schema, other in schemas:
        for name in (query, passage):
            _check_type(schema, name, other, listed=kind == "messages" or (kind in _LISTED and name == passage))
    label, assumed = entry.label, ""
    if label == "auto":
        label, assumed = _find_label(kind, names, query, passage, tuple(filled), limits)
    others = [name for name in names if kind == "messages" or name not in (query, passage, label)]
    carried = others if entry.carry == "all" else entry.carry
    for name in carried:
        require(name, others, path)
    if label is not None:
        require(label, nested, path)
    return PairSet(
        files=tuple(files),
        kind=kind,
        query=query,
        passage=passage,
        label=label,
        query_language=pair_language(entry, "query_language", nested, path),
        passage_language=pair_language(entry, "passage_language", nested, path),
        carried=tuple(carried),
        assumed=assumed,
    )


def _find_label(
    kind: LayoutKind, names: Sequence[str], query: str, passage: str, files: tuple[InputFile, ...], limits: ReadLimits
) -> tuple[str | None, str]:
    """The column that judges the pairs, None for none, and what was assumed of a column that may judge them."""
    if kind == "shards" and "label" in names:
        return "label", ""
    said = ""
    for usual in JUDGEMENT_NAMES if kind not in _LISTED else ():
        name = usual_name([usual], names)
        if name is None or name in (query, passage):
            continue
        numbers, varies = _values(files, name, query, limits)
        judges, assumed = judgement(name, numbers, query, varies=varies)
        said = said or assumed
        if judges:
            return name, assumed
    return None, said


@lru_cache(maxsize=64)
def _values(
    files: tuple[InputFile, ...], name: str, query: str, limits: ReadLimits
) -> tuple[frozenset[float] | None, bool]:
    """The numbers in a column as far as needed, None where it holds others, and whether a query has several."""
    numbers, first, varies = set[float](), dict[int, float](), False
    for raw in (raw for file in files for raw in raw_rows(file, Selection((name, query)), limits)):
        for value, text in zip(raw.values[name], raw.values[query], strict=True):
            number = _label(value)
            if isinstance(number, Fault):
                return None, varies
            if number is not None:
                numbers.add(number)
                varies = varies or (len(first) < _PEEK and first.setdefault(hash(str(text)), number) != number)
        if len(numbers) > MOST_GRADES:
            break
    return frozenset(numbers), varies


def _refuse_newer(files: Sequence[InputFile]) -> None:
    """Raises OutputError for shards of a format that this version cannot read."""
    for file in files:
        keys = pq.read_metadata(file.path).metadata or {}
        if b"synth.format" in keys:
            ShardMeta.from_keys(keys, Path(file.path))


def _check_type(schema: pa.Schema, name: str, path: str, *, listed: bool) -> None:
    """Raises InputError for a column that is not text, or not a list where the layout needs one."""
    if name not in schema.names:
        return
    kind = schema.field(name).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list == listed or pa.types.is_null(kind) or name in json_columns(schema)):
        what = "a list" if listed else "text"
        raise InputError(f"{path}: column {name!r} is {kind}, not {what}.", "Name another column in the job.")
    if not (is_list or pa.types.is_null(kind) or is_text(kind)):
        inner = [each for each in column_names(schema) if each.startswith(f"{name}.")]
        such = f", such as {inner[0]}" if inner else ""
        raise InputError(f"{path}: column {name!r} is {kind}, not text.", f"Name another column in the job{such}.")


def pairs_schema(sets: Sequence[PairSet], limits: ReadLimits) -> pa.Schema:
    """The columns that any entry carries, under their own names, all nullable. Raises InputError as `unite` does."""
    schemas = []
    for each in sets:
        if each.kind == "beir":
            known = [(beir.carried_schema(each.files, limits), each.files[0].path)]
        else:
            known = [(file_schema(file, limits), file.path) for file in each.files if file.rows]
        names = set(each.carried)
        schemas += [(pa.schema([field for field in schema if field.name in names]), path) for schema, path in known]
    return unite(schemas)


def pair_files(sets: Sequence[PairSet]) -> list[InputFile]:
    """The files whose rows become pairs, in order: `count_rows` and `only` count these."""
    return [file for each in sets for file in each.pair_files]


def read_pairs(
    sets: Sequence[PairSet],
    carried: pa.Schema,
    limits: ReadLimits,
    *,
    only: Container[int] | None = None,
    seen: Container[FileKey] = (),
    notify: Notify | None = None,
) -> Iterator[Block[PairRow]]:
    """What the rows of all files become, as `read_rows` gives it; `carried` is what `pairs_schema` gave.

    `notify` gets a line on prompts that were removed from queries.
    """
    pairs = _Pairs(sets, carried, limits)
    yield from read_rows(pairs, pair_files(sets), limits, only, seen)
    for source, (count, prompt) in pairs.prompted.items():
        (notify or str)(f"{source}: the prompt of a model was removed from {count:,} queries, such as {prompt[:200]!r}")


class _Pairs(Rows[PairRow]):
    def __init__(self, sets: Sequence[PairSet], schema: pa.Schema, limits: ReadLimits) -> None:
        from synth.languages import detect  # noqa: PLC0415 - the detector is loaded on first use

        self._sets = {each.files[0].corpus_index: each for each in sets}
        self._schema, self._limits, self._detect = schema, limits, detect
        self._joined: dict[int, beir.Joined] = {}
        self.prompted: dict[str, tuple[int, str]] = {}

    def open(self, file: InputFile, number: int, source_row: int) -> None:  # noqa: ARG002 - passages use it
        index = file.corpus_index
        pairs = self._sets[index]
        self._file, self._source_row, self._layout = file, source_row, pairs
        self._prompt = _prompt_in(Path(file.path))
        if pairs.kind == "beir" and index not in self._joined:
            self._joined = {index: beir.Joined(pairs, self._schema, self._limits)}  # the one before is not needed again

    def raw_rows(self, wanted: Wanted | None) -> Iterator[RawRows]:
        layout = self._layout
        if layout.kind == "beir":
            return self._joined[self._file.corpus_index].raw_rows(self._file, wanted)
        languages = (layout.query_language.column, layout.passage_language.column)
        names = dict.fromkeys((layout.query, layout.passage, *languages, layout.label))
        selection = Selection(
            tuple(name for name in names if name is not None),
            frozenset(layout.carried),
            self._schema,
            json_columns(file_schema(self._file, self._limits)),
        )
        return raw_rows(self._file, selection, self._limits, wanted)

    def outcome(self, raw: RawRows, place: int) -> list[PairRow] | Fault:
        layout, values = self._layout, raw.values
        query, passages = values[layout.query][place], values[layout.passage][place]
        if layout.kind in ("messages", "tevatron"):
            query = content(query)
            passages = [content(each) for each in passages] if isinstance(passages, list) else passages
        listed = layout.kind in _LISTED
        wrong = _check_positives(passages, query) if listed else check_present(passages, "the passage")
        if fault := check_present(query, "the query") or wrong:
            return fault
        if prompt := self._prompt.match(query):
            count, example = self.prompted.get(layout.source, (0, prompt[0]))
            self.prompted[layout.source] = (count + 1, example)
            query = query[prompt.end() :]
            if fault := check_present(query, "the query"):
                return fault
        label = None if layout.label is None else _label(values[layout.label][place])
        if isinstance(label, Fault):
            return label
        spoken = language_at(layout.query_language, raw, place) or self._detect(query).code
        stated = language_at(layout.passage_language, raw, place)
        if isinstance(spoken, Fault):
            return spoken
        if isinstance(stated, Fault):
            return stated
        row, pairs = self._source_row + raw.numbers[place], []
        for positive, passage in enumerate(passages if listed else [passages]):
            language = stated or self._detect(passage).code
            which = positive if listed else None
            pairs.append(PairRow(layout.source, row, which, query, passage, spoken, language, label))
        return pairs

    def describe(self, raw: RawRows, place: int) -> tuple[str, str]:
        return f"{self._file.relative}:{raw.numbers[place]}", ""


def _prompt_in(file: Path) -> re.Pattern[str]:
    """What may precede the queries of a file: a prompt of the usual form, or that of the export it belongs to."""
    for folder in list(file.parents)[:3]:
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            record = json.loads((folder / "export.json").read_bytes())
            prompt = record["options"]["query_template"].removesuffix("{query}")
            if prompt:
                return re.compile(f"{re.escape(prompt.replace('{instruction}', record['instruction']))}|{_PROMPT}")
    return re.compile(_PROMPT)


def _check_positives(passages: Any, query: Any) -> Fault | None:
    if passages is not None and not isinstance(passages, list):
        what = f"the positives are of type {type(passages).__name__}, not a list"
        return Fault("type", what, excerpt(repr(passages)))
    if not passages:
        return Fault("no_positive", "the row has no positive", excerpt(str(query)))
    for place, passage in enumerate(passages, start=1):
        if fault := check_present(passage, f"positive {place} of {len(passages)}"):
            return fault
    return None


_WORDS = {"true": 1, "yes": 1, "relevant": 1, "false": 0, "no": 0, "irrelevant": 0, "not relevant": 0}


def _label(value: Any) -> float | Fault | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _WORDS.get(value.strip().casefold(), value)
    try:
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        label = inf
    if isfinite(label) or isnan(label):
        return None if isnan(label) else label
    return Fault("label", f"the label {str(value)[:80]!r} is not a number", excerpt(str(value)))
