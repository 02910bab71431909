"""BEIR folders: corpus, queries, and judgements that join them; also as Parquet, and with folders of files for each.

Only the judged texts are in memory, whatever the size of the corpus. Columns of the other two files come with every
pair as `passage_<name>` and `query_<name>`, the name of the judgements' file as `split`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from synth.errors import InputError
from synth.sources import carried
from synth.sources.carried import file_schema, unite
from synth.sources.columns import ID_NAMES, TEXT_NAMES, language_of
from synth.sources.options import PairData, ReadLimits
from synth.sources.records import Chunk, Fault, InputFile, Layout, PairSet

Role = Literal["corpus", "queries", "qrels"]
ROLES: tuple[Role, ...] = ("corpus", "queries", "qrels")
QUERY, PASSAGE, LABEL = "query", "passage", "label"
_QUERY_IDS = ("query-id", "query_id", "queryid", "qid", "query")
_PASSAGE_IDS = ("corpus-id", "corpus_id", "doc_id", "doc-id", "docid", "passage_id", "pid", "document_id", "did")
_SCORES = ("score", "relevance", "label", "rel", "relevancy")
_QUERY_TEXTS = ("query", "question", *TEXT_NAMES)
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".tsv", ".csv", ".tsv.gz", ".csv.gz")


def parts(folder: Path) -> list[Path]:
    """The files of a BEIR folder, none where it is no such folder."""
    found: list[Path] = []
    for role in ROLES:
        inner = sorted((folder / role).iterdir()) if (folder / role).is_dir() else []
        mine = [*inner, *(each for each in sorted(folder.iterdir()) if each.name.split(".")[0] == role)]
        mine = [each for each in mine if each.is_file() and each.name.endswith(_SUFFIXES)]
        if not mine:
            return []
        found += mine
    return found


def is_beir(files: Sequence[InputFile]) -> bool:
    """Whether files are those of `parts`."""
    return {_role(file) for file in files} == set(ROLES)


def layout(entry: PairData, files: Sequence[InputFile], limits: ReadLimits) -> Layout:
    """What a BEIR folder gives. Raises InputError for a file that lacks its columns."""
    judged = [file for file in files if _role(file) == "qrels"]
    names = own_schema(files, limits).names
    carried = names if entry.carry == "all" else [name for name in names if name in entry.carry]
    return Layout(
        kind="beir",
        source=entry.source,
        query=QUERY,
        passage=PASSAGE,
        label=LABEL,
        query_language=language_of(entry.query_language, "query_language", names, files[0].path),
        passage_language=language_of(entry.passage_language, "passage_language", names, files[0].path),
        carried=tuple(carried),
        rows=sum(file.rows or 0 for file in judged),
        files=len(files),
    )


def pair_files(files: Sequence[InputFile]) -> list[InputFile]:
    """The files whose rows become pairs."""
    return [file for file in files if not is_beir(files) or _role(file) == "qrels"]


def own_schema(files: Sequence[InputFile], limits: ReadLimits) -> pa.Schema:
    """The columns that a pair of this folder carries, with their types."""
    fields = [pa.field("query_id", pa.string()), pa.field("passage_id", pa.string()), pa.field("split", pa.string())]
    for role, prefix in (("qrels", ""), ("queries", "query_"), ("corpus", "passage_")):
        schemas = []
        for file in (each for each in files if _role(each) == role):
            schema = file_schema(file, limits)
            used = _columns(role, schema.names, file.path).values()
            schemas.append((pa.schema([each for each in schema if each.name not in used]), file.path))
        taken = {each.name for each in fields}
        fields += [each.with_name(_free(prefix + each.name, taken)) for each in unite(schemas)]
    return pa.schema(fields)


class Joined:
    """A BEIR folder with its judged texts in memory, ready to be read judgement by judgement."""

    def __init__(self, pairs: PairSet, limits: ReadLimits) -> None:
        self._layout, self._limits = pairs.layout, limits
        self._queries = _load(pairs.files, "queries", limits)
        self._corpus = _load(pairs.files, "corpus", limits)

    def chunks(self, file: InputFile) -> Iterator[Chunk]:
        """The judgements of one file as pairs; one that is not above 0, or leads nowhere, has a fault."""
        columns, own = _plan("qrels", file, self._limits)
        split = PurePosixPath(file.relative).name.split(".")[0] if "/" in file.relative else None
        for chunk in carried.read(file, list(columns.values()), own, self._limits):
            faults = dict(chunk.faults)
            asked = [str(value) for value in chunk.values[columns["query"]]]
            judged = [str(value) for value in chunk.values[columns["passage"]]]
            scores = [_score(value, place, faults) for place, value in enumerate(chunk.values[columns["score"]])]
            for place, (query, passage, score) in enumerate(zip(asked, judged, scores, strict=True)):
                if place not in faults and (why := self._unusable(query, passage, score)):
                    faults[place] = why
            first = {"query_id": asked, "passage_id": judged, "split": [split] * len(asked)}
            table = pa.table({name: pa.array(values, pa.string()) for name, values in first.items()})
            sides = [(self._queries.at(asked), "query_"), (self._corpus.at(judged), "passage_")]
            for part, prefix in [(chunk.own.select(own.names), ""), *sides]:
                for each in part.schema if part is not None else ():
                    table = table.append_column(_free(prefix + each.name, set(table.column_names)), part[each.name])
            values = {QUERY: self._queries.texts(asked), PASSAGE: self._corpus.texts(judged), LABEL: scores}
            for side in (self._layout.query_language, self._layout.passage_language):
                if side.column is not None:
                    values[side.column] = table[side.column].to_pylist()
            yield Chunk(chunk.rows, values, table, faults)

    def _unusable(self, query: str, passage: str, score: float | None) -> Fault | None:
        if score is not None and score <= 0:
            return Fault("not_relevant", f"query {query} and passage {passage} are judged {score:g}")
        for side, name, what in ((self._queries, query, "query"), (self._corpus, passage, "passage")):
            if name not in side.rows:
                return Fault("unresolved", f"there is no {what} with the id {name!r}")
            if fault := side.faults.get(name):
                return fault
        return None


@dataclass(slots=True)
class _Texts:
    """The judged texts of one side by id, and their other columns."""

    rows: dict[str, int] = field(default_factory=dict)
    contents: list[Any] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    own: pa.Table | None = None

    def add(self, chunk: Chunk, ids: Sequence[Any], contents: Sequence[Any], judged: Container[str]) -> list[int]:
        """Take the texts of a chunk that are judged and new; returns their places in it."""
        picked = []
        for place, (ident, content) in enumerate(zip(map(str, ids), contents, strict=True)):
            if ident in judged and ident not in self.rows:
                if place in chunk.faults:
                    self.faults[ident] = chunk.faults[place]
                self.rows[ident] = len(self.contents)
                self.contents.append(content)
                picked.append(place)
        return picked

    def texts(self, ids: Sequence[str]) -> list[Any]:
        return [self.contents[self.rows[each]] if each in self.rows else None for each in ids]

    def at(self, ids: Sequence[str]) -> pa.Table | None:
        """The other columns of these ids, null for one that is not there."""
        return None if self.own is None else self.own.take(pa.array([self.rows.get(each) for each in ids], pa.int64()))


def _load(files: Sequence[InputFile], role: Role, limits: ReadLimits) -> _Texts:
    """Read one side, keeping what is judged. Of several texts with one id the first counts."""
    judged = _judged(files, "query" if role == "queries" else "passage", limits)
    found, tables = _Texts(), []
    plans = [(file, *_plan(role, file, limits)) for file in files if _role(file) == role]
    united = unite([(own, file.path) for file, _, own in plans])
    for file, columns, own in plans:
        for chunk in carried.read(file, list(columns.values()), own, limits):
            picked = found.add(chunk, chunk.values[columns["id"]], chunk.values[columns["text"]], judged)
            if united.names:
                tables.append(conform(chunk.own.take(pa.array(picked, pa.int64())), united))
    if tables and united.names:
        found.own = pa.concat_tables(tables).combine_chunks()
    return found


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` in its types, null where the table lacks one."""
    arrays = [
        table[each.name].cast(each.type) if each.name in table.column_names else pa.nulls(table.num_rows, each.type)
        for each in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema) if arrays else table.select([])


