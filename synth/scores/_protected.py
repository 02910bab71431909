"""The rows of files that a user wants no training pair to resemble: benchmark queries, own test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from synth.errors import InputError, JobError, SystemFault
from synth.sources import Corpus, InputFile, ReadLimits
from synth.sources.columns import TEXT_NAMES, keys_of
from synth.sources.csvs import header
from synth.sources.files import kind_of
from synth.sources.parquet import schema
from synth.sources.readers import check_content, columns_of, first_rows, raw_rows
from synth.sources.streams import lines, opened

_NAMES = ("query", "question", "queries", "anchor", "prompt", "sentence", "sentence1", *TEXT_NAMES)
_LIMITS = ReadLimits()


def described(files: Sequence[str]) -> list[InputFile]:
    """The files as they are now; relative paths start from the working directory.

    Raises JobError where one is not there, InputError where it is not what its name says, SystemFault.
    """
    return [_described(str(Path(path).expanduser().absolute())) for path in files]


def rows(file: InputFile, column: str | None) -> Iterator[tuple[str, str]]:
    """(`name:row`, text), rows counted from 1; empty ones are left out, in a text file every line is a row.

    Raises InputError for a row that cannot be read or is not text, or where no column has a usual name.
    """
    for number, text in _texts(file, column):
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{file.path}: row {number}: a {type(text).__name__}, not text.", "Name another column of this file."
            )
        if text and text.strip():
            yield f"{file.relative}:{number}", text


def _texts(file: InputFile, column: str | None) -> Iterator[tuple[int, object]]:
    if file.kind == "text":
        with opened(file.path) as stream:
            for line in lines(stream, _LIMITS.line, file.path):
                try:
                    yield line.number, line.data.decode()
                except UnicodeDecodeError as exc:
                    raise InputError(f"{file.path}: row {line.number}: not UTF-8 ({exc}).", "Convert it.") from exc
        return
    corpus = Corpus(path=file.path, text=column or _column(file), id=None)
    for row in raw_rows(file, columns_of(corpus, file, _LIMITS), _LIMITS, None):
        if row.fault is not None:
            raise InputError(f"{file.path}: row {row.row + 1}: {row.fault.detail}.", "Mend or remove that row.")
        yield row.row + 1, row.text


def _column(file: InputFile) -> str:
    if file.kind == "parquet":
        available: list[str] = list(schema(file.path).names)
    elif file.kind in ("csv", "tsv"):
        available = list(header(file.path, _LIMITS))
    else:
        available = keys_of(first_rows(file, _LIMITS))
    folded = {name.casefold(): name for name in reversed(available)}
    found = next((folded[name] for name in _NAMES if name in folded), None)
    if found is None:
        raise InputError(
            f"{file.path}: no column has a usual name of a query or text (columns: {', '.join(available)}).",
            "Name it: `column:` of the score contamination.",
        )
    return found


def _described(path: str) -> InputFile:
    try:
        status = Path(path).stat()
        return _hashed(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as exc:
        raise JobError(f"scores: contamination: there is no file {path}.", "Check `files`.") from exc
    except OSError as exc:
        raise SystemFault(f"{path}: {exc.strerror}.", "Change its permissions, then run again.") from exc


@lru_cache(maxsize=64)
def _hashed(path: str, size: int, mtime_ns: int) -> InputFile:
    if not Path(path).is_file():
        raise InputError(f"{path}: not an ordinary file.", "Name files, not folders.")
    kind = kind_of(Path(path))
    check_content(Path(path), kind, size)
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    name = Path(path).name
    return InputFile(0, "contamination", path, name, kind, size, mtime_ns, digest, None)
