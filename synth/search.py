"""The files of an index over a whole pass: written aside, each whole or absent, and a manifest that comes last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from synth.batching import encode_all
from synth.errors import OutputError, ServerRefused, SystemFault
from synth.shards import disk
from synth.sources.checks import FirstSeen
from synth.stage import Encoder

_MANIFEST = "manifest.json"
_ASIDE = "tmp"


class Index:
    """Arrays in one folder. Several builders may work at once: they write the same bytes, and the first one wins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_for_build(self) -> None:
        """Make the folder if it is not there. Raises OutputError, SystemFault."""
        for path in (self.folder, self.folder / _ASIDE):
            disk.make_folder(path)

    def manifest(self) -> dict[str, Any] | None:
        """What a finished build recorded; None while it is unfinished. Raises OutputError where it is damaged."""
        path = self.folder / _MANIFEST
        if not disk.exists(path):
            return None
        try:
            found: dict[str, Any] = json.loads(disk.read_whole(path))
        except ValueError as exc:
            raise OutputError(f"{path}: is damaged ({exc}).", f"Remove {self.folder} and run again.") from exc
        return found

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Declare the index complete and record what it is."""
        self._create(_MANIFEST, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())

    def complete(self) -> dict[str, Any]:
        """The manifest of an index that must be there. Raises OutputError."""
        found = self.manifest()
        if found is None:
            raise OutputError(f"{self.folder}: the index is not complete.", "Run the same command again.")
        return found

    def has(self, name: str) -> bool:
        """Whether an array was written."""
        return disk.exists(self.folder / name)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write an array's bytes whole and durable, row after row, unless the name exists."""
        self._create(name, np.ascontiguousarray(array).tobytes())

    def get(self, name: str, dtype: DTypeLike, width: int | None = None) -> NDArray[Any]:
        """A written array of shape (rows,) or (rows, width), mapped and not read. Raises OutputError, SystemFault."""
        path, kind = self.folder / name, np.dtype(dtype)
        shape = (-1,) if width is None else (-1, width)
        with disk.disk_errors(path):
            size = path.stat().st_size
            if size % (kind.itemsize * (width or 1)):
                raise OutputError(f"{path}: is damaged: {size} bytes.", f"Remove {self.folder} and run again.")
            if not size:
                return np.empty((0,) if width is None else (0, width), kind)
            return np.memmap(path, kind, mode="r").reshape(shape)

    def _create(self, name: str, content: bytes) -> None:
        disk.create_once(self.folder / _ASIDE, self.folder / name, content)


def part(name: str, shard: int) -> str:
    """The file of an array that is written shard by shard."""
    return f"{name}-{shard:08d}.bin"


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


Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

_TILE = 1024
_PAIRS = 4096


