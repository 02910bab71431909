"""Every input row ends as passages or as one rejected row, in input order, one batch in memory at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import pyarrow as pa

from synth.errors import InputError
from synth.sources.carried import carried_schema, fits, parquet_types
from synth.sources.checks import FirstSeen, check_string, check_text, digest, excerpt, language_code, storable
from synth.sources.chunking import chunk, truncate
from synth.sources.columns import Columns, language_column
from synth.sources.files import current
from synth.sources.options import Corpus, ReadLimits
from synth.sources.readers import columns_of, raw_rows
from synth.sources.records import Fault, InputFile, PassageRow, RawRow, RejectedRow, RowOutcome


def read_passages(  # noqa: PLR0913 - each says one more thing about the same reading
    corpora: Sequence[Corpus],
    files: Sequence[InputFile],
    limits: ReadLimits,
    *,
    only: Container[int] | None = None,
    carried: pa.Schema | None = None,
    notice: Callable[[str], None] | None = None,
    seen: int = 0,
) -> Iterator[RowOutcome]:
    """For each input row its passages, or its rejection with a reason; the texts are byte-equal to the input.

    Of the first `seen` files nothing comes: they were read before, and only count as what came earlier.

    `only` names the wanted rows by their number over all files; the rest is passed over unparsed. `carried` is what
    `carried_schema` gave. `notice` gets a line for each source in which ids occur more than once.
    Reasons: json, csv, encoding, surrogate, nul, empty, type, control_token, too_short, too_long, language, carry,
    duplicate. Raises InputError for a file that changed or breaks off, and at the first rejected row if
    `limits.strict`.
    """
    schema = carried_schema(corpora, files, limits) if carried is None else carried
    memory = _Memory(corpora, notice is not None)
    for place, file in enumerate(files):
        corpus = corpora[file.corpus_index]
        start = memory.begin(file)
        end = None if file.rows is None else start.number + file.rows
        if end is not None and (
            file.rows == 0 or (only is not None and not any(n in only for n in range(start.number, end)))
        ):
            memory.end(file, file.rows or 0)
            continue
        current(file)
        columns = columns_of(corpus, file, limits)
        reading = _Reading(corpus, file, columns, start, memory, _Carrying.of(corpus, file, schema))
        wanted = None if only is None else lambda row, first=start.number: first + row in only
        row = -1
        for raw in raw_rows(file, columns, limits, wanted):
            row = raw.row
            outcome = reading.outcome(raw)
            if place < seen:
                continue
            if isinstance(outcome, Fault):
                yield reading.rejected(raw, outcome, strict=limits.strict)
            else:
                yield from outcome
        current(file)
        memory.end(file, row + 1 if file.rows is None else file.rows)
    if notice is not None:
        for line in memory.repeated_ids():
            notice(line)


class _Start(NamedTuple):
    """Where a file starts: its first row's number over all files, and within its source."""

    number: int
    source_row: int


class _Memory:
    """What must be known of all earlier rows: how many, which texts, which ids."""

    def __init__(self, corpora: Sequence[Corpus], watch_ids: bool) -> None:  # noqa: FBT001 - private
        self._texts = FirstSeen() if any(corpus.duplicates == "first" for corpus in corpora) else None
        self._ids: dict[str, FirstSeen] | None = {} if watch_ids else None
        self._repeated: dict[str, tuple[int, str]] = {}
        self._number = 0
        self._source_rows: dict[str, int] = {}
        self._starts: list[tuple[int, str, int]] = []

    def begin(self, file: InputFile) -> _Start:
        start = _Start(self._number, self._source_rows.get(file.source, 0))
        self._starts.append((start.number, file.source, start.source_row))
        return start

    def end(self, file: InputFile, rows: int) -> None:
        self._number += rows
        self._source_rows[file.source] = self._source_rows.get(file.source, 0) + rows

    def earlier(self, text: str, number: int) -> str | None:
        """The first row with an equal text, as `source row N`; remembers this one if there is none."""
        first = None if self._texts is None else self._texts.add(digest(text), number)
        return None if first is None else self._name(first)

    def see_id(self, source: str, ident: str, number: int) -> None:
        if self._ids is None:
            return
        if source not in self._ids:
            self._ids[source] = FirstSeen()
        first = self._ids[source].add(blake2b(ident.encode(), digest_size=16).digest(), number)
        if first is not None:
            count, example = self._repeated.get(
                source, (0, f"{ident!r} in {self._name(first)} and {self._name(number)}")
            )
            self._repeated[source] = (count + 1, example)

    def repeated_ids(self) -> Iterator[str]:
        for source, (count, example) in self._repeated.items():
            yield f"{source}: {count} ids have come before, first {example}; nothing is lost, positions are the keys."

    def _name(self, number: int) -> str:
        first, source, source_row = self._starts[bisect_right(self._starts, number, key=lambda start: start[0]) - 1]
        return f"{source} row {source_row + number - first}"


