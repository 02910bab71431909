"""Corpora as passages: every input row becomes one passage or several, or one rejected row.

Long texts are cut into even pieces, at the best place there is: paragraph, sentence, line, space, character. A
character is a grapheme cluster of Unicode Annex 29: a base with its marks, a flag, a joined emoji, a Hangul syllable.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from decimal import Decimal
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import regex

from synth.errors import InputError, JobError
from synth.sources.carried import unite
from synth.sources.checks import FirstSeen, check_string, check_text, digest, excerpt, id_text, storable
from synth.sources.columns import LIST_NAMES, content, language_source
from synth.sources.files import expand, look
from synth.sources.options import Corpus, ReadLimits
from synth.sources.readers import Rows, columns_of, language_at, raw_rows, read_rows, types_of
from synth.sources.records import Block, Fault, FileKey, InputFile, PassageRow, RawRows, Selection
from synth.sources.text import Wanted
from synth.types import Notify


def inspect(
    corpora: Sequence[Corpus],
    base: Path,
    limits: ReadLimits,
    known: Iterable[InputFile] = (),
    notify: Notify | None = None,
) -> list[InputFile]:
    """The files of all corpora, sorted in each; one of `known` is not hashed again. Raises JobError, InputError."""
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
        for found in expand(corpus.path, base, pairs=False, notify=notify):
            file = look(index, corpus.source, found, limits, earlier.get(str(found.path)))
            if file.rows:
                columns_of(corpus, file, limits)
            files.append(file)
    if all(file.rows == 0 for file in files):
        raise InputError(f"the input files are empty ({len(files)} read).", "Check `corpus.path` in the job.")
    return files


def carried_schema(corpora: Sequence[Corpus], files: Sequence[InputFile], limits: ReadLimits) -> pa.Schema:
    """The columns that any corpus carries, all nullable. Raises InputError where types differ or one is missing."""
    used = [(corpora[file.corpus_index], file) for file in files if file.rows != 0]
    schemas = []
    for corpus, file in used:
        if corpus.carry:
            columns_of(corpus, file, limits)
            schemas.append((types_of(file, corpus.carry, limits), file.path))
    return unite(schemas)


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
    """What the rows of all files become, as `read_rows` gives it; `notify` gets a line on repeated ids of a source."""
    schema = carried_schema(corpora, files, limits) if carried is None else carried
    passages = _Passages(corpora, limits, schema, watch_ids=notify is not None)
    yield from read_rows(passages, files, limits, only, seen)
    for source, (count, example) in passages.repeated.items():
        assert notify is not None  # noqa: S101 - ids are watched for it only
        notify(f"{source}: {count} duplicate ids; first {example}. All rows are kept: the key is the position.")


class _Passages(Rows[PassageRow]):
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
        given_id = raw.values[columns.id][place] if columns.id is not None else None
        title = raw.values[columns.title][place] if columns.title is not None else None
        listed = columns.text in LIST_NAMES and isinstance(text, list)
        texts = [content(each) for each in text] if listed else [text]
        checked = (check_text(each, corpus) for each in texts or [None])
        fault = next((each for each in checked if each), None) or _check_labels(given_id, title)
        if fault is not None:
            return fault
        code = language_at(self._language, raw, place)
        if isinstance(code, Fault):
            return code
        row, number = self._source_row + raw.numbers[place], self._number + raw.numbers[place]
        ident = self._id(given_id, raw.numbers[place])
        if self._watch_ids and columns.id is not None:
            earlier = self._ids[source].add(blake2b(ident.encode(), digest_size=16).digest(), number)
            if earlier is not None:
                new = (0, f"{ident!r} in {self._name(earlier)} and {self._name(number)}")
                count, example = self.repeated.get(source, new)
                self.repeated[source] = (count + 1, example)
        if corpus.duplicates == "first":
            firsts = [self._texts.add(digest(each), number) for each in texts]
            texts = [each for each, first in zip(texts, firsts, strict=True) if first is None]
            if not texts:
                return Fault("duplicate", f"the same text as {self._name(firsts[0] or 0)}")
        pieces = [piece for each in texts for piece in _pieces(each, corpus)]
        ids = [ident] if len(pieces) == 1 else [f"{ident}#{n}" for n in range(len(pieces))]
        shown = str(title) if title else None
        return [
            PassageRow(source, row, n, ids[n], piece, shown, code or self._detect(piece).code)
            for n, piece in enumerate(pieces)
        ]

    def describe(self, raw: RawRows, place: int) -> tuple[str, str]:
        text = raw.values[self._columns.text][place]
        given = raw.values[self._columns.id][place] if self._columns.id is not None else None
        return storable(self._id(given, raw.numbers[place])), excerpt(text) if isinstance(text, str) else ""

    def _id(self, given: object, number: int) -> str:
        at = self._file.relative if self._file.kind == "text" else f"{self._file.relative}:{number}"
        return id_text(given) or at

    def _name(self, number: int) -> str:
        first, source, source_row = self._starts[bisect_right(self._starts, number, key=lambda start: start[0]) - 1]
        return f"{source} row {source_row + number - first}"


def _pieces(text: str, corpus: Corpus) -> list[str]:
    return [truncate(text, corpus.max_chars)] if corpus.on_long == "truncate" else chunk(text, corpus.max_chars)


_IDS = (str, int, float, Decimal, UUID)


def _check_labels(ident: object, title: object) -> Fault | None:
    whole = not isinstance(ident, float | Decimal) or (id_text(ident) or "0").removeprefix("-").isdecimal()
    if not (ident is None or (whole and isinstance(ident, _IDS) and not isinstance(ident, bool))):
        return Fault("type", f"the id is of type {type(ident).__name__}")
    if title is not None and not isinstance(title, str):
        return Fault("type", f"the title is of type {type(title).__name__}")
    return check_string(ident if isinstance(ident, str) else "", "the id") or check_string(title or "", "the title")


# cutting long texts ---------------------------------------------------------------------------------------------------

_PARAGRAPH = re.compile(r"(?:\r?\n[ \t]*){2,}|\u2029\s*")
_LINE = re.compile(r"\r?\n|\u2028")
_SPACE = re.compile(r"\s+")
_CLOSING = "\"'”’»›)\\]}」』】）〉》〕］"
_STOPS = "。！？｡．।॥؟۔։።፧፨။។៕๚๛།༎"  # in scripts where they are enough, without a space after them
_SENTENCE = re.compile(rf"(?P<spaced>[.!?…]+[{_CLOSING}]*(?=\s|\Z))|[{_STOPS}]+[{_CLOSING}]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|fig|eq|no|nr|vol|pp?|cf|al|inc|ltd|co|corp|jr|sr|dept|approx|ca|abs|art|bzw|usw"
    r"|ggf|inkl|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|u\.s|e\.g|i\.e|z\.\s?b|d\.\s?h)|\b\w)\.\Z",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"(?<!\S)\d{1,2}\.\Z")
_LOOK_BACK = 16

_CHARACTER = regex.compile(r"\X")
_FIRST_MARK = "\u0300"
"""Below it, only a line ending has more than one code point."""


def chunk(text: str, max_chars: int) -> list[str]:
    """Pieces of at most `max_chars` code points, none much shorter than the others; the text itself if it fits.

    Only white space at the cuts is lost. A piece ends inside a grapheme cluster only if the cluster alone is longer.
    """
    if len(text) <= max_chars:
        return [text]
    cuts = [0]
    while (left := len(text) - cuts[-1]) > max_chars:
        # each piece aims at an equal share of what is left and may miss it by a half
        start, share = cuts[-1], left / -(-left // max_chars)
        low, high = start + int(share / 2), min(start + max_chars, start + int(share * 1.5))
        cuts.append(_best_cut(text, start, low, high, start + int(share)))
    cuts.append(len(text))
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    pieces = [pieces[0].rstrip(), *(piece.strip() for piece in pieces[1:-1]), pieces[-1].lstrip()]
    return [piece for piece in pieces if piece]


def truncate(text: str, max_chars: int) -> str:
    """The start of a text, at most `max_chars` code points, cut at the best place in the second half of these."""
    if len(text) <= max_chars:
        return text
    return text[: _best_cut(text, 0, max_chars // 2, max_chars, max_chars)].rstrip()


def _best_cut(text: str, start: int, low: int, high: int, ideal: int) -> int:
    for pattern in (_PARAGRAPH, _SENTENCE, _LINE, _SPACE):
        places = [place for place in _ends(pattern, text, max(low, start), high) if low < place <= high]
        if places:
            return min(places, key=lambda place: (abs(place - ideal), place))
    for distance in range(high - start):
        for place in (ideal - distance, ideal + distance):
            if start < place <= high and between_characters(text, place):
                return place
    return high


def _ends(pattern: re.Pattern[str], text: str, low: int, high: int) -> Iterator[int]:
    sentences = pattern is _SENTENCE
    for match in pattern.finditer(text, low, min(high + _LOOK_BACK * sentences, len(text))):
        place = match.end()
        if sentences and match["spaced"] and place < len(text) and not text[place].isspace():
            continue  # the search ended here, the text does not
        if sentences and match["spaced"] == "." and _ABBREVIATION.search(text, max(0, place - _LOOK_BACK), place):
            continue
        if between_characters(text, place):  # what follows a cut may be a mark that belongs to the space before it
            yield place


def sentences(text: str) -> list[str]:
    """The sentences of a text, each a part of it without the white space around; a paragraph ends one too.

    A number of one or two digits with a point is an ordinal in many languages, so it does not end one.
    """
    points = {end for end in _ends(_SENTENCE, text, 0, len(text)) if not _ORDINAL.search(text, max(0, end - 4), end)}
    places = [0, *sorted({match.end() for match in _PARAGRAPH.finditer(text)} | points | {len(text)})]
    return [part for start, end in pairwise(places) if (part := text[start:end].strip())]


def between_characters(text: str, place: int) -> bool:
    """Whether a cut before `text[place]` leaves every grapheme cluster whole."""
    if not 0 < place < len(text):
        return True
    if text[place] < _FIRST_MARK:
        return text[place - 1 : place + 1] != "\r\n"
    start = place - 1
    while start > 0 and text[start] >= _FIRST_MARK and place - start < 128:  # noqa: PLR2004 - far enough to look back
        start -= 1
    while start < place:
        start = _CHARACTER.match(text, start).end()
    return bool(start == place)