class Vectors(Protocol):
    """Unit vectors in half precision, zeros for a passage without one; a block is (first row, float16 (m, width))."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]: ...

    def gather(self, rows: Rows) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Hits:
    """What each of n queries found, best first: int64 rows (n, k) and float64 scores (n, k); -1 and -inf at the end."""

    rows: Rows
    scores: Scores


@dataclass(frozen=True, slots=True)
class Never:
    """Passages that a query must not find: int64 (m,) each, ascending by row."""

    query: Rows
    row: Rows

    @classmethod
    def of(cls, pairs: list[tuple[int, Rows]]) -> Never:
        """From (query, rows) pairs."""
        rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in pairs)])
        query = np.repeat(np.array([n for n, _ in pairs], np.int64), [len(rows) for _, rows in pairs])
        order = np.argsort(rows, kind="stable")
        return cls(query[order], rows[order])

    def within(self, first: int, count: int) -> Never:
        """Those of `count` rows from `first` on, counted from there."""
        low, high = np.searchsorted(self.row, (first, first + count))
        return Never(self.query[low:high], self.row[low:high] - first)

    def of_queries(self, start: int, stop: int) -> Never:
        """Those of the queries `start` to `stop`, counted from there."""
        mine = (self.query >= start) & (self.query < stop)
        return Never(self.query[mine] - start, self.row[mine])


def retrieve(queries: NDArray[np.float32], vectors: Vectors, depth: int, never: Never) -> Hits:
    """The `depth` nearest passages of each query, nearest first, of equal ones that of the lower row; (n, depth).

    A passage without a vector is never found. One pass over the vectors, whatever the number of queries.
    """
    tiles = [
        _Tile(queries[start : start + _TILE], depth, never.of_queries(start, start + _TILE))
        for start in range(0, len(queries), _TILE)
    ]
    room = np.empty(0, np.float32)  # for products; fresh memory for each block would cost as much as multiplying
    for first, stored in vectors.blocks():
        block = stored.astype(np.float32)
        absent = np.flatnonzero(~block.any(axis=1))
        if room.size < _TILE * len(block):
            room = np.empty(_TILE * len(block), np.float32)
        for tile in tiles:
            tile.see(first, block, absent, room)
    found = [tile.hits(vectors) for tile in tiles]
    empty = Hits(np.empty((0, depth), np.int64), np.empty((0, depth), np.float64))
    return Hits(
        np.concatenate([empty.rows, *(each.rows for each in found)]),
        np.concatenate([empty.scores, *(each.scores for each in found)]),
    )


class _Tile:
    """Some queries and the candidates they have met: flat arrays of query, row and rough product."""

    def __init__(self, queries: NDArray[np.float32], depth: int, never: Never) -> None:
        self._queries = queries
        self._depth = depth
        self._never = never
        self._query: list[Rows] = []
        self._row: list[Rows] = []
        self._rough: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._floor = np.full(len(queries), -np.inf, np.float32)
        # The error of a float32 product of unit vectors is below width * 2^-24 (Higham 2002, 3.1). Twice that, once
        # more for vectors that half precision made a little longer than 1, and twice because both sides may be off.
        self._slack = np.float32(queries.shape[1] * 2.0**-21)

    def see(self, first: int, block: NDArray[np.float32], absent: NDArray[np.intp], room: NDArray[np.float32]) -> None:
        shape = (len(self._queries), len(block))
        products = room[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self._queries, block.T, out=products)
        products[:, absent] = -np.inf
        never = self._never.within(first, len(block))
        products[never.query, never.row] = -np.inf
        if not self._query and len(block) > self._depth:
            bar = np.partition(products, len(block) - self._depth, axis=1)[:, len(block) - self._depth]
            self._floor = bar - self._slack
        found = np.flatnonzero(products > self._floor[:, None])
        query, passage = np.divmod(found, len(block))
        self._query.append(query)
        self._row.append(passage + first)
        self._rough.append(products.reshape(-1)[found])
        self._waiting += len(found)
        if self._waiting > len(self._queries) * self._depth:
            self._cut()

    def _cut(self) -> None:
        """Forget what can no longer be among the nearest."""
        query, row, rough = (np.concatenate(each) for each in (self._query, self._row, self._rough))
        order = np.lexsort((np.negative(rough), query))
        query, row, rough = query[order], row[order], rough[order]
        counts = np.bincount(query, minlength=len(self._queries))
        last = np.cumsum(counts) - counts + self._depth - 1
        full = counts >= self._depth
        self._floor[full] = rough[last[full]] - self._slack
        kept = rough > self._floor[query]
        self._query, self._row, self._rough = [query[kept]], [row[kept]], [rough[kept]]
        self._waiting = 0

    def hits(self, vectors: Vectors) -> Hits:
        rows = np.full((len(self._queries), self._depth), -1, np.int64)
        scores = np.full(rows.shape, -np.inf)
        if self._query:
            self._cut()
            query, row = self._query[0], self._row[0]
            score = products(self._queries, query, vectors, row)
            order = np.lexsort((row, -score, query))
            query, row, score = query[order], row[order], score[order]
            counts = np.bincount(query, minlength=len(self._queries))
            place = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
            near = place < self._depth
            rows[query[near], place[near]] = row[near]
            scores[query[near], place[near]] = score[near]
        return Hits(rows, scores)


def products(queries: NDArray[Any], query: Rows, vectors: Vectors, row: Rows) -> Scores:
    """Products of queries[query[n]] and stored vector row[n] in float64: each summed in the same way, whatever else."""
    found = np.empty(len(row))
    order = np.argsort(row, kind="stable")  # neighbours on disk are read together
    for start in range(0, len(row), _PAIRS):
        at = order[start : start + _PAIRS]
        passages = vectors.gather(row[at]).astype(np.float64)
        passages *= queries[query[at]]
        found[at] = passages.sum(axis=1)
    return found


BLOCK = 8192
"""Passages multiplied at once."""
_QUERIES = 1024
_SCORE_PAIRS = 4096


class Search:
    """`queries` (n, width) float32 look for their own passages, given as float32 rows `own` of index rows `row`.

    Feed every block of the index to `see`; then `rank` is 1 + the number of others that are strictly nearer, and `best`
    the greatest product with any other, -inf where there is none. A vector of zeros stands for none: as a passage it is
    never found, and where a query or its own passage has none, the pair is `unknown`.
    """

    def __init__(self, queries: NDArray[np.float32], own: NDArray[np.float32], row: NDArray[np.int64]) -> None:
        self.own = _exact(queries, own)
        self.rank = np.ones(len(queries), np.int64)
        self.best = np.full(len(queries), -np.inf)
        self.unknown = ~(queries.any(axis=1) & own.any(axis=1))
        self._queries = queries
        self._row = row
        # The error of a float32 dot product of unit vectors is below width * 2^-24 (Higham 2002, 3.1); twice that, and
        # once more for vectors that rounding to half precision made a little longer than 1.
        self._doubt = queries.shape[1] * 2.0**-22

    def see(self, first: int, passages: NDArray[np.float16]) -> None:
        """Rows `first`… of the index, (m, width) as stored."""
        block = passages.astype(np.float32)
        for start in range(0, len(self._queries), _QUERIES):
            self._multiply(start, first, block)

    def _multiply(self, start: int, first: int, block: NDArray[np.float32]) -> None:
        rows = slice(start, start + _QUERIES)
        queries, own, best = self._queries[rows], self.own[rows, None], self.best[rows]
        products = queries @ block.T
        mine = self._row[rows] - first
        inside = np.flatnonzero((mine >= 0) & (mine < len(block)))
        products[inside, mine[inside]] = -np.inf
        products[:, ~block.any(axis=1)] = -np.inf
        self.rank[rows] += (products > own + self._doubt).sum(axis=1)
        ahead = np.maximum(products.max(axis=1), best) - self._doubt
        near = (np.abs(products - own) <= self._doubt) | (products >= ahead[:, None])
        query, passage = np.nonzero(near & np.isfinite(products))
        for part in _slices(len(query)):
            self._decide(start, query[part], block[passage[part]], products[query[part], passage[part]])

    def _decide(
        self, start: int, query: NDArray[np.intp], passages: NDArray[np.float32], rough: NDArray[np.float32]
    ) -> None:
        at = query + start
        exact = _exact(self._queries[at], passages)
        own = self.own[at]
        doubtful = np.abs(rough - own) <= self._doubt
        np.add.at(self.rank, at[doubtful & (exact > own)], 1)
        np.maximum.at(self.best, at, exact)


def _slices(count: int) -> Iterable[slice]:
    return (slice(start, start + _SCORE_PAIRS) for start in range(0, count, _SCORE_PAIRS))


def _exact(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products row by row in float64, each summed in the same way whatever else is in the arrays."""
    return np.concatenate(
        [np.empty(0), *((a[part].astype(np.float64) * b[part]).sum(axis=1) for part in _slices(len(a)))]
    )