class _Carrying(NamedTuple):
    """The carried columns of one file: `checked` are the types to compare, where the file's own may differ."""

    nothing: dict[str, object]
    names: tuple[str, ...]
    checked: tuple[pa.DataType, ...] | None

    @classmethod
    def of(cls, corpus: Corpus, file: InputFile, schema: pa.Schema) -> _Carrying:
        types = tuple(schema.field(name).type for name in corpus.carry)
        found = parquet_types(corpus, file) if file.kind == "parquet" else ()
        same = tuple(found) == types or (file.kind in ("csv", "tsv") and all(map(pa.types.is_string, types)))
        return cls(dict.fromkeys(schema.names), corpus.carry, None if same else types)

    def values(self, raw: RawRow) -> dict[str, object] | Fault:
        if self.checked is not None:
            for name, value, kind in zip(self.names, raw.carried, self.checked, strict=True):
                if not fits(value, kind):
                    return Fault("carry", f"field {name}: {excerpt(repr(value))} is not {kind}")
        return self.nothing | dict(zip(self.names, raw.carried, strict=True)) if self.names else self.nothing


class _Reading:
    """One file on its way: raw rows in, passages or faults out."""

    def __init__(
        self,
        corpus: Corpus,
        file: InputFile,
        columns: Columns,
        start: _Start,
        memory: _Memory,
        carrying: _Carrying,
    ) -> None:
        from synth.languages import detect, language  # noqa: PLC0415 - the detector is loaded on first use

        self._corpus, self._file, self._start = corpus, file, start
        self._memory, self._carrying = memory, carrying
        self._has_ids = columns.id is not None
        self._detect = detect
        constant = corpus.language != "auto" and language_column(corpus) is None
        self._language = language(corpus.language).code if constant else None

    def outcome(self, raw: RawRow) -> Iterator[PassageRow] | Fault:
        """The passages of a row, or why there are none."""
        fault = raw.fault or check_text(raw.text, self._corpus) or self._check_labels(raw)
        if fault is not None:
            return fault
        code = self._language if raw.language in (None, "") else language_code(raw.language)
        if isinstance(code, Fault):
            return code
        carried = self._carrying.values(raw)
        if isinstance(carried, Fault):
            return carried
        text, number = str(raw.text), self._start.number + raw.row
        if self._has_ids:
            self._memory.see_id(self._file.source, self._id(raw), number)
        if self._corpus.duplicates == "first" and (first := self._memory.earlier(text, number)):
            return Fault("duplicate", f"the same text as {first}")
        return self._passages(raw, text, code, carried)

    def rejected(self, raw: RawRow, fault: Fault, *, strict: bool) -> RejectedRow:
        """The row of `rejected/`. Raises InputError instead if `strict`."""
        if strict:
            raise InputError(
                f"{self._file.path}: row {raw.row}: {fault.reason}: {fault.detail}.",
                "Mend the row, or set `limits.strict: false` to reject such rows and go on.",
            )
        shown = fault.excerpt or (excerpt(raw.text) if isinstance(raw.text, str) else "")
        row = self._start.source_row + raw.row
        return RejectedRow(self._file.source, row, storable(self._id(raw)), fault.reason, storable(fault.detail), shown)

    def _passages(self, raw: RawRow, text: str, code: str | None, carried: dict[str, object]) -> Iterator[PassageRow]:
        pieces = [text]
        if len(text) > self._corpus.max_chars:
            limit = self._corpus.max_chars
            pieces = chunk(text, limit) if self._corpus.on_long == "chunk" else [truncate(text, limit)]
        ident, title = self._id(raw), str(raw.title) if raw.title else None
        for place, piece in enumerate(pieces):
            yield PassageRow(
                self._file.source,
                self._start.source_row + raw.row,
                place,
                ident if len(pieces) == 1 else f"{ident}#{place}",
                piece,
                title,
                code or self._detect(piece).code,
                carried,
            )

    def _id(self, raw: RawRow) -> str:
        if raw.id is None or raw.id == "":
            return self._file.relative if self._file.kind == "text" else f"{self._file.relative}:{raw.row}"
        return str(raw.id)

    def _check_labels(self, raw: RawRow) -> Fault | None:
        ident, title = raw.id, raw.title
        if ident is not None and (not isinstance(ident, (str, int)) or isinstance(ident, bool)):
            return Fault("type", f"the id is of type {type(ident).__name__}")
        if title is not None and not isinstance(title, str):
            return Fault("type", f"the title is of type {type(title).__name__}")
        return check_string(ident if isinstance(ident, str) else "", "the id") or check_string(title or "", "the title")
