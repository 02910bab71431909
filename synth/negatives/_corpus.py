"""The passages that negatives are taken from: distinct texts with ids, documents and vectors, in files that are mapped.

Half precision, 2 bytes a dimension; beside that the texts themselves, and 40 bytes a passage. Nothing of it is held in
memory: search reads the vectors in blocks, texts are looked up one by one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.encoding import encode_all
from synth.errors import OutputError, ServerRefused, SystemFault
from synth.index import Index, part
from synth.sources.checks import FirstSeen
from synth.stage import Encoder

PART = 8192
"""Passages of one part: embedded in one call, read as one block."""

_FLAT = ("texts", "ids")


class CorpusText(NamedTuple):
    """A passage as it comes; `document` tells the chunks of one document, "" where there is no telling."""

    id: str
    text: str
    document: str = ""


@dataclass(slots=True)
class _Part:
    """The texts of one part, before they are written."""

    ids: list[bytes] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


async def build(
    folder: Path,
    texts: Callable[[], Iterable[CorpusText]],
    encoder: Encoder,
    tell: Callable[[str], None],
    enough: Callable[[int], None] = lambda _: None,
) -> Corpus:
    """Write the index of a corpus in `folder` unless it is there; a killed build goes on at its part.

    Equal texts are one passage, empty ones none. Before the first text is embedded, `enough` is called with the number
    of passages (and may refuse it), and `tell` with what the index will take on the disk. A text whose vector the
    server refuses, or that comes back as NaN, stays without one and is never found. Raises SystemFault where the disk
    has no room, ServerRefused where no text at all gets a vector.
    """
    index = Index(folder)
    if index.manifest() is None:
        index.open_for_build()
        if not index.has("counts"):
            index.put("counts", _write_texts(index, texts()))
        rows, empty, twice = index.get("counts", "<i8").tolist()
        if empty:
            tell(f"index: {empty:,} rows without a usable text are left out")
        enough(rows)
        width, without = await _embed(index, rows, encoder, tell)
        _sort(index, rows)
        facts = {"passages": rows, "width": width, "without_vector": without, "empty": empty, "duplicates": twice}
        index.finish(facts)
    corpus = Corpus(folder)
    enough(corpus.count)
    return corpus


def _write_texts(index: Index, texts: Iterable[CorpusText]) -> NDArray[np.int64]:
    seen, current = FirstSeen(), _Part()
    rows = empty = twice = 0
    for each in texts:
        if not each.text.strip():
            empty += 1
            continue
        content = each.text.encode("utf-8", "surrogatepass")
        digest = _digest(content)
        if seen.add(digest, rows) is not None:
            twice += 1
            continue
        current.ids.append(each.id.encode("utf-8", "surrogatepass"))
        current.texts.append(content)
        current.documents.append(document_key(each.document) if each.document else 0)
        current.digests.append(digest[:8])
        rows += 1
        if rows % PART == 0:
            _write_part(index, rows // PART - 1, current)
            current = _Part()
    if current.texts:
        _write_part(index, rows // PART, current)
    return np.array([rows, empty, twice], "<i8")


def _write_part(index: Index, number: int, made: _Part) -> None:
    for name, values in zip(_FLAT, (made.texts, made.ids), strict=True):
        index.put(part(name, number), np.frombuffer(b"".join(values), np.uint8))
        index.put(part(f"{name}.ends", number), np.cumsum([len(value) for value in values], dtype="<i8"))
    index.put(part("documents", number), np.array(made.documents, "<u8"))
    index.put(part("digests", number), np.frombuffer(b"".join(made.digests), "<u8"))


async def _embed(index: Index, rows: int, encoder: Encoder, tell: Callable[[str], None]) -> tuple[int, int]:
    """Vectors of every part that has none yet; (width, passages without a vector)."""
    numbers = range(-(-rows // PART))
    if not numbers:
        return 0, 0
    width = await _width(index, encoder)
    missing = [n for n in numbers if not index.has(part("vectors", n))]
    _say_size(index, rows, width, len(missing), tell)
    for number in missing:
        texts = list(_texts(index, number))
        encoded, _ = await encode_all(encoder, texts, "document")
        vectors = np.asarray(encoded.vectors, np.float32)
        if vectors.shape not in ((len(texts), width), (len(texts), 0)):
            raise ServerRefused(
                f"embed: {len(texts)} texts went in, an array of shape {vectors.shape} came back, not {width} wide.",
                "All servers must serve one model, also after a restart.",
            )
        index.put(part("vectors", number), usable(vectors, width).astype("<f2"))
        if number % 16 == 0:
            tell(f"index: {min((number + 1) * PART, rows):,} of {rows:,} passages embedded")
    parts = (index.get(part("vectors", n), "<f2", width) for n in numbers)
    without = sum(int((~each.any(axis=1)).sum()) for each in parts)
    if without == rows:
        raise ServerRefused("embed: no passage got a usable vector.", "Check the model's dtype on the server.")
    return width, without


async def _width(index: Index, encoder: Encoder) -> int:
    """Dimensions of the encoder's vectors, by the first text that gets one."""
    if index.has(part("vectors", 0)):
        rows = len(index.get(part("digests", 0), "<u8"))
        return len(index.get(part("vectors", 0), "<f2")) // rows
    for text in _texts(index, 0):
        encoded, _ = await encode_all(encoder, [text], "document")
        if encoded.vectors.shape[1]:
            return int(encoded.vectors.shape[1])
    raise ServerRefused("embed: the server refuses every text.", "Check its longest input.")