def _judged(files: Sequence[InputFile], key: str, limits: ReadLimits) -> frozenset[str]:
    found: set[str] = set()
    for file in pair_files(files):
        columns, _ = _plan("qrels", file, limits)
        for chunk in carried.read(file, [columns[key]], pa.schema([]), limits):
            found.update(map(str, chunk.values[columns[key]]))
    return frozenset(found)


def _plan(role: Role, file: InputFile, limits: ReadLimits) -> tuple[Mapping[str, str], pa.Schema]:
    """The columns of a file that are used, by what for, and the schema of the rest."""
    schema = file_schema(file, limits)
    columns = _columns(role, schema.names, file.path)
    return columns, pa.schema([each for each in schema if each.name not in columns.values()])


def _columns(role: str, names: Sequence[str], path: str) -> dict[str, str]:
    wanted: dict[str, Sequence[str]] = {"id": ID_NAMES, "text": _QUERY_TEXTS if role == "queries" else TEXT_NAMES}
    if role == "qrels":
        wanted = {"query": _QUERY_IDS, "passage": _PASSAGE_IDS, "score": _SCORES}
    folded = {name.casefold(): name for name in reversed(names)}
    found = {}
    for key, usual in wanted.items():
        name = next((folded[each] for each in usual if each in folded), None)
        if name is None:
            raise InputError(
                f"{path}: no column has a usual name of a BEIR {key} (columns: {', '.join(names)}).",
                f"Give it a header line with {', '.join(each[0] for each in wanted.values())}.",
            )
        found[key] = name
    return found


def _score(value: Any, place: int, faults: dict[int, Fault]) -> float | None:
    try:
        score = float(value)
    except (TypeError, ValueError):
        faults.setdefault(place, Fault("label", f"the score {str(value)[:80]!r} is no number"))
        return None
    if not np.isfinite(score):
        faults.setdefault(place, Fault("label", f"the score is {score}"))
    return score


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_"
    return name


def _role(file: InputFile) -> str:
    return file.relative.split("/")[0].split(".")[0]
