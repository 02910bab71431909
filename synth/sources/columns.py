"""Which column is which: by the job's options, or by the usual names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from synth.errors import InputError, JobError
from synth.names import note
from synth.sources.options import Corpus, LanguageColumn, PairData
from synth.sources.records import LanguageSource, LayoutKind

TEXT_NAMES = (
    *("text", "passage", "content", "body", "contents", "chunk", "document", "passage_text", "page_content"),
    *("chunk_text", "paragraph", "doc", "article", "abstract", "context", "positive"),
)
LIST_NAMES = ("pos", "positive_messages", "positive_passages")
"""Columns with a list of passages in each row, as trainers read them."""
ID_NAMES = ("id", "_id", "passage_id", "chunk_id", "doc_id", "docid", "document_id", "pid", "uuid")
PAIR_NAMES = (
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

JUDGEMENT_NAMES = (
    *("label", "relevance", "is_relevant", "relevant", "relevancy", "rel", "judgement", "judgment", "is_positive"),
    *("is_match", "is_duplicate", "is_correct", "labels"),
)
_SENTENCES = frozenset(
    {"premise", "sentence1", "sentence_1", "sentence_a", "text1", "text_1", "text_a", "sent1", "title"}
)
"""Queries of pairs whose labels are classes as a rule, of inference or topic."""
MOST_GRADES = 11


def judgement(name: str, numbers: frozenset[float] | None, query: str, *, varies: bool) -> tuple[bool, str]:
    """Whether a column called `name` holds judgements, and what was assumed; `numbers` are its values, None for text.

    `varies`: whether some query has several different ones, as judgements have and classes have not.
    """
    if not numbers:
        return False, "" if numbers is not None else f"{name!r} holds text, taken for classes"
    shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:MOST_GRADES])
    folded, query = name.casefold(), query.casefold()
    if len(numbers) > MOST_GRADES:
        return False, f"{name!r} has more than {MOST_GRADES} different values, taken for classes or scores"
    if not folded.startswith("label"):
        return True, ""
    if numbers <= {-1.0, 0.0, 1.0}:
        return query != "premise", f"{name!r} ({shown}) taken for classes of inference" if query == "premise" else ""
    if varies and query not in _SENTENCES and all(number.is_integer() for number in numbers):
        return True, f"{name!r} ({shown}) taken for grades, as a query has several"
    return False, f"{name!r} ({shown}) taken for classes"


_QUERIES = frozenset(query for query, _ in PAIR_NAMES)
_PASSAGES = frozenset(passage for _, passage in PAIR_NAMES)


class Columns(NamedTuple):
    """The columns of one file of a corpus that are read."""

    text: str
    id: str | None
    title: str | None
    language: str | None
    carry: tuple[str, ...]


def find_columns(corpus: Corpus, available: Sequence[str], path: str) -> Columns:
    """The columns that the corpus names or that have a usual name. Raises InputError for one that `path` lacks."""
    note(available)
    text = corpus.text if corpus.text != "auto" else usual_name((*TEXT_NAMES, *LIST_NAMES), available)
    if text is None:
        what = f"no column has a usual name of a text (columns: {', '.join(available)})"
        raise InputError(f"{path}: {what}.", "Name it in the job: corpus.text.")
    ident = usual_name(ID_NAMES, available) if corpus.id == "auto" else corpus.id
    language = language_source(corpus.language).column
    for name in (text, ident, corpus.title, *corpus.carry):
        if name is not None:
            require(name, available, path)
    if language is not None:
        require(language, available, path, f"{language!r} is not a known language either.")
    return Columns(text, ident, corpus.title, language, corpus.carry)


def usual_name(names: Sequence[str], available: Sequence[str]) -> str | None:
    """The first of the usual names that is available; case does not matter."""
    folded = {name.casefold(): name for name in reversed(available)}
    return next((folded[name] for name in names if name in folded), None)


def require(name: str, available: Sequence[str], path: str, hint: str = "Name one of them in the job.") -> None:
    """Raises InputError for a column that is missing or occurs twice, with the nearest name."""
    if available.count(name) > 1:
        raise InputError(f"{path}: two columns are called {name!r}.", "Rename one of them.")
    if name not in available:
        near = get_close_matches(name, available, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else hint
        raise InputError(f"{path}: no column {name!r} (columns: {', '.join(available)}).", hint)


def language_source(value: str | LanguageColumn) -> LanguageSource:
    """Where the language of a text comes from; a name that is not a known language is a column."""
    from synth.languages import language  # noqa: PLC0415 - the table is read when it is needed

    if isinstance(value, LanguageColumn):
        return LanguageSource(column=value.column, strict=True)
    if value == "auto":
        return LanguageSource()
    try:
        return LanguageSource(code=language(value).code)
    except JobError:
        return LanguageSource(column=value, strict=True)


def pair_language(data: PairData, option: str, available: Sequence[str], path: str) -> LanguageSource:
    """Where the language of one side of pairs comes from; `auto` reads the column called like the option."""
    value = getattr(data, option)
    found = language_source(value)
    if value == "auto":
        return LanguageSource(column=option if option in available else None)
    if found.column is not None and found.column not in available and isinstance(value, str):
        what = f"{value!r} is neither a language nor a column (columns: {', '.join(available)})"
        raise InputError(f"{path}: {what}.", f"Correct data.{option} in the job.")
    if found.column is not None:
        require(found.column, available, path)
    return found


def keys_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key of the rows, with dots into nested objects, in order of first appearance."""
    return list(dict.fromkeys(path for row in rows for path in _leaf_paths(row)))