def usable(vectors: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Unit vectors of `width`; zeros in place of NaN, infinity and nothing."""
    if vectors.shape[1] != width:
        return np.zeros((len(vectors), width), np.float32)
    found = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    return np.where(good, found / np.where(good, lengths, 1.0), 0.0).astype(np.float32)


def _say_size(index: Index, rows: int, width: int, parts: int, tell: Callable[[str], None]) -> None:
    needed = min(parts * PART, rows) * 2 * width + rows * 32
    free = shutil.disk_usage(index.folder).free
    tell(
        f"index: {rows:,} passages, {width} dimensions: {2 * rows * width / 1e6:,.1f} MB of vectors "
        f"in {index.folder} ({free / 1e9:,.1f} GB free)"
    )
    if needed > free:
        raise SystemFault(
            f"{index.folder}: the index needs {needed / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free.",
            "Free space on that disk, then run the same command again.",
        )


def _sort(index: Index, rows: int) -> None:
    """Where each digest and each document stands, ascending, for lookups by halving."""
    for name in ("digests", "documents"):
        parts = [index.get(part(name, n), "<u8") for n in range(-(-rows // PART))]
        values = np.concatenate([np.empty(0, "<u8"), *parts])
        order = np.argsort(values, kind="stable")
        index.put(f"{name}.sorted", values[order])
        index.put(f"{name}.rows", order.astype("<i8"))


def _texts(index: Index, number: int) -> Iterator[str]:
    content = bytes(index.get(part("texts", number), np.uint8))
    start = 0
    for end in index.get(part("texts.ends", number), "<i8").tolist():
        yield content[start:end].decode("utf-8", "surrogatepass")
        start = end


class Corpus:
    """A finished index. Rows count from 0 in the order of the texts."""

    def __init__(self, folder: Path) -> None:
        self._index = Index(folder)
        self.facts: Mapping[str, Any] = self._index.complete()
        self.count = int(self.facts["passages"])
        self.width = int(self.facts["width"])
        self._maps: dict[str, NDArray[Any]] = {}
        self._flats: dict[tuple[str, int], tuple[NDArray[Any], memoryview]] = {}

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first row, float16 (m, width)) of all vectors."""
        for first in range(0, self.count, PART):
            yield first, self._index.get(part("vectors", first // PART), "<f2", self.width)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Vectors of some rows: float16 (n, width)."""
        found = np.empty((len(rows), self.width), "<f2")
        numbers = rows // PART
        for number in np.unique(numbers).tolist():
            here = numbers == number
            vectors = self._index.get(part("vectors", number), "<f2", self.width)
            found[here] = vectors[rows[here] - number * PART]
        return found

    def texts(self) -> Iterator[str]:
        """All texts in order."""
        for number in range(-(-self.count // PART)):
            yield from _texts(self._index, number)

    def text(self, row: int) -> str:
        """The text of a row."""
        return self._flat("texts", row)

    def id(self, row: int) -> str:
        """The id of a row: that of the first passage with its text."""
        return self._flat("ids", row)

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The row of each text, -1 for an empty one. Raises OutputError where one is not in the index."""
        keys = np.array([_key(text) for text in texts], np.uint64)
        found = self._lookup("digests", keys)
        if lost := [n for n, row in enumerate(found.tolist()) if row < 0 and texts[n].strip()]:
            raise OutputError(
                f"{self._index.folder}: the index lacks the passage {texts[lost[0]][:60]!r}.",
                f"Remove {self._index.folder} and run again.",
            )
        return found

    def chunks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """All rows of the documents that these rows belong to, themselves among them; ascending."""
        keys = {int(self._part("documents", row // PART, "<u8")[row % PART]) for row in rows.tolist()} - {0}
        if not keys:
            return np.empty(0, np.int64)
        places, at = self._mapped("documents.rows", "<i8"), self._mapped("documents.sorted", "<u8")
        ends = [(np.searchsorted(at, np.uint64(key)), np.searchsorted(at, np.uint64(key), "right")) for key in keys]
        return np.unique(np.concatenate([places[low:high] for low, high in ends]))

    def _lookup(self, name: str, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        at, places = self._mapped(f"{name}.sorted", "<u8"), self._mapped(f"{name}.rows", "<i8")
        place = np.searchsorted(at, keys)
        inside = place < len(at)
        found = np.full(len(keys), -1, np.int64)
        where = np.flatnonzero(inside)[at[place[inside]] == keys[inside]]
        found[where] = places[place[where]]
        return found

    def _flat(self, name: str, row: int) -> str:
        number, place = divmod(row, PART)
        if (name, number) not in self._flats:
            if len(self._flats) >= _MAPPED:
                del self._flats[next(iter(self._flats))]
            self._flats[name, number] = (
                self._part(f"{name}.ends", number, "<i8"),
                self._part(name, number, np.uint8).data,
            )
        ends, content = self._flats[name, number]
        start = int(ends[place - 1]) if place else 0
        return str(content[start : int(ends[place])], "utf-8", "surrogatepass")

    def _part(self, name: str, number: int, kind: Any) -> NDArray[Any]:
        return self._mapped(part(name, number), kind)

    def _mapped(self, name: str, kind: Any) -> NDArray[Any]:
        if name not in self._maps:
            while len(self._maps) >= _MAPPED:  # a map holds a file descriptor
                del self._maps[next(iter(self._maps))]
            self._maps[name] = self._index.get(name, kind).view(np.ndarray)  # whose slices cost a tenth
        return self._maps[name]


_MAPPED = 256


def document_key(document: str) -> int:
    """64 bits that tell one document from another, never 0."""
    return _key(document) or 1


def _key(text: str) -> int:
    return int.from_bytes(_digest(text.encode("utf-8", "surrogatepass"))[:8], "little")


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
