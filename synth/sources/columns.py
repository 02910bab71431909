"""Which column is the text, the id, the title, the language: by the job's word, or by the usual names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from synth.errors import InputError, JobError
from synth.sources.options import Corpus, LanguageColumn, PairData
from synth.sources.records import Kind, LanguageOf, RawRow

TEXT_NAMES = (
    *("text", "passage", "content", "body", "contents", "chunk", "document", "passage_text", "page_content"),
    *("chunk_text", "paragraph", "doc", "article", "abstract", "context"),
)
ID_NAMES = ("id", "_id", "passage_id", "chunk_id", "doc_id", "docid", "document_id", "pid", "uuid")
_DEEPEST = 4
"""Levels of nested objects that are listed as columns."""


class Columns(NamedTuple):
    """The columns of one file that are read."""

    text: str
    id: str | None
    title: str | None
    language: str | None
    carry: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Each column once, in a fixed order."""
        fixed = (self.text, self.id, self.title, self.language)
        return tuple(dict.fromkeys((*(name for name in fixed if name is not None), *self.carry)))


def find_columns(corpus: Corpus, available: Sequence[str], path: str) -> Columns:
    """The columns of `available` that the corpus means; `path` is for messages.

    Raises InputError for a column that is not there, with the columns that are and the nearest name.
    """
    text = corpus.text
    if text == "auto":
        found = _usual(TEXT_NAMES, available)
        if found is None:
            raise InputError(
                f"{path}: no column has a usual name of a text (columns: {', '.join(available)}).",
                "Name it in the job: corpus.text.",
            )
        text = found
    ident = _usual(ID_NAMES, available) if corpus.id == "auto" else corpus.id
    columns = Columns(text, ident, corpus.title, language_column(corpus), corpus.carry)
    for name in columns.names:
        if available.count(name) > 1:
            raise InputError(f"{path}: two columns are called {name!r}.", "Rename one of them.")
        if name not in available:
            near = get_close_matches(name, available, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Name one of them in the job."
            if name == columns.language and not near:
                hint = f"{name!r} is no language of the table either."
            raise InputError(f"{path}: no column {name!r} (columns: {', '.join(available)}).", hint)
    return columns


def language_column(corpus: Corpus) -> str | None:
    """The column that `corpus.language` names, or None where it says `auto` or a language."""
    from synth.languages import language  # noqa: PLC0415 - the table is read when it is needed

    if isinstance(corpus.language, LanguageColumn):
        return corpus.language.column
    if corpus.language == "auto":
        return None
    try:
        language(corpus.language)
    except JobError:
        return corpus.language
    return None


def keys_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key of the rows, with dots into nested objects, in order of first sight."""
    return list(dict.fromkeys(path for row in rows for path in _leaf_paths(row)))


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; a dotted name that is no key of its own reaches into nested objects. None if absent."""
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def fetcher(columns: Columns) -> Callable[[int, Mapping[str, Any]], RawRow]:
    """How to take the columns out of one object."""
    text, ident, title, language, carry = columns

    def fetch(row: int, values: Mapping[str, Any]) -> RawRow:
        return RawRow(
            row,
            value_at(values, text),
            None if ident is None else value_at(values, ident),
            None if title is None else value_at(values, title),
            None if language is None else value_at(values, language),
            tuple(value_at(values, name) for name in carry) if carry else (),
        )

    return fetch


def _leaf_paths(row: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[str]:
    """Keys of an object and, dotted, of the objects in it."""
    for key, value in row.items():
        yield prefix + key
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _leaf_paths(value, f"{prefix}{key}.", depth + 1)


def _usual(names: Sequence[str], available: Sequence[str]) -> str | None:
    folded = {name.casefold(): name for name in reversed(available)}
    return next((folded[name] for name in names if name in folded), None)


USUAL = (
    *(("query", name) for name in ("passage", "positive", "pos", "positive_passage", "document", "doc", "context")),
    *(("query", name) for name in ("response", "answer", "text", "content")),
    *(("anchor", name) for name in ("positive", "pos", "passage")),
    *(("question", name) for name in ("passage", "positive", "context", "document", "answer", "response", "text")),
    *(("prompt", name) for name in ("response", "completion", "chosen")),
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b")),
    *(("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("sent1", "sent2"), ("question1", "question2")),
    *(("q", name) for name in ("doc", "passage", "d", "p", "a")),
    *(("premise", "hypothesis"), ("instruction", "output"), ("input", "output"), ("title", "text"), ("title", "body")),
)
"""Pairs of names, the likeliest first; case does not matter."""


def find_pair(data: PairData, available: Sequence[str], path: str) -> tuple[Kind, str, str]:
    """(kind, query column, passage column) among the columns of a file; `path` is for messages.

    Raises InputError for a column that is not there, and where no usual names are, with the columns that are.
    """
    if data.query == data.passage == "auto":
        if {"query", "pos"} <= set(available):
            return "flag", "query", "pos"
        if {"messages", "positive_messages"} <= set(available):
            return "messages", "messages", "positive_messages"
    query, passage = _usual_pair_names(data, available)
    for name, key in ((query, "query"), (passage, "passage")):
        if name is None:
            raise InputError(
                f"{path}: no column has a usual name of a {key} (columns: {', '.join(available)}).",
                f"Name it: data.{key} in the job, or --{key}-column.",
            )
        require(name, available, path)
    assert query is not None and passage is not None  # noqa: S101, PT018 - narrowed by the loop above
    if query == passage:
        raise InputError(f"{path}: {query!r} is both query and passage.", "Name the other: data.query or data.passage.")
    tuples = any(name.casefold().startswith("negative") for name in available)
    return "tuples" if tuples else "columns", query, passage


def require(name: str, available: Sequence[str], path: str, cure: str = "Name one of them in the job.") -> None:
    """Raises InputError for a column that is not there or is there twice, with the nearest name."""
    if available.count(name) > 1:
        raise InputError(f"{path}: two columns are called {name!r}.", "Rename one of them.")
    if name not in available:
        near = get_close_matches(name, available, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else cure
        raise InputError(f"{path}: no column {name!r} (columns: {', '.join(available)}).", hint)


def _usual_pair_names(data: PairData, available: Sequence[str]) -> tuple[str | None, str | None]:
    """The two columns as far as they can be told; the one that the job names decides what may be the other."""
    folded = {name.casefold(): name for name in reversed(available)}
    named = (None if data.query == "auto" else data.query, None if data.passage == "auto" else data.passage)
    if None not in named:
        return named
    both = [(folded[a], folded[b]) for a, b in USUAL if a in folded and b in folded]
    for query, passage in both:
        if named[0] in (None, query) and named[1] in (None, passage):
            return query, passage
    lone = [folded[name] for pair in USUAL for name in pair if name in folded and folded[name] not in named]
    if named[0] is not None:
        return named[0], next((name for name in lone if name.casefold() in _PASSAGES), None)
    if named[1] is not None:
        return next((name for name in lone if name.casefold() in _QUERIES), None), named[1]
    return next((name for name in lone if name.casefold() in _QUERIES - _PASSAGES), None), None


_QUERIES = frozenset(query for query, _ in USUAL)
_PASSAGES = frozenset(passage for _, passage in USUAL)


def language_of(value: str | LanguageColumn, name: str, available: Sequence[str], path: str) -> LanguageOf:
    """Where the language of one side comes from; `name` is the column that `auto` reads if it is there.

    Raises InputError for a value that is neither a language nor a column.
    """
    from synth.languages import language  # noqa: PLC0415 - the table is read when it is needed

    if value == "auto":
        return LanguageOf(column=name if name in available else None)
    if isinstance(value, str):
        try:
            return LanguageOf(code=language(value).code)
        except JobError:
            if value not in available:
                raise InputError(
                    f"{path}: {value!r} is neither a language nor a column (columns: {', '.join(available)}).",
                    f"Mend data.{name} in the job.",
                ) from None
    column = value if isinstance(value, str) else value.column
    require(column, available, path)
    return LanguageOf(column=column, strict=True)
