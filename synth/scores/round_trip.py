"""Whether a query finds its own passage among the passages of a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from synth.batching import embedded
from synth.errors import OutputError, ServerRefused
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.search import BLOCK, Excluded, Index, Rows, Vectors, digest, part, products, retrieve
from synth.stage import Encoder, Role, Services

__all__ = ["RoundTrip"]

_WORDS = 2  # of eight bytes, in a digest
DRAWN = 50_000
"""Where there are more other passages, so many of them are drawn, unless `among` says otherwise."""


class RoundTrip(Scorer):
    """Rank and margin of a pair's own passage when its query searches the distinct passages of the pass.

    Up to 50,000 other passages are all searched. Of more, 50,000 are drawn, or as many as `among` says, so the time
    grows with the number of pairs and not with its square. The draw depends on the texts alone and is the same for all
    pairs: a rank then is one among 50,001, the own passage and the drawn ones.

    `round_trip_rank` is 1 where no other passage is strictly nearer to the query (so a tie counts in favour of the
    pair), `round_trip_margin` the own cosine minus that of the best other passage, null where there is none: below 0
    another passage answers better, and the pair is suspect. The search is exact, in blocks of bounded memory; vectors
    are kept on disk in half precision, 2 bytes a dimension (1,000,000 passages of 1,024 dimensions: 2.1 GB), and ranks
    are exact for the vectors as kept. Both are null where the encoder refuses one of the two texts.
    """

    scope: ClassVar[Literal["shard", "pass"]] = "pass"
    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    index_parts: ClassVar[tuple[str, ...]] = ("vectors", "digests")
    stem: ClassVar[str | None] = "round_trip"
    outputs = (
        ScoreColumn("round_trip_rank", pa.int64(), low=1, better="low"),
        ScoreColumn("round_trip_margin", pa.float64(), low=-2.0, high=2.0, missing="keep"),
    )

    among: Annotated[int, Field(ge=1)] | None = None
    """How many other passages each own passage stands among; null: all, or 50,000 drawn ones where there are more."""

    def identity(self) -> dict[str, Any]:
        """Without an `among` of null: ranks from before the option count as they are."""
        return {name: value for name, value in super().identity().items() if (name, value) != ("among", None)}

    def index_bytes(self, pairs: int, dimensions: int) -> int:
        drawn = 0 if pairs <= self._drawn else self._drawn * (2 * dimensions + 8)
        return pairs * (2 * dimensions + 8 * _WORDS) + drawn

    @property
    def _drawn(self) -> int:
        """One more than the others: a passage that was drawn itself has no fewer of them."""
        return (self.among or DRAWN) + 1

    async def build(self, shards: Iterator[PairBatch], folder: Path, services: Services) -> None:
        """Embed every passage that no earlier shard has, shard by shard; a killed build goes on at its shard.

        Raises ServerRefused for vectors that have no cosine or change their width.
        """
        index = Index(folder)
        if index.manifest() is not None:
            return
        assert services.encoder is not None  # noqa: S101 - a job without one is refused
        index.open_for_build()
        seen: set[bytes] = set()
        count, width = 0, 0
        for batch in shards:
            new = {key: text for text in batch.documents if (key := digest(text)) not in seen}
            name = part("digests", batch.shard)
            if not index.has(name):
                texts = tuple(new.values())
                vectors = await _unit_vectors(services.encoder, texts, "document") if texts else np.empty((0, 0))
                index.put(part("vectors", batch.shard), vectors.astype("<f2"))
                index.put(name, np.frombuffer(b"".join(new), np.uint8))
            found = len(index.get(part("vectors", batch.shard), "<f2")) // len(new) if new else 0
            width = width or found
            if found not in (0, width):  # 0 where the encoder refused every text of a shard
                raise ServerRefused(
                    f"embed: passage vectors of shard {batch.shard} have another width than {width}.",
                    "All servers of a pass must serve one model, also after a restart.",
                )
            seen |= new.keys()
            count = batch.shard + 1
        facts = {"passages": len(seen), "width": width, "shards": count}
        if len(seen) > self._drawn and width:
            facts |= {"drawn": self._drawn}
            _Passages(index, facts).draw(self._drawn)
        index.finish(facts)

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Search the index with every query of the batch. Raises OutputError where a passage is not in the index."""
        assert batch.index is not None  # noqa: S101 - a pass has one
        assert services.encoder is not None  # noqa: S101 - a job without one is refused
        if not batch.pairs.num_rows:
            return self.table([], [])
        index = Index(batch.index)
        passages = _Passages(index, index.complete())
        queries = batch.texts("query")
        distinct = tuple(dict.fromkeys(queries))
        asked = (await _unit_vectors(services.encoder, distinct, "query")).astype(np.float32)
        if not asked.any() or not passages.width:
            return self.table([None] * len(queries), [None] * len(queries))
        if asked.shape[1] != passages.width:
            raise ServerRefused(
                f"embed: query vectors have {asked.shape[1]} dimensions, those of the index {passages.width}.",
                "All servers of a pass must serve one model, also after a restart.",
            )
        place = {text: n for n, text in enumerate(distinct)}
        vectors = asked[[place[query] for query in queries]]
        return self.table(*await asyncio.to_thread(_search, passages, vectors, batch.texts("passage")))


