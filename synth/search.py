"""Exact search: an index of passages on disk, and the passages nearest to a query.

Files of an index are written once each, whole or absent, and the manifest comes last. Vectors are kept in half
precision and read in blocks; ranks and scores are exact for the vectors as kept. Mining searches a `Corpus`, the
round-trip scorer an index of its own, both through `retrieve`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from synth.batching import encode_all
from synth.errors import OutputError, ServerRefused, SystemFault
from synth.shards import disk
from synth.sources.checks import FirstSeen
from synth.stage import Encoder
from synth.types import Notify

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

BLOCK = 8192
"""Passages of one file of vectors: embedded in one call, multiplied at once."""
_QUERIES = 1024  # multiplied at once
_EXACT = 4096  # products computed in float64 at once
_OPEN = 256  # arrays that stay mapped: each one takes a file descriptor


class Index:
    """Arrays in one folder. Several builders may work at once: they write the same bytes, and the first one wins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_for_build(self) -> None:
        for path in (self.folder, self.folder / "tmp"):
            disk.make_folder(path)

    def manifest(self) -> dict[str, Any] | None:
        """What a finished build recorded; None while it is unfinished. Raises OutputError where it is damaged."""
        path = self.folder / "manifest.json"
        try:
            found: dict[str, Any] | None = json.loads(disk.read_whole(path)) if disk.exists(path) else None
        except ValueError as exc:
            raise self._damaged(path, exc) from exc
        return found

    def finish(self, facts: Mapping[str, Any]) -> None:
        self._create("manifest.json", (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())

    def complete(self) -> dict[str, Any]:
        """The manifest of a finished index. Raises OutputError where there is none."""
        found = self.manifest()
        if found is None:
            raise OutputError(f"{self.folder}: the index is not complete.", "Run the same command again.")
        return found

    def has(self, name: str) -> bool:
        return disk.exists(self.folder / name)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write an array's bytes, row after row, unless the name exists; durable when this returns."""
        self._create(name, np.ascontiguousarray(array).tobytes())

    def get(self, name: str, dtype: DTypeLike, width: int | None = None) -> NDArray[Any]:
        """A written array of shape (rows,) or (rows, width), mapped and not read. Raises OutputError, SystemFault."""
        path, kind = self.folder / name, np.dtype(dtype)
        shape = (-1,) if width is None else (-1, width)
        with disk.disk_errors(path):
            size = path.stat().st_size
            if size % (kind.itemsize * (width or 1)):
                raise self._damaged(path, f"{size} bytes")
            if not size:
                return np.empty((0,) if width is None else (0, width), kind)
            return np.memmap(path, kind, mode="r").reshape(shape)

    def _create(self, name: str, content: bytes) -> None:
        disk.create_once(self.folder / "tmp", self.folder / name, content)

    def _damaged(self, path: Path, why: object) -> OutputError:
        return OutputError(f"{path}: is damaged: {why}.", f"Remove {self.folder} and run again.")


def part(name: str, number: int) -> str:
    """The file of an array that is written in parts, for instance shard by shard."""
    return f"{name}-{number:08d}.bin"


class CorpusText(NamedTuple):
    """A passage to index. Passages with the same `document` are chunks of one document; "" means it has no other."""

    id: str
    text: str
    document: str = ""


async def build(
    folder: Path,
    texts: Callable[[], Iterable[CorpusText]],
    encoder: Encoder,
    notify: Notify,
    check: Callable[[int], None] = lambda _: None,
    stored: Callable[[Sequence[str]], NDArray[Any]] | None = None,
) -> Corpus:
    """Build the index of a corpus in `folder` unless it exists; an interrupted build resumes at its part.

    Equal texts are indexed once, empty ones not at all. Before the first text is embedded, `check` is called with the
    number of passages (and may refuse it), and `notify` with the size of the index. A text whose vector the server
    refuses, or that comes back as NaN, has no vector and is never found. `stored` gives texts the vectors that they
    have had before, zeros to others. Raises SystemFault where the disk is too full, ServerRefused where no text gets a
    vector.
    """
    index = Index(folder)
    if index.manifest() is None:
        index.open_for_build()
        if not index.has("counts"):
            index.put("counts", _write_texts(index, texts()))
        rows, empty, duplicates = index.get("counts", "<i8").tolist()
        if empty:
            notify(f"index: skipped {empty:,} rows without usable text")
        check(rows)
        width, without = await _embed(index, rows, encoder, stored, notify)
        for name in ("digests", "documents"):  # sorted, for lookups by binary search
            parts = [index.get(part(name, number), "<u8") for number in range(-(-rows // BLOCK))]
            values = np.concatenate([np.empty(0, "<u8"), *parts])
            order = np.argsort(values, kind="stable")
            index.put(f"{name}.sorted", values[order])
            index.put(f"{name}.rows", order.astype("<i8"))
        counts = {"passages": rows, "width": width, "without_vector": without}
        index.finish(counts | {"empty": empty, "duplicates": duplicates})
    corpus = Corpus(folder)
    check(corpus.count)
    return corpus


def _write_texts(index: Index, texts: Iterable[CorpusText]) -> Rows:
    """Write all distinct texts; how many rows, empty ones and duplicates there were."""
    seen = FirstSeen()
    current: list[tuple[bytes, bytes, int, bytes]] = []
    rows = empty = duplicates = 0
    for each in texts:
        if not each.text.strip():
            empty += 1
            continue
        key = digest(each.text)
        if seen.add(key, rows) is not None:
            duplicates += 1
            continue
        document = (_key(each.document) or 1) if each.document else 0
        current.append((_encoded(each.id), _encoded(each.text), document, key[:8]))
        rows += 1
        if rows % BLOCK == 0:
            _write_part(index, rows // BLOCK - 1, current)
            current = []
    if current:
        _write_part(index, rows // BLOCK, current)
    return np.array([rows, empty, duplicates], "<i8")


def _write_part(index: Index, number: int, rows: Sequence[tuple[bytes, bytes, int, bytes]]) -> None:
    ids, texts, documents, digests = zip(*rows, strict=True)
    for name, values in (("texts", texts), ("ids", ids)):
        index.put(part(name, number), np.frombuffer(b"".join(values), np.uint8))
        index.put(part(f"{name}.ends", number), np.cumsum([len(value) for value in values], dtype="<i8"))
    index.put(part("documents", number), np.array(documents, "<u8"))
    index.put(part("digests", number), np.frombuffer(b"".join(digests), "<u8"))


async def _embed(
    index: Index,
    rows: int,
    encoder: Encoder,
    stored: Callable[[Sequence[str]], NDArray[Any]] | None,
    notify: Notify,
) -> tuple[int, int]:
    """Write the vectors of every part that has none yet; (width, passages without a vector)."""
    numbers = range(-(-rows // BLOCK))
    if not rows:
        return 0, 0
    width = stored(()).shape[1] if stored else await _width(index, encoder)
    missing = [n for n in numbers if not index.has(part("vectors", n))]
    needed, free = min(len(missing) * BLOCK, rows) * 2 * width + rows * 32, shutil.disk_usage(index.folder).free
    size = f"{2 * rows * width / 1e6:,.1f} MB of vectors in {index.folder} ({free / 1e9:,.1f} GB free)"
    notify(f"index: {rows:,} passages, {width} dimensions: {size}")
    if needed > free:
        what = f"the index needs {needed / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free."
        raise SystemFault(f"{index.folder}: {what}", "Free space on that disk, then run the same command again.")
    for number in missing:
        texts = list(_texts(index, number))
        found = stored(texts) if stored else np.zeros((len(texts), width), "<f2")
        if new := np.flatnonzero(~found.any(axis=1)).tolist():
            encoded, _ = await encode_all(encoder, [texts[n] for n in new], "document")
            vectors = np.asarray(encoded.vectors, np.float32)
            if vectors.shape not in ((len(new), width), (len(new), 0)):
                raise ServerRefused(
                    f"embed: sent {len(new)} texts and got an array of shape {vectors.shape}, not of width {width}.",
                    "All servers must serve one model, also after a restart.",
                )
            found[new] = usable(vectors, width)
        index.put(part("vectors", number), found)
        if number % 16 == 0:
            notify(f"index: {min((number + 1) * BLOCK, rows):,} of {rows:,} passages embedded")
    parts = (index.get(part("vectors", n), "<f2", width) for n in numbers)
    without = sum(int((~each.any(axis=1)).sum()) for each in parts)
    if without == rows:
        raise ServerRefused("embed: no passage got a usable vector.", "Check the model's dtype on the server.")
    return width, without


async def _width(index: Index, encoder: Encoder) -> int:
    """Dimensions of the encoder's vectors, from the first text that gets one."""
    if index.has(part("vectors", 0)):
        return len(index.get(part("vectors", 0), "<f2")) // len(index.get(part("digests", 0), "<u8"))
    for text in _texts(index, 0):
        encoded, _ = await encode_all(encoder, [text], "document")
        if encoded.vectors.shape[1]:
            return int(encoded.vectors.shape[1])
    raise ServerRefused("embed: the server refuses every text.", "Check its maximum input length.")


def usable(vectors: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Unit vectors of `width`; zeros in place of NaN, infinity and missing vectors."""
    if vectors.shape[1] != width:
        return np.zeros((len(vectors), width), np.float32)
    found = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    return np.where(good, found / np.where(good, lengths, 1.0), 0.0).astype(np.float32)


def _texts(index: Index, number: int) -> Iterator[str]:
    content = bytes(index.get(part("texts", number), np.uint8))
    start = 0
    for end in index.get(part("texts.ends", number), "<i8").tolist():
        yield content[start:end].decode("utf-8", "surrogatepass")
        start = end


class Vectors:
    """The vectors of an index in half precision, zeros for a passage without one. Rows count from 0 over all parts."""

    def __init__(self, index: Index, width: int, counts: Mapping[int, int], name: str = "vectors") -> None:
        """`counts`: how many passages each part of `name` has."""
        self.width, self._index, self._name = width, index, name
        self._numbers, self._ends = list(counts), np.cumsum([0, *counts.values()])[1:]

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first row, float16 (m, width)) of all vectors, m at most `BLOCK`."""
        first = 0
        for number in self._numbers:
            vectors = self._index.get(part(self._name, number), "<f2", self.width)
            for start in range(0, len(vectors), BLOCK):
                yield first + start, vectors[start : start + BLOCK]
            first += len(vectors)

    def gather(self, rows: Rows) -> NDArray[Any]:
        """Vectors of some rows: float16 (n, width)."""
        found = np.empty((len(rows), self.width), "<f2")
        places = np.searchsorted(self._ends, rows, side="right")
        for place in np.unique(places).tolist():
            here = places == place
            vectors = self._index.get(part(self._name, self._numbers[place]), "<f2", self.width)
            found[here] = vectors[rows[here] - self._ends[place] + len(vectors)]
        return found


class Corpus(Vectors):
    """A finished index of a corpus, in parts of `BLOCK` passages, in the order of the texts."""

    def __init__(self, folder: Path) -> None:
        index = Index(folder)
        self.facts: Mapping[str, Any] = index.complete()
        self.count = int(self.facts["passages"])
        starts = range(0, self.count, BLOCK)
        counts = {n: min(BLOCK, self.count - start) for n, start in enumerate(starts)}
        super().__init__(index, int(self.facts["width"]), counts)
        # Arrays, because a memmap's slices cost ten times more.
        self._array = lru_cache(maxsize=_OPEN)(lambda name, kind: index.get(name, kind).view(np.ndarray))

    def texts(self) -> Iterator[str]:
        return (text for number in range(-(-self.count // BLOCK)) for text in _texts(self._index, number))

    def text(self, row: int) -> str:
        return self._string("texts", row)

    def id(self, row: int) -> str:
        """The id of a row: that of the first passage with its text."""
        return self._string("ids", row)

    def rows(self, texts: Sequence[str]) -> Rows:
        """The row of each text, -1 for an empty one. Raises OutputError for a text that is not in the index."""
        keys = np.array([_key(text) for text in texts], np.uint64)
        known, rows = self._array("digests.sorted", "<u8"), self._array("digests.rows", "<i8")
        place = np.searchsorted(known, keys)
        inside = place < len(known)
        where = np.flatnonzero(inside)[known[place[inside]] == keys[inside]]
        found = np.full(len(keys), -1, np.int64)
        found[where] = rows[place[where]]
        if missing := [n for n, row in enumerate(found.tolist()) if row < 0 and texts[n].strip()]:
            folder, text = self._index.folder, texts[missing[0]][:60]
            raise OutputError(f"{folder}: the index lacks the passage {text!r}.", f"Remove {folder} and run again.")
        return found

    def chunks(self, rows: Rows) -> Rows:
        """All rows of the documents that these rows belong to, including these; ascending."""
        keys = {int(self._array(part("documents", n // BLOCK), "<u8")[n % BLOCK]) for n in rows.tolist()} - {0}
        if not keys:
            return np.empty(0, np.int64)
        places, known = self._array("documents.rows", "<i8"), self._array("documents.sorted", "<u8")
        wanted = np.array(sorted(keys), np.uint64)
        ends = zip(np.searchsorted(known, wanted), np.searchsorted(known, wanted, "right"), strict=True)
        return np.unique(np.concatenate([places[low:high] for low, high in ends]))

    def _string(self, name: str, row: int) -> str:
        number, place = divmod(row, BLOCK)
        ends, content = self._array(part(f"{name}.ends", number), "<i8"), self._array(part(name, number), "u1")
        start = int(ends[place - 1]) if place else 0
        return content[start : int(ends[place])].tobytes().decode("utf-8", "surrogatepass")


def _key(text: str) -> int:
    return int.from_bytes(digest(text)[:8], "little")


def digest(text: str) -> bytes:
    """16 bytes that stand for a text in an index."""
    return blake2b(_encoded(text), digest_size=16).digest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Hits:
    """What each of n queries found, best first: rows int64 (n, k), -1 at the end, and scores float64 (n, k), -inf.

    `ahead` int64 (n,): how many passages score more than the query's reference, where one was given.
    """

    rows: Rows
    scores: Scores
    ahead: Rows = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Excluded:
    """Passages that a query must not find: int64 (m,) each, ascending by row."""

    query: Rows
    row: Rows

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, Rows]]) -> Excluded:
        """From (query, rows) pairs."""
        rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in pairs)])
        query = np.repeat(np.array([n for n, _ in pairs], np.int64), [len(rows) for _, rows in pairs])
        order = np.argsort(rows, kind="stable")
        return cls(query[order], rows[order])

    def within(self, first: int, count: int) -> Excluded:
        low, high = np.searchsorted(self.row, (first, first + count))
        return Excluded(self.query[low:high], self.row[low:high] - first)

    def of_queries(self, start: int, stop: int) -> Excluded:
        mine = (self.query >= start) & (self.query < stop)
        return Excluded(self.query[mine] - start, self.row[mine])


def retrieve(
    queries: NDArray[np.float32], vectors: Vectors, depth: int, excluded: Excluded, reference: Scores | None = None
) -> Hits:
    """The `depth` nearest passages of each query, nearest first, of equal ones the lower row first.

    With `reference` (n,), `Hits.ahead` counts the passages whose score is strictly greater. A passage without a vector
    is never found. One pass over the vectors, whatever the number of queries; the result does not depend on which
    queries are searched together.
    """
    tiles = []
    for start in range(0, len(queries), _QUERIES):
        stop = start + _QUERIES
        own = None if reference is None else reference[start:stop]
        tiles.append(_Tile(queries[start:stop], depth, excluded.of_queries(start, stop), own))
    room = np.empty(0, np.float32)  # for products; fresh memory for each block would cost as much as multiplying
    for first, stored in vectors.blocks():
        block = stored.astype(np.float32)
        absent = np.flatnonzero(~block.any(axis=1))
        if room.size < _QUERIES * len(block):
            room = np.empty(_QUERIES * len(block), np.float32)
        for tile in tiles:
            tile.see(first, block, absent, room)
    found = [tile.hits(vectors) for tile in tiles]
    every = [Hits(np.empty((0, depth), np.int64), np.empty((0, depth), np.float64)), *found]
    rows, scores = np.concatenate([each.rows for each in every]), np.concatenate([each.scores for each in every])
    return Hits(rows, scores, np.concatenate([each.ahead for each in every]))


class _Tile:
    """Some queries and the candidates they have met: flat arrays of query, row and rough product."""

    def __init__(self, queries: NDArray[np.float32], depth: int, excluded: Excluded, reference: Scores | None) -> None:
        self._queries, self._depth, self._excluded, self._reference = queries, depth, excluded, reference
        self._met: list[tuple[Rows, Rows, NDArray[np.float32]]] = []
        self._waiting = 0
        self._ahead = np.zeros(len(queries), np.int64)
        self._floor = np.full(len(queries), -np.inf, np.float32)
        # The error of a float32 product of unit vectors is below width * 2^-24 (Higham 2002, 3.1). Twice that, and once
        # more for vectors that half precision made a little longer than 1; twice as much where both sides may be off.
        self._doubt = queries.shape[1] * 2.0**-22
        self._slack = np.float32(2 * self._doubt)

    def see(self, first: int, block: NDArray[np.float32], absent: NDArray[np.intp], room: NDArray[np.float32]) -> None:
        shape = (len(self._queries), len(block))
        products = room[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self._queries, block.T, out=products)
        products[:, absent] = -np.inf
        excluded = self._excluded.within(first, len(block))
        products[excluded.query, excluded.row] = -np.inf
        if self._reference is not None:
            self._count(products, block, self._reference)
        if not self._met and len(block) > self._depth:
            lowest = np.partition(products, len(block) - self._depth, axis=1)[:, len(block) - self._depth]
            self._floor = lowest - self._slack
        found = np.flatnonzero(products > self._floor[:, None])
        query, passage = np.divmod(found, len(block))
        self._met.append((query, passage + first, products.reshape(-1)[found]))
        self._waiting += len(found)
        if self._waiting > len(self._queries) * self._depth:
            self._cut()

    def _count(self, products: NDArray[np.float32], block: NDArray[np.float32], reference: Scores) -> None:
        """Count what scores more than the reference; products too near to it to tell are computed exactly."""
        high, low = (bound.astype(np.float32)[:, None] for bound in (reference + self._doubt, reference - self._doubt))
        surely = products > np.nextafter(high, np.float32(np.inf))
        perhaps = products >= np.nextafter(low, np.float32(-np.inf))
        self._ahead += np.count_nonzero(surely, axis=1)
        query, passage = np.divmod(np.flatnonzero(surely ^ perhaps), len(block))
        for start in range(0, len(query), _EXACT):
            some, rows = query[start : start + _EXACT], passage[start : start + _EXACT]
            exact = (block[rows].astype(np.float64) * self._queries[some]).sum(axis=1)
            np.add.at(self._ahead, some[exact > reference[some]], 1)

    def _cut(self) -> None:
        query, row, rough = map(np.concatenate, zip(*self._met, strict=True))
        order = np.lexsort((np.negative(rough), query))
        query, row, rough = query[order], row[order], rough[order]
        counts = np.bincount(query, minlength=len(self._queries))
        last = np.cumsum(counts) - counts + self._depth - 1
        full = counts >= self._depth
        self._floor[full] = rough[last[full]] - self._slack
        kept = rough > self._floor[query]
        self._met = [(query[kept], row[kept], rough[kept])]
        self._waiting = 0

    def hits(self, vectors: Vectors) -> Hits:
        rows = np.full((len(self._queries), self._depth), -1, np.int64)
        scores = np.full(rows.shape, -np.inf)
        if self._met:
            self._cut()
            query, row, _ = self._met[0]
            score = products(self._queries, query, vectors, row)
            order = np.lexsort((row, -score, query))
            query, row, score = query[order], row[order], score[order]
            counts = np.bincount(query, minlength=len(self._queries))
            place = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
            near = place < self._depth
            rows[query[near], place[near]] = row[near]
            scores[query[near], place[near]] = score[near]
        return Hits(rows, scores, self._ahead)


def products(queries: NDArray[Any], query: Rows, vectors: Vectors, row: Rows) -> Scores:
    """Products of queries[query[n]] and vector row[n] in float64, each summed in the same way whatever the batch."""
    found = np.empty(len(row))
    order = np.argsort(row, kind="stable")  # neighbours on disk are read together
    for start in range(0, len(row), _EXACT):
        at = order[start : start + _EXACT]
        passages = vectors.gather(row[at]).astype(np.float64)
        passages *= queries[query[at]]
        found[at] = passages.sum(axis=1)
    return found
