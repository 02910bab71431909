"""The persona library, and the personas nearest to each passage.

Both sides are encoded as documents; the search is exact, in blocks of bounded size. The library's vectors are kept in
the user's cache folder under (file hash, model, width, dtype), so a library is encoded once per model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.errors import InputError, SystemFault
from synth.stage import Encoder

BLOCK_BYTES = 64_000_000
"""Largest similarity matrix held at once."""
ENCODE_BLOCK = 4096
"""Personas encoded per call."""


@dataclass(frozen=True, slots=True)
class Library:
    """Persona sentences in file order, each once; `sha256` is of the file's bytes."""

    name: str
    sentences: tuple[str, ...]
    sha256: str


def load_library(path: Path, field: str = "persona") -> Library:
    """Read JSONL, Parquet or plain text, one persona a row. Raises InputError, also for no sentence at all."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: the persona library cannot be read: {exc.strerror}.") from exc
    found = _from_parquet(path, field) if path.suffix == ".parquet" else _from_lines(path, raw, field)
    sentences = tuple(dict.fromkeys(text for each in found if (text := each.strip())))
    if not sentences:
        raise InputError(f"{path}: the persona library holds no personas.", "One sentence a row is expected.")
    return Library(str(path), sentences, hashlib.sha256(raw).hexdigest())


def _from_lines(path: Path, raw: bytes, field: str) -> Iterator[str]:
    try:
        lines = raw.decode("utf-8-sig").split("\n")  # not splitlines: a sentence may hold U+2028
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: byte {exc.start} is not UTF-8.", "Convert the persona library with iconv.") from exc
    for number, line in enumerate(lines, 1):
        if path.suffix not in (".jsonl", ".json", ".ndjson"):
            yield line
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise InputError(f"{path}: row {number}: not valid JSON: {exc}.") from exc
            yield _sentence(path, number, row, field)


def _sentence(path: Path, number: int, row: Any, field: str) -> str:
    if not isinstance(row, dict) or field not in row:
        keys = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        what = f"field {field}: not there (the row has: {keys})"
        raise InputError(f"{path}: row {number}: {what}.", "Set personas.field to its column.")
    text = row[field]
    if not isinstance(text, str):
        raise InputError(f"{path}: row {number}: field {field}: expects text, not {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InputError(f"{path}: row {number}: field {field}: holds half of a surrogate pair.") from exc
    return text


def _from_parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415 - heavy, only Parquet libraries need it
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"{path}: not a readable Parquet file: {exc}.") from exc
    if field not in table.column_names:
        what = f"field {field}: not there (the file has: {', '.join(table.column_names)})"
        raise InputError(f"{path}: {what}.", "Set personas.field to its column.")
    for number, text in enumerate(table[field].to_pylist(), 1):
        if text is not None:
            yield _sentence(path, number, {field: text}, field)


async def encode_library(
    library: Library, encoder: Encoder, model: str, *, remember: bool = True
) -> NDArray[np.float32]:
    """Unit vectors (personas, width), from the cache or encoded now; `model` names all that decides them."""
    folder = cache_folder()
    key = hashlib.sha256(f"1/{library.sha256}/{model}/float32".encode()).hexdigest()[:24]
    cached = folder / f"{key}.npy"
    if (vectors := _load(cached, len(library.sentences))) is not None:
        return vectors
    blocks = [
        (await encoder.encode(library.sentences[start : start + ENCODE_BLOCK], "document")).vectors
        for start in range(0, len(library.sentences), ENCODE_BLOCK)
    ]
    vectors = np.ascontiguousarray(np.concatenate(blocks), dtype=np.float32)
    if remember:
        _store(cached, vectors)
    return vectors


def cache_folder() -> Path:
    """Where persona vectors are kept: `$XDG_CACHE_HOME/synth/personas`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "synth" / "personas"


def _load(path: Path, rows: int) -> NDArray[np.float32] | None:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:  # noqa: PLR2004 - rows and width
        return None
    # A page that the disk lost reads as zeros, and would make its personas the nearest of nobody.
    return vectors if np.allclose(np.einsum("ij,ij->i", vectors, vectors), 1.0, atol=1e-3) else None


def _store(path: Path, vectors: NDArray[np.float32]) -> None:
    """Written aside and renamed, so that a killed run leaves no half cache; a cache that cannot be written is none."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()


def nearest(
    passages: NDArray[np.float32], personas: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `count` nearest personas of each passage, nearest first, ties to the lower index.

    Takes unit vectors (passages, width) and (personas, width); gives indices and cosines, both (passages, count).
    Raises SystemFault when the widths differ: the cache belongs to another model.
    """
    if passages.shape[1] != personas.shape[1]:
        what = f"persona vectors are {personas.shape[1]} wide, passage vectors {passages.shape[1]}"
        raise SystemFault(f"{what}.", f"Remove {cache_folder()} and run again.")
    count = min(count, len(personas))
    indices = np.empty((len(passages), count), np.int64)
    cosines = np.empty((len(passages), count), np.float32)
    step = max(1, BLOCK_BYTES // (4 * len(personas)))
    for start in range(0, len(passages), step):
        block = passages[start : start + step] @ personas.T
        top = _largest(block, count)
        order = np.argsort(-np.take_along_axis(block, top, axis=1), axis=1, kind="stable")
        indices[start : start + step] = np.take_along_axis(top, order, axis=1)
        cosines[start : start + step] = np.take_along_axis(block, indices[start : start + step], axis=1)
    return indices, cosines


def _largest(block: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Columns of the `count` largest values of each row, in ascending order; of equal ones the first."""
    width = block.shape[1]
    if count == width:
        return np.broadcast_to(np.arange(width), block.shape).copy()
    top = np.argpartition(block, width - count, axis=1)[:, width - count :]
    top.sort(axis=1)
    # The partition takes any of several equal values at the border; which one must not depend on its algorithm.
    border = np.take_along_axis(block, top, axis=1).min(axis=1, keepdims=True)
    for row in np.flatnonzero((block >= border).sum(axis=1) > count):
        top[row] = np.sort(np.argsort(-block[row], kind="stable")[:count])
    return top