def values_at(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of a column, None where it is absent; a dotted name that is not a key reaches into nested objects."""
    if "." not in column:
        return [row.get(column) for row in rows]
    found = []
    for row in rows:
        value: Any = row
        for part in [column] if column in row else column.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found.append(value)
    return found


def content(value: Any) -> Any:
    """The text of chat messages without the system's, or of an object with a text; any other value as it is."""
    if isinstance(value, Mapping):
        value = [value] if "content" in value else value.get("text", value)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return value
    texts = [each.get("content") for each in value if each.get("role") != "system"]
    if len(texts) == 1 or not all(isinstance(text, str) for text in texts):
        return texts[0] if texts else None
    return "\n".join(texts) if texts else None


def _leaf_paths(row: Mapping[str, Any], prefix: str = "", levels: int = 4) -> Iterator[str]:
    for key, value in row.items():
        yield prefix + key
        if isinstance(value, Mapping) and levels > 1:
            yield from _leaf_paths(value, f"{prefix}{key}.", levels - 1)


def find_pair(data: PairData, available: Sequence[str], path: str) -> tuple[LayoutKind, str, str]:
    """(layout, query column, passage column) of a file. Raises InputError where a column is missing or not found."""
    note(available)
    if data.query == data.passage == "auto":
        if {"query", "pos"} <= set(available):
            return "flag", "query", "pos"
        if {"messages", "positive_messages"} <= set(available):
            return "messages", "messages", "positive_messages"
        if {"query", "positive_passages"} <= set(available):
            return "tevatron", "query", "positive_passages"
    query, passage = _usual_pair(data, available)
    for name, key in ((query, "query"), (passage, "passage")):
        if name is None:
            what = f"no column has a usual name of a {key} (columns: {', '.join(available)})"
            raise InputError(f"{path}: {what}.", f"Name it: data.{key} in the job, or --{key}-column.")
        require(name, available, path)
    assert query is not None and passage is not None  # noqa: S101, PT018 - narrowed by the loop above
    if query == passage:
        raise InputError(f"{path}: {query!r} is both query and passage.", "Name the other: data.query or data.passage.")
    tuples = any(name.casefold().startswith("negative") for name in available)
    return "tuples" if tuples else "columns", query, passage


def _usual_pair(data: PairData, available: Sequence[str]) -> tuple[str | None, str | None]:
    """The two columns as far as they are known; the one that the job names decides what the other may be."""
    folded = {name.casefold(): name for name in reversed(available)}
    query, passage = (None if each == "auto" else each for each in (data.query, data.passage))
    if query is not None and passage is not None:
        return query, passage
    for first, second in ((folded.get(a), folded.get(b)) for a, b in PAIR_NAMES):
        if first and second and query in (None, first) and passage in (None, second):
            return first, second
    allowed = _PASSAGES if query is not None else _QUERIES if passage is not None else _QUERIES - _PASSAGES
    usual = (name for pair in PAIR_NAMES for name in pair if name in folded and name in allowed)
    other = next((folded[name] for name in usual if folded[name] not in (query, passage)), None)
    return (query, other) if query is not None else (other, passage)