def stored_vectors(folder: Path) -> Callable[[Sequence[str]], NDArray[Any]] | None:
    """Gives texts their vectors in a finished index, float16, zeros to others; None without a finished one."""
    index = Index(folder)
    facts = index.manifest()
    return _Passages(index, facts).take if facts and facts["width"] else None


class _Passages(Vectors):
    def __init__(self, index: Index, facts: Mapping[str, Any]) -> None:
        self._drawn = int(facts.get("drawn", 0))
        numbers = [n for n in range(int(facts["shards"])) if index.has(part("digests", n))]
        digests = {n: index.get(part("digests", n), "<u8", _WORDS) for n in numbers}
        super().__init__(index, int(facts["width"]), {n: len(each) for n, each in digests.items()})
        self._digests = np.concatenate([np.empty((0, _WORDS), "<u8"), *digests.values()])

    def draw(self, count: int) -> None:
        """Copy the vectors of the passages with the lowest digests, so that a search reads them only."""
        rows = np.lexsort(self._digests.T)[:count]
        for start in range(0, count, BLOCK):
            self._index.put(part("drawn", start // BLOCK), self.gather(rows[start : start + BLOCK]))
        self._index.put("drawn.rows", rows.astype("<i8"))

    def others(self, own: Rows) -> tuple[Vectors, Rows]:
        """What to search, and the row there that each pair leaves out: its own, or the last one of the draw."""
        if not self._drawn:
            return self, own
        place = {row: n for n, row in enumerate(self._index.get("drawn.rows", "<i8").tolist())}
        counts = {n: min(BLOCK, self._drawn - start) for n, start in enumerate(range(0, self._drawn, BLOCK))}
        left_out = np.array([place.get(row, self._drawn - 1) for row in own.tolist()], np.int64)
        return Vectors(self._index, self.width, counts, "drawn"), left_out

    def rows(self, texts: Sequence[str]) -> Rows:
        """The row of each text, -1 for an unknown one."""
        wanted = [digest(text) for text in texts]
        starts = np.frombuffer(b"".join(wanted), "<u8")[::_WORDS]
        candidates = np.flatnonzero(np.isin(self._digests[:, 0], starts))
        row = {self._digests[n].tobytes(): n for n in candidates}
        return np.array([row.get(key, -1) for key in wanted], np.int64)

    def take(self, texts: Sequence[str]) -> NDArray[Any]:
        rows = self.rows(texts)
        found = np.zeros((len(rows), self.width), "<f2")
        found[rows >= 0] = self.gather(rows[rows >= 0])
        return found

    def require(self, texts: Sequence[str]) -> Rows:
        rows, folder = self.rows(texts), self._index.folder
        if (rows < 0).any():
            raise OutputError(f"{folder}: the index was built over other passages.", f"Remove {folder} and run again.")
        return rows


def _search(passages: _Passages, queries: NDArray[np.float32], texts: list[str]) -> tuple[pa.Array, pa.Array]:
    rows = passages.require(texts)
    unknown = ~(queries.any(axis=1) & passages.gather(rows).any(axis=1))
    own = products(queries, np.arange(len(rows)), passages, rows)
    others, left_out = passages.others(rows)
    hits = retrieve(queries, others, 1, Excluded.of(list(enumerate(left_out[:, None]))), own)
    best = hits.scores[:, 0]
    alone = np.isneginf(best)
    margins = own - np.where(alone, 0.0, best)
    return pa.array(1 + hits.ahead, mask=unknown), pa.array(margins, mask=unknown | alone)


async def _unit_vectors(encoder: Encoder, texts: tuple[str, ...], role: Role) -> NDArray[np.float64]:
    """Vectors of length 1, and zeros for the texts that cannot be embedded: float64 (n, width)."""
    encoded, without = await embedded(encoder, texts, role)
    vectors = np.where(without[:, None], 0.0, np.asarray(encoded.vectors, np.float64))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float64)
