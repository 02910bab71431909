"""Every input row ends as one pair or more, or as one rejected row, in input order, one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from math import isfinite, nan
from typing import Any

import pyarrow as pa

from synth.errors import InputError
from synth.sources import beir, carried
from synth.sources.beir import conform
from synth.sources.carried import file_schema, unite
from synth.sources.checks import check_present, excerpt, language_code, storable
from synth.sources.files import current
from synth.sources.options import ReadLimits
from synth.sources.records import Chunk, Fault, InputFile, LanguageOf, PairBlock, PairRow, PairSet, RejectedRow

Positives = tuple[str, Sequence[tuple[int | None, str]]]
"""A query, and its passages with their places among the positives of the row."""


def own_schema(sets: Sequence[PairSet], limits: ReadLimits) -> pa.Schema:
    """The columns that any entry carries, under their own names, in order of first mention, all nullable.

    Raises InputError naming the file whose type of a column cannot be united with that of the others.
    """
    schemas = []
    for each in sets:
        if each.layout.kind == "beir":
            known = [(beir.own_schema(each.files, limits), each.files[0].path)]
        else:
            known = [(file_schema(file, limits), file.path) for file in each.files if file.rows]
        names = set(each.layout.carried)
        schemas += [(pa.schema([field for field in schema if field.name in names]), path) for schema, path in known]
    return unite(schemas)


def pair_files(sets: Sequence[PairSet]) -> list[InputFile]:
    """The files whose rows become pairs, in order: what `sources.count_rows` and `only` count."""
    return [file for each in sets for file in beir.pair_files(each.files)]


def read_pairs(
    sets: Sequence[PairSet],
    own: pa.Schema,
    limits: ReadLimits,
    *,
    only: Container[int] | None = None,
    seen: Container[tuple[int, str]] = (),
) -> Iterator[PairBlock]:
    """What all input rows become, block by block; the texts are byte-equal to the input, carried values unchanged.

    `own` is what `own_schema` gave; `only` names the wanted rows by their number over all `pair_files`. Reasons:
    json, csv, encoding, surrogate, nul, empty, type, language, label, carry, no_positive, not_relevant, unresolved.
    Files in `seen`, by (corpus_index, relative), were read before and only counted. Raises InputError for a file that
    changed or breaks off, and at the first rejected row if `limits.strict`.
    """
    number = 0
    for each in sets:
        joined = None
        start = 0
        for file in beir.pair_files(each.files):
            if (file.corpus_index, file.relative) in seen:
                number += file.rows or 0
                start += file.rows or 0
                continue
            current(file)
            if each.layout.kind == "beir":
                joined = joined or beir.Joined(each, limits)
                found = joined.chunks(file)
            else:
                found = _chunks(each, file, limits)
            reading = _Reading(each, file, start, own, limits)
            for chunk in found if file.rows else ():
                first = number + chunk.rows[0]
                wanted = None if only is None else (lambda place, first=first: first + place in only)
                yield reading.block(chunk, wanted)
            current(file)
            number += file.rows or 0
            start += file.rows or 0


def _chunks(pairs: PairSet, file: InputFile, limits: ReadLimits) -> Iterator[Chunk]:
    layout = pairs.layout
    schema = file_schema(file, limits)
    own = pa.schema([field for field in schema if field.name in layout.carried])
    sides = (layout.query_language.column, layout.passage_language.column, layout.label)
    wanted = [layout.query, layout.passage, *(name for name in sides if name is not None)]
    return carried.read(file, list(dict.fromkeys(wanted)), own, limits)


class _Reading:
    """One file on its way: chunks in, blocks of pairs and rejected rows out."""

    def __init__(self, pairs: PairSet, file: InputFile, start: int, own: pa.Schema, limits: ReadLimits) -> None:
        from synth.languages import detect  # noqa: PLC0415 - the detector is read when it is needed

        self._layout, self._file, self._start = pairs.layout, file, start
        self._own, self._strict, self._detect = own, limits.strict, detect

    def block(self, chunk: Chunk, wanted: Callable[[int], bool] | None) -> PairBlock:
        """The outcomes of the wanted rows of a chunk."""
        block, picked = PairBlock(), []
        for place, row in enumerate(chunk.rows):
            if wanted is not None and not wanted(place):
                continue
            outcome = chunk.faults.get(place) or self._pairs(chunk, place, row)
            if isinstance(outcome, Fault):
                block.outcomes.append(self._rejected(row, outcome))
                continue
            block.outcomes += outcome
            picked += [place] * len(outcome)
        block.own = conform(chunk.own.take(pa.array(picked, pa.int64())), self._own)
        return block

    def _pairs(self, chunk: Chunk, place: int, row: int) -> list[PairRow] | Fault:
        layout, values = self._layout, chunk.values
        found = _positives(layout.kind, values[layout.query][place], values[layout.passage][place])
        if isinstance(found, Fault):
            return found
        query, passages = found
        label = None if layout.label is None else _label(values[layout.label][place])
        spoken = self._language(layout.query_language, chunk, place, query)
        if isinstance(label, Fault):
            return label
        if isinstance(spoken, Fault):
            return spoken
        pairs = []
        for positive, passage in passages:
            written = self._language(layout.passage_language, chunk, place, passage)
            if isinstance(written, Fault):
                return written
            source_row = self._start + row
            pairs.append(PairRow(layout.source, source_row, positive, query, passage, spoken, written, label))
        return pairs

    def _language(self, side: LanguageOf, chunk: Chunk, place: int, text: str) -> str | Fault:
        if side.code is not None:
            return side.code
        value = chunk.values[side.column][place] if side.column is not None else None
        if value not in (None, ""):
            code = "und" if value == "und" else language_code(value)
            if side.strict or not isinstance(code, Fault):
                return code
        return self._detect(text).code

    def _rejected(self, row: int, fault: Fault) -> RejectedRow:
        """The row of `rejected/`. Raises InputError instead if `limits.strict`."""
        if self._strict:
            raise InputError(
                f"{self._file.path}: row {row}: {fault.reason}: {fault.detail}.",
                "Mend the row, or set `limits.strict: false` to reject such rows and go on.",
            )
        ident = f"{self._file.relative}:{row}"
        detail, shown = storable(fault.detail), storable(fault.excerpt)
        return RejectedRow(self._layout.source, self._start + row, ident, fault.reason, detail, shown)


def _positives(kind: str, query: Any, passages: Any) -> Positives | Fault:
    """The query of a row and its passages, or what is wrong with the first that is not usable."""
    if kind == "messages":
        query = _content(query)
        passages = [_content(each) for each in passages] if isinstance(passages, list) else passages
    if fault := check_present(query, "the query"):
        return fault
    if kind not in ("flag", "messages"):
        return check_present(passages, "the passage") or (str(query), [(None, str(passages))])
    if passages is not None and not isinstance(passages, list):
        return Fault(
            "type", f"the positives are of type {type(passages).__name__}, not a list", excerpt(repr(passages))
        )
    if not passages:
        return Fault("no_positive", "the row has no positive", excerpt(str(query)))
    for place, passage in enumerate(passages):
        if fault := check_present(passage, f"positive {place + 1} of {len(passages)}"):
            return fault
    return str(query), list(enumerate(passages))


def _content(messages: Any) -> Any:
    """The text of a list of chat messages without the system's, as it is where it is no such list."""
    if isinstance(messages, dict):
        messages = [messages]
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return messages
    texts = [each.get("content") for each in messages if each.get("role") != "system"]
    if len(texts) == 1 or not all(isinstance(text, str) for text in texts):
        return texts[0] if texts else None
    return "\n".join(texts) if texts else None


def _label(value: Any) -> float | Fault | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().casefold(), value)
    try:
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        label = nan
    return (
        label if isfinite(label) else Fault("label", f"the label {str(value)[:80]!r} is no number", excerpt(str(value)))
    )
