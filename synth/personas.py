"""The persona library, and the personas that each passage is offered.

A persona has a sentence that the model sees, and as a rule words on what it is about, which are embedded. Both sides
are encoded as documents; the search is exact, in blocks of bounded size. The library's vectors are kept in the user's
cache folder under (file hash, model, width, dtype), so a library is encoded once per model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import InputError, RequestRejected, SystemFault
from synth.names import path_of
from synth.stage import Encoder

ABOUT = "about"
"""The column that is embedded."""
BLOCK_BYTES = 64_000_000
"""Largest similarity matrix held at once."""
ENCODE_BLOCK = 4096
"""Personas encoded per call."""
SEARCHED = 4
"""How many times the number of candidates is searched, for passages whose nearest personas are taken."""
_NAMED = 5
"""Personas without a vector that the error names."""


@dataclass(frozen=True, slots=True)
class Library:
    """Personas in file order, each once; `sha256` is of the file's bytes."""

    name: str
    sentences: tuple[str, ...]
    """What the model sees."""
    about: tuple[str, ...]
    """What is embedded: the column `about`, or the sentence itself where a row has none."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Personas:
    """A library ready for search: its unit vectors (personas, width), and the encoder for passages."""

    library: Library
    vectors: NDArray[np.float32]
    encoder: Encoder

    def offer(
        self, passages: NDArray[np.float32], count: int, *, least: float, most: int
    ) -> list[list[tuple[int, float]]]:
        """Up to `count` personas for each passage, nearest first: number in the library and cosine.

        None has a cosine below `least`, none is offered to more than `most` of the passages. Where more want one, the
        nearest of them get it, the others the next that is free among the `SEARCHED` times `count` nearest; a passage
        for which none is free keeps its nearest all the same.
        """
        indices, cosines = nearest(passages, self.vectors, SEARCHED * count if most < len(passages) else count)
        offered: list[list[tuple[int, float]]] = [[] for _ in passages]
        times: Counter[int] = Counter()
        width = indices.shape[1]
        for place in np.argsort(-cosines, axis=None, kind="stable").tolist():
            row, column = divmod(place, width)
            persona, cosine = int(indices[row, column]), float(cosines[row, column])
            if cosine < least:
                break
            if len(offered[row]) < count and times[persona] < most:
                offered[row].append((persona, cosine))
                times[persona] += 1
        for row, found in enumerate(offered):
            if not found and cosines[row, 0] >= least:
                found.append((int(indices[row, 0]), float(cosines[row, 0])))
        return offered


def load_library(path: Path, field: str = "persona") -> Library:
    """Read JSONL, Parquet or plain text, one persona a row. Raises InputError, also for no sentence at all."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: the persona library cannot be read: {exc.strerror}.") from exc
    found = _from_parquet(path, field) if path.suffix == ".parquet" else _from_lines(path, raw, field)
    rows: dict[str, str] = {}
    for persona, about in found:
        if sentence := persona.strip():
            rows.setdefault(sentence, about.strip() or sentence)
    if not rows:
        raise InputError(f"{path}: the persona library holds no personas.", "One sentence a row is expected.")
    return Library(str(path), tuple(rows), tuple(rows.values()), hashlib.sha256(raw).hexdigest())


def _from_lines(path: Path, raw: bytes, field: str) -> Iterator[tuple[str, str]]:
    try:
        lines = raw.decode("utf-8-sig").split("\n")  # not splitlines: a sentence may hold U+2028
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: byte {exc.start} is not UTF-8.", "Convert the persona library with iconv.") from exc
    for number, line in enumerate(lines, 1):
        if path.suffix not in (".jsonl", ".json", ".ndjson"):
            yield line, ""
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise InputError(f"{path}: row {number}: not valid JSON: {exc}.") from exc
            if not isinstance(row, dict) or field not in row:
                keys = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                what = f"field {field}: not there (the row has: {keys})"
                raise InputError(f"{path}: row {number}: {what}.", "Set personas.field to its column.")
            yield _text(path, number, field, row[field]), _text(path, number, ABOUT, row.get(ABOUT) or "")


def _text(path: Path, number: int, field: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{path}: row {number}: field {field}: expects text, not {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InputError(f"{path}: row {number}: field {field}: holds half of a surrogate pair.") from exc
    return text


def _from_parquet(path: Path, field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa  # noqa: PLC0415 - heavy, only Parquet libraries need it
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"{path}: not a readable Parquet file: {exc}.") from exc
    if field not in table.column_names:
        what = f"field {field}: not there (the file has: {', '.join(table.column_names)})"
        raise InputError(f"{path}: {what}.", "Set personas.field to its column.")
    about = table[ABOUT].to_pylist() if ABOUT in table.column_names else [None] * table.num_rows
    for number, (persona, what) in enumerate(zip(table[field].to_pylist(), about, strict=True), 1):
        if persona is not None:
            yield _text(path, number, field, persona), _text(path, number, ABOUT, what or "")


async def encode_library(
    library: Library, encoder: Encoder, model: str, *, remember: bool = True
) -> NDArray[np.float32]:
    """Unit vectors (personas, width), from the cache or encoded now; `model` names all that decides them.

    Raises InputError naming the personas that the embedder refuses.
    """
    folder = cache_folder()
    key = hashlib.sha256(f"2/{library.sha256}/{model}/float32".encode()).hexdigest()[:24]
    cached = folder / f"{key}.npy"
    if (vectors := _load(cached, len(library.sentences))) is not None:
        return vectors
    blocks, without = [], dict[int, RequestRejected]()
    for start in range(0, len(library.about), ENCODE_BLOCK):
        encoded, refused = await encode_all(encoder, library.about[start : start + ENCODE_BLOCK], "document")
        sound = np.isfinite(encoded.vectors).all(axis=1) & encoded.vectors.any(axis=1)
        nothing = RequestRejected("embedding", "no finite vector other than zero")
        without |= {start + int(n): refused.get(int(n), nothing) for n in np.flatnonzero(~sound)}
        blocks.append(encoded.vectors)
    if without:
        named = [f"{library.sentences[n]!r} ({why})" for n, why in list(without.items())[:_NAMED]]
        more = f" and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
        what = f"the embedder gives no vector for {len(without):,} of {len(library.about):,} personas"
        raise InputError(f"{library.name}: {what}: {', '.join(named)}{more}.", "Change or remove them.")
    vectors = np.ascontiguousarray(np.concatenate(blocks), dtype=np.float32)
    if remember and folder.is_absolute():  # it is not for a user without a home
        _store(cached, vectors)
    return vectors


def cache_folder() -> Path:
    """Where persona vectors are kept: `$XDG_CACHE_HOME/synth/personas`, by default below `~/.cache`."""
    return path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "synth" / "personas"


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
