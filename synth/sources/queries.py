"""Texts in files beside the corpus that a job names: queries of benchmarks, queries that people really typed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from synth.errors import InputError, JobError
from synth.names import path_of
from synth.sources.columns import TEXT_NAMES, keys_of, usual_name
from synth.sources.files import FoundFile, look
from synth.sources.options import Corpus, ReadLimits
from synth.sources.parquet import schema
from synth.sources.readers import columns_of, first_objects, raw_rows
from synth.sources.records import COLUMNAR, InputFile, Selection
from synth.sources.text import header, lines, opened

_NAMES = ("query", "question", "queries", "anchor", "prompt", "sentence", "sentence1", *TEXT_NAMES)
_LIMITS = ReadLimits()
_known: dict[Path, InputFile] = {}
"""Files that were looked at: one that did not change is not hashed again."""


def described(files: Sequence[str], key: str) -> list[InputFile]:
    """The files as they are now; relative paths start from the working directory. `key` is what names them in the job.

    Raises JobError where one is not there, InputError where it is not what its name says, SystemFault.
    """
    for path in (paths := [path_of(name).absolute() for name in files]):
        try:
            _known[path] = look(0, key, FoundFile(path, path.name), _LIMITS, _known.get(path))
        except InputError as exc:
            if not path.exists():
                raise JobError(f"{key}: {path} does not exist.", "Check its path.") from exc
            raise
    return [_known[path] for path in paths]


def rows(file: InputFile, column: str | None, key: str) -> Iterator[tuple[str, str]]:
    """(`name:row`, text), rows counted from 1; empty ones are left out, in a text file every line is a row.

    Raises InputError for a row that cannot be read or is not text, or where no column has a usual name.
    """
    for number, text in _texts(file, column, key):
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{file.path}: row {number}: a {type(text).__name__}, not text.", "Name another column of this file."
            )
        if text and text.strip():
            yield f"{file.relative}:{number}", text


def _texts(file: InputFile, column: str | None, key: str) -> Iterator[tuple[int, object]]:
    if file.kind == "text":
        with opened(file.path) as stream:
            for line in lines(stream, _LIMITS.max_line_bytes, file.path):
                try:
                    yield line.number, line.data.decode()
                except UnicodeDecodeError as exc:
                    raise InputError(f"{file.path}: row {line.number}: not UTF-8 ({exc}).", "Convert it.") from exc
        return
    corpus = Corpus(path=file.path, text=column or _column(file, key), id=None)
    name = columns_of(corpus, file, _LIMITS).text
    for raw in raw_rows(file, Selection((name,)), _LIMITS):
        for place, number in enumerate(raw.numbers):
            if place in raw.faults:
                detail = raw.faults[place].detail
                raise InputError(f"{file.path}: row {number + 1}: {detail}.", "Fix or remove that row.")
            yield number + 1, raw.values[name][place]


def _column(file: InputFile, key: str) -> str:
    if file.kind in COLUMNAR:
        available: list[str] = list(schema(file.path).names)
    elif file.kind in ("csv", "tsv"):
        available = list(header(file.path, _LIMITS))
    else:
        available = keys_of(first_objects(file, _LIMITS))
    found = usual_name(_NAMES, available)
    if found is None:
        raise InputError(
            f"{file.path}: no column has a usual name of a query or text (columns: {', '.join(available)}).",
            f"Name it as `column:` of {key}, or call it `query`." if "scores" in key else "Call one `query`.",
        )
    return found
