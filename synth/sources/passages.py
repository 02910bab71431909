"""Corpora as passages: every input row becomes one passage or several, or one rejected row."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from synth.errors import InputError, JobError
from synth.sources import parquet
from synth.sources.carried import infer_type, plain_type, unite
from synth.sources.checks import FirstSeen, check_string, check_text, digest, excerpt, storable
from synth.sources.chunking import chunk, truncate
from synth.sources.columns import language_source, values_at
from synth.sources.files import expand, look
from synth.sources.options import Corpus, ReadLimits
from synth.sources.readers import Rows, columns_of, first_objects, language_at, raw_rows, read_rows
from synth.sources.records import Block, Fault, FileKey, InputFile, PassageRow, RawRows, Selection
from synth.sources.text import Wanted

_DEFAULT = ReadLimits()


def inspect(
    corpora: Sequence[Corpus], base: Path, limits: ReadLimits, known: Iterable[InputFile] = ()
) -> list[InputFile]:
    """The input files of all corpora, corpus by corpus, within one sorted by the bytes of the relative path.

    Paths are relative to `base`. A file of `known` with the same size and time of change is not hashed again.
    Raises JobError where a path or pattern matches nothing, InputError where a file is not what its name claims or
    all of them together have no row, SystemFault where one cannot be read.
    """
    earlier = {file.path: file for file in known}
    files: list[InputFile] = []
    names: set[str] = set()
    for index, corpus in enumerate(corpora):
        if corpus.source in names:
            raise JobError(f"corpus: two entries are called {corpus.source!r}.", "Give each its own `name`.")
        names.add(corpus.source)
        if corpus.on_hub:
            from synth.sources.hub import inspect_hub  # noqa: PLC0415 - `datasets` costs seconds

            files.append(inspect_hub(index, corpus))
            continue
        for found in expand(corpus.path, base, "corpus.path", frozenset({"text"})):
            file = look(index, corpus.source, found, limits, earlier.get(str(found.path)))
            if file.rows:
                columns_of(corpus, file, limits)
            files.append(file)
    if all(file.rows == 0 for file in files):
        raise InputError(f"the input files are empty ({len(files)} read).", "Check `corpus.path` in the job.")
    return files


def carried_schema(corpora: Sequence[Corpus], files: Sequence[InputFile], limits: ReadLimits = _DEFAULT) -> pa.Schema:
    """The columns that any corpus carries, in order of first mention, all nullable.

    Parquet keeps its types (a dictionary becomes its values), CSV columns are text, JSON lines have the types of the
    first 1,000 rows. Raises InputError for missing columns, and for types that cannot be united, naming two files.
    """
    used = [(corpora[file.corpus_index], file) for file in files if file.rows != 0]
    return unite((_carried_types(corpus, file, limits), file.path) for corpus, file in used if corpus.carry)


def _carried_types(corpus: Corpus, file: InputFile, limits: ReadLimits) -> pa.Schema:
    columns_of(corpus, file, limits)
    if file.kind == "parquet":
        known = parquet.schema(file.path)
        return pa.schema([(name, plain_type(parquet.type_of(known, name))) for name in corpus.carry])
    if file.kind in ("csv", "tsv"):
        return pa.schema([(name, pa.string()) for name in corpus.carry])
    rows, fields = first_objects(file, limits), []
    for name in corpus.carry:
        kind = infer_type(values_at(rows, name))
        if kind is None:
            raise InputError(
                f"{file.path}: field {name}: its values have several types, or one that Arrow does not support.",
                "Make the types equal, or leave the column out of `carry`.",
            )
        fields.append((name, kind))
    return pa.schema(fields)


def read_passages(
    corpora: Sequence[Corpus],
    files: Sequence[InputFile],
    limits: ReadLimits,
    *,
    only: Container[int] | None = None,
    carried: pa.Schema | None = None,
    notify: Callable[[str], None] | None = None,
    seen: Container[FileKey] = (),
) -> Iterator[Block[PassageRow]]:
    """What the rows of all files become, block by block; the texts are byte-equal to the input.

    `only` has the wanted rows by their number over all files, `carried` is what `carried_schema` gave, files in `seen`
    (`InputFile.key`) were read before and only count as earlier ones. `notify` gets a line for each source with
    repeated ids. Reasons: json, csv, encoding, surrogate, nul, empty, type, control_token, too_short, too_long,
    language, carry, duplicate. Raises InputError for a file that changed or is cut off, and at the first rejected row
    if `limits.strict`.
    """
    schema = carried_schema(corpora, files, limits) if carried is None else carried
    passages = _Passages(corpora, limits, schema, watch_ids=notify is not None)
    yield from read_rows(passages, files, limits, only, seen)
    for source, (count, example) in passages.repeated.items():
        assert notify is not None  # noqa: S101 - ids are watched for it only
        notify(f"{source}: {count} duplicate ids; first {example}. All rows are kept: the key is the position.")


class _Passages(Rows[PassageRow]):
    """All corpora, with what must be known of earlier rows: which texts, which ids."""

    reread = True  # a text or an id may occur again

    def __init__(self, corpora: Sequence[Corpus], limits: ReadLimits, schema: pa.Schema, *, watch_ids: bool) -> None:
        from synth.languages import detect  # noqa: PLC0415 - the detector is loaded on first use

        self._corpora, self._limits, self._schema, self._watch_ids = corpora, limits, schema, watch_ids
        self._detect = detect
        self._texts = FirstSeen()
        self._ids: dict[str, FirstSeen] = defaultdict(FirstSeen)
        self._starts: list[tuple[int, str, int]] = []
        self.repeated: dict[str, tuple[int, str]] = {}

    def open(self, file: InputFile, number: int, source_row: int) -> None:
        self._starts.append((number, file.source, source_row))
        self._file, self._number, self._source_row = file, number, source_row
        self._corpus = self._corpora[file.corpus_index]
        self._columns = columns_of(self._corpus, file, self._limits)
        self._language = language_source(self._corpus.language)

    def raw_rows(self, wanted: Wanted | None) -> Iterator[RawRows]:
        names = tuple(dict.fromkeys(name for name in self._columns[:4] if name is not None))
        selection = Selection(names, frozenset(self._columns.carry), self._schema)
        return raw_rows(self._file, selection, self._limits, wanted)

    def outcome(self, raw: RawRows, place: int) -> list[PassageRow] | Fault:
        corpus, columns, source = self._corpus, self._columns, self._file.source
        text = raw.values[columns.text][place]
        given_id, title = _value(columns.id, raw, place), _value(columns.title, raw, place)
        fault = check_text(text, corpus) or _check_labels(given_id, title)
        if fault is not None:
            return fault
        code = language_at(self._language, raw, place)
        if isinstance(code, Fault):
            return code
        row, number = self._source_row + raw.numbers[place], self._number + raw.numbers[place]
        ident = self._id(given_id, raw.numbers[place])
        if self._watch_ids and columns.id is not None:
            self._see_id(source, ident, number)
        if corpus.duplicates == "first" and (first := self._texts.add(digest(text), number)) is not None:
            return Fault("duplicate", f"the same text as {self._name(first)}")
        pieces = [text]
        if len(text) > corpus.max_chars:
            cut = corpus.on_long == "truncate"
            pieces = [truncate(text, corpus.max_chars)] if cut else chunk(text, corpus.max_chars)
        ids = [ident] if len(pieces) == 1 else [f"{ident}#{n}" for n in range(len(pieces))]
        shown = str(title) if title else None
        return [
            PassageRow(source, row, n, ids[n], piece, shown, code or self._detect(piece).code)
            for n, piece in enumerate(pieces)
        ]

    def describe(self, raw: RawRows, place: int) -> tuple[str, str]:
        text = raw.values[self._columns.text][place]
        ident = self._id(_value(self._columns.id, raw, place), raw.numbers[place])
        return storable(ident), excerpt(text) if isinstance(text, str) else ""

    def _id(self, given: object, number: int) -> str:
        if given is None or given == "":
            return self._file.relative if self._file.kind == "text" else f"{self._file.relative}:{number}"
        return str(given)

    def _see_id(self, source: str, ident: str, number: int) -> None:
        first = self._ids[source].add(blake2b(ident.encode(), digest_size=16).digest(), number)
        if first is not None:
            new = (0, f"{ident!r} in {self._name(first)} and {self._name(number)}")
            count, example = self.repeated.get(source, new)
            self.repeated[source] = (count + 1, example)

    def _name(self, number: int) -> str:
        first, source, source_row = self._starts[bisect_right(self._starts, number, key=lambda start: start[0]) - 1]
        return f"{source} row {source_row + number - first}"


def _value(column: str | None, raw: RawRows, place: int) -> object:
    return None if column is None else raw.values[column][place]


def _check_labels(ident: object, title: object) -> Fault | None:
    if ident is not None and (not isinstance(ident, (str, int)) or isinstance(ident, bool)):
        return Fault("type", f"the id is of type {type(ident).__name__}")
    if title is not None and not isinstance(title, str):
        return Fault("type", f"the title is of type {type(title).__name__}")
    return check_string(ident if isinstance(ident, str) else "", "the id") or check_string(title or "", "the title")
