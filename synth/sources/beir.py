"""BEIR folders: corpus, queries, and judgements that join them; also as Parquet, and with folders of files for each.

Only the judged texts are in memory, whatever the size of the corpus. Each pair carries the other columns of corpus and
queries as `passage_<name>` and `query_<name>`, and the name of the judgements' file as `split`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from synth.errors import InputError
from synth.sources.carried import json_columns, table_of, unite
from synth.sources.checks import id_text
from synth.sources.columns import ID_NAMES, TEXT_NAMES, pair_language, usual_name
from synth.sources.options import PairData, ReadLimits
from synth.sources.readers import file_schema, raw_rows
from synth.sources.records import Fault, InputFile, PairSet, RawRows, Selection
from synth.sources.text import Wanted

_ROLES = ("corpus", "queries", "qrels")
QUERY, PASSAGE, LABEL = "query", "passage", "label"
_KEYS = ("query_id", "passage_id", "split")
_PREFIXES = {"qrels": "", "queries": "query_", "corpus": "passage_"}
"""What goes before the names of carried columns, in the order of the columns."""
_QUERY_IDS = ("query-id", "query_id", "queryid", "qid", "query")
_PASSAGE_IDS = ("corpus-id", "corpus_id", "doc_id", "doc-id", "docid", "passage_id", "pid", "document_id", "did")
_SCORES = ("score", "relevance", "label", "rel", "relevancy")
_QUERY_TEXTS = ("query", "question", *TEXT_NAMES)
_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")
"""The number of a part in the name of a file."""


def layout(entry: PairData, files: Sequence[InputFile], limits: ReadLimits) -> PairSet | None:
    """The layout of a BEIR folder, None for other files. Raises InputError for a file without its columns."""
    if {file.role for file in files} != set(_ROLES):
        return None
    names = carried_schema(files, limits).names
    return PairSet(
        files=tuple(files),
        kind="beir",
        query=QUERY,
        passage=PASSAGE,
        label=LABEL,
        query_language=pair_language(entry, "query_language", names, files[0].path),
        passage_language=pair_language(entry, "passage_language", names, files[0].path),
        carried=tuple(names if entry.carry == "all" else [name for name in names if name in entry.carry]),
    )


def carried_schema(files: Sequence[InputFile], limits: ReadLimits) -> pa.Schema:
    """The columns that a pair of this folder carries, with their types."""
    return pa.schema([*((name, pa.string()) for name in _KEYS), *(field for *_, field in _carried(files, limits))])


def _carried(files: Sequence[InputFile], limits: ReadLimits) -> list[tuple[str, str, pa.Field]]:
    """Of each carried column: whose it is, its name there, and its field among pairs, whose name no other has."""
    found: list[tuple[str, str, pa.Field]] = []
    taken = set(_KEYS)
    for role, prefix in _PREFIXES.items():
        for each in _others(files, role, limits):
            name = prefix + each.name
            while name in taken:
                name = f"{name}_"
            taken.add(name)
            found.append((role, each.name, each.with_name(name)))
    return found


class Joined:
    """A BEIR folder with its judged texts in memory, ready to be read judgement by judgement."""

    def __init__(self, pairs: PairSet, schema: pa.Schema, limits: ReadLimits) -> None:
        self._pairs, self._schema, self._limits = pairs, schema, limits
        self._own = _others(pairs.files, "qrels", limits)
        self._carried = _carried(pairs.files, limits)
        queries, passages = set[str](), set[str]()
        for file in pairs.pair_files:
            columns = _columns("qrels", file, limits)
            for raw in _read(file, (columns["query"], columns["passage"]), pa.schema([]), limits):
                for names, key in ((queries, "query"), (passages, "passage")):
                    found = _ids(raw.values[columns[key]])
                    names.update(found, map(_whole, found))
        self._queries = _Texts(pairs.files, "queries", queries, limits)
        self._corpus = _Texts(pairs.files, "corpus", passages, limits)

    def raw_rows(self, file: InputFile, wanted: Wanted | None) -> Iterator[RawRows]:
        """The judgements of one file as pairs; one that is not above 0, or whose text is missing, has a fault."""
        columns = _columns("qrels", file, self._limits)
        split = _PART.sub("", PurePosixPath(file.relative).name.split(".")[0]) if "/" in file.relative else None
        for raw in _read(file, tuple(columns.values()), self._own, self._limits, wanted):
            faults = dict(raw.faults)
            queries = self._queries.known(raw.values[columns["query"]])
            passages = self._corpus.known(raw.values[columns["passage"]])
            scores = [_score(value, place, faults) for place, value in enumerate(raw.values[columns["score"]])]
            for place, judged in enumerate(zip(queries, passages, scores, strict=True)):
                if place not in faults and (fault := self._check(*judged)):
                    faults[place] = fault
            tables = {"qrels": raw.carried, "queries": self._queries.at(queries), "corpus": self._corpus.at(passages)}
            keys = zip(_KEYS, (queries, passages, [split] * len(queries)), strict=True)
            found = {name: pa.array(values, pa.string()) for name, values in keys}
            found |= {field.name: tables[role][name].combine_chunks() for role, name, field in self._carried}
            values: dict[str, Sequence[Any]] = {
                QUERY: self._queries.texts(queries),
                PASSAGE: self._corpus.texts(passages),
                LABEL: scores,
            }
            for side in (self._pairs.query_language, self._pairs.passage_language):
                if side.column is not None:
                    values[side.column] = found[side.column].to_pylist()
            kept = {name: found[name].cast(self._schema.field(name).type) for name in self._pairs.carried}
            yield RawRows(raw.numbers, values, table_of(kept, self._schema, len(queries)), faults)

    def _check(self, query: str, passage: str, score: float | None) -> Fault | None:
        if score is not None and score <= 0:
            return Fault("not_relevant", f"query {query} and passage {passage} are judged {score:g}")
        for side, name, what in ((self._queries, query, "query"), (self._corpus, passage, "passage")):
            if not name:
                return Fault("unresolved", f"the judgement has no {what} id")
            if name not in side.rows:
                return Fault("unresolved", f"no {what} has the id {name!r}")
            if fault := side.faults.get(name):
                return fault
        return None


class _Texts:
    """The judged queries or passages in memory; of several with one id the first counts."""

    def __init__(self, files: Sequence[InputFile], role: str, judged: Container[str], limits: ReadLimits) -> None:
        self.rows: dict[str, int] = {}
        self.contents: list[Any] = []
        self.faults: dict[str, Fault] = {}
        schema = _others(files, role, limits)
        tables = [schema.empty_table()]
        for file in (each for each in files if each.role == role):
            columns = _columns(role, file, limits)
            for raw in _read(file, tuple(columns.values()), schema, limits):
                picked = []
                for place, written in enumerate(_ids(raw.values[columns["id"]])):
                    ident = written if written in judged else _whole(written)
                    if not ident or ident not in judged or ident in self.rows:
                        continue
                    if place in raw.faults:
                        self.faults[ident] = raw.faults[place]
                    self.rows[ident] = len(self.contents)
                    self.contents.append(raw.values[columns["text"]][place])
                    picked.append(place)
                if picked and schema.names:
                    tables.append(raw.carried.take(pa.array(picked, pa.int64())))
        self._others = pa.concat_tables(tables).combine_chunks()

    def known(self, values: Sequence[Any]) -> list[str]:
        """The ids that judgements name, as they are known here; "" for none."""
        return [each if each in self.rows or _whole(each) not in self.rows else _whole(each) for each in _ids(values)]

    def texts(self, ids: Sequence[str]) -> list[Any]:
        return [self.contents[self.rows[each]] if each in self.rows else None for each in ids]

    def at(self, ids: Sequence[str]) -> pa.Table:
        """The other columns of these ids, null for an unknown one."""
        return self._others.take(pa.array([self.rows.get(each) for each in ids], pa.int64()))


@dataclass(frozen=True, slots=True)
class Collection:
    """A retrieval test in memory: texts by id, and the grades of the documents that are relevant to a query."""

    documents: dict[str, str]
    """Title and text, joined by a space as MTEB does."""
    queries: dict[str, str]
    """Those with a relevant document."""
    relevant: dict[str, dict[str, int]]
    """By query, its relevant documents (grade 1 or more)."""
    missing: int
    """Judgements that name a query or a document that is not there."""


def collection(files: Sequence[InputFile], limits: ReadLimits) -> Collection:
    """All of a BEIR or MTEB folder; of several files of judgements those whose name begins with `test`.

    Raises InputError for a row that cannot be read, a grade that is not a whole number, and where nothing is judged.
    """
    corpus, queries = (_Texts(files, role, _Everything(), limits) for role in ("corpus", "queries"))
    for side in (corpus, queries):
        for ident, fault in side.faults.items():
            raise InputError(f"{files[0].path}: row with the id {ident}: {fault.detail}.", "Fix or remove that row.")
    titles = corpus.at(list(corpus.rows))
    before = titles["title"].to_pylist() if "title" in titles.column_names else [None] * len(corpus.rows)
    joined = (f"{title or ''} {text or ''}".strip() for title, text in zip(before, corpus.contents, strict=True))
    documents = dict(zip(corpus.rows, joined, strict=True))
    qrels = [file for file in files if file.role == "qrels"]
    tests = [file for file in qrels if PurePosixPath(file.relative).name.startswith("test")]
    relevant: dict[str, dict[str, int]] = {}
    missing = 0
    for file in tests or qrels:
        columns = _columns("qrels", file, limits)
        for raw in _read(file, tuple(columns.values()), pa.schema([]), limits):
            faults = dict(raw.faults)
            asked, answers = queries.known(raw.values[columns["query"]]), corpus.known(raw.values[columns["passage"]])
            grades = [_score(value, place, faults) or 0 for place, value in enumerate(raw.values[columns["score"]])]
            faults |= {n: Fault("label", f"the grade {g} is not whole") for n, g in enumerate(grades) if g % 1}
            for place, fault in faults.items():
                what = f"{file.path}: row {raw.numbers[place]}: {fault.detail}."
                raise InputError(what, "Fix or remove that row.")
            for query, answer, grade in zip(asked, answers, grades, strict=True):
                if query not in queries.rows or answer not in documents:
                    missing += 1
                elif grade > 0:
                    relevant.setdefault(query, {})[answer] = int(grade)
    if not relevant:
        what = f"{qrels[0].path}: no query of the folder has a relevant document in it."
        raise InputError(what, "Check that the ids of qrels are those of corpus and queries.")
    texts = {ident: queries.contents[row] or "" for ident, row in queries.rows.items() if ident in relevant}
    return Collection(documents, texts, relevant, missing)


class _Everything(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


def _ids(values: Sequence[Any]) -> list[str]:
    return [id_text(value) or "" for value in values]


def _whole(ident: str) -> str:
    """The id without the ".0" of a text file that was written from a column of floats."""
    return ident.removesuffix(".0")


def _read(
    file: InputFile, values: tuple[str, ...], carried: pa.Schema, limits: ReadLimits, wanted: Wanted | None = None
) -> Iterator[RawRows]:
    known = file_schema(file, limits)
    used = frozenset(carried.names) & frozenset(known.names)
    return raw_rows(file, Selection(values, used, carried, json_columns(known)), limits, wanted)


def _others(files: Sequence[InputFile], role: str, limits: ReadLimits) -> pa.Schema:
    """The columns of all files of a role but those that are read as values."""
    schemas = []
    for file in (each for each in files if each.role == role):
        used = _columns(role, file, limits).values()
        schemas.append((pa.schema([each for each in file_schema(file, limits) if each.name not in used]), file.path))
    return unite(schemas)


def _columns(role: str, file: InputFile, limits: ReadLimits) -> dict[str, str]:
    wanted: dict[str, Sequence[str]] = {"id": ID_NAMES, "text": _QUERY_TEXTS if role == "queries" else TEXT_NAMES}
    if role == "qrels":
        wanted = {"query": _QUERY_IDS, "passage": _PASSAGE_IDS, "score": _SCORES}
    names = file_schema(file, limits).names
    found = {}
    for key, usual in wanted.items():
        if (name := usual_name(usual, names)) is None:
            what = f"no column has a usual name of a BEIR {key} (columns: {', '.join(names)})"
            usuals = ", ".join(each[0] for each in wanted.values())
            raise InputError(f"{file.path}: {what}.", f"Give it a header line with {usuals}.")
        found[key] = name
    return found


def _score(value: Any, place: int, faults: dict[int, Fault]) -> float | None:
    try:
        score = float(value)
    except (TypeError, ValueError):
        faults.setdefault(place, Fault("label", f"the score {str(value)[:80]!r} is not a number"))
        return None
    if not isfinite(score):
        faults.setdefault(place, Fault("label", f"the score is {score}"))
    return score
