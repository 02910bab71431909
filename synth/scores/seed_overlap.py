"""How near a query is to the user's own queries, and how near all queries are to them as a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.batching import embedded
from synth.hashing import terms, tokens
from synth.names import path_of
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.search import Index, digest
from synth.sources import InputFile
from synth.sources.queries import described, rows
from synth.stage import Encoder, Services

__all__ = ["SeedOverlap"]

_KEY = "scores: seed_overlap"
_SAMPLE = 1000
"""Queries of each side that are compared as sets, at most."""
_FEWEST = 20
"""Fewer real queries have no two halves worth a comparison."""


class SeedOverlap(Scorer):
    """Overlap of a query with the nearest of your real queries, those of `task.style_examples`.

    `seed_overlap` is the share of their words that the two have in common (Jaccard; characters where no spaces part
    words), 1 for a query that repeats a real one. Once all queries are made, the summary says how near they are to the
    real ones as a set: words, first words, and the energy distance of their vectors beside that of two random halves of
    the real ones (Székely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018). Where it is as small as that of the halves,
    an embedder cannot tell the two sets apart.
    """

    scope: ClassVar[Literal["shard", "pass"]] = "pass"
    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    stem: ClassVar[str | None] = "seed_overlap"
    outputs = (ScoreColumn("seed_overlap", pa.float64(), low=0.0, high=1.0, better="low"),)

    queries: str
    """The file of real queries: text (one a line), JSONL, CSV or Parquet; relative paths start where the job's do."""
    column: str | None = None
    """Its column; null looks for the usual names."""

    def at(self, base: Path) -> Self:
        return self.model_copy(update={"queries": str(base / path_of(self.queries))})

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"queries": described([self.queries], _KEY)[0].sha256}

    def require(self) -> None:
        self._seeds()

    async def build(self, shards: Iterator[PairBatch], folder: Path, services: Services) -> None:
        """Compare a sample of all queries with the real ones. Raises ServerRefused for unusable vectors."""
        index = Index(folder)
        if index.manifest() is not None:
            return
        assert services.encoder is not None  # noqa: S101 - a job without one is refused
        index.open_for_build()
        made: dict[str, bytes] = {}
        for batch in shards:
            made |= {text: digest(text) for text in batch.texts("query")}
            made = dict(sorted(made.items(), key=lambda each: each[1])[:_SAMPLE])
        index.finish(await nearness(list(made), self._seeds(), services.encoder))

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs none by itself
        seeds = _index(self._seeds())
        return self.table([_overlap(query, seeds) for query in batch.texts("query")])

    def _seeds(self) -> tuple[str, ...]:
        return _read(described([self.queries], _KEY)[0], self.column)


@lru_cache(maxsize=4)
def _read(file: InputFile, column: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for _, text in rows(file, column, _KEY)))


_Seeds = tuple[tuple[int, ...], dict[str, list[int]]]


@lru_cache(maxsize=4)
def _index(seeds: tuple[str, ...]) -> _Seeds:
    """The number of terms of each, and those that have a term."""
    places: dict[str, list[int]] = {}
    sets = [set(terms(text)) for text in seeds]
    for number, found in enumerate(sets):
        for term in found:
            places.setdefault(term, []).append(number)
    return tuple(map(len, sets)), places


def _overlap(query: str, seeds: _Seeds) -> float:
    sizes, places = seeds
    own = set(terms(query))
    shared = Counter(number for term in own for number in places.get(term, ()))
    return max((count / (len(own) + sizes[number] - count) for number, count in shared.items()), default=0.0)


async def nearness(made: Sequence[str], real: Sequence[str], encoder: Encoder) -> dict[str, Any]:
    """How near made queries are to real ones; `energy` is null where there are too few of either.

    Both energy distances are over as many queries on each side, so that they can be compared.
    """
    drawn = sorted(real, key=digest)[: 2 * _SAMPLE]
    facts: dict[str, Any] = {"made": len(made), "real": len(real), "energy": None, "energy_of_halves": None}
    counts = {"words": made, "real_words": drawn}
    facts |= {name: float(np.median([len(tokens(text)) for text in texts] or [0])) for name, texts in counts.items()}
    ours, theirs = (Counter(tokens(text)[0] for text in texts if tokens(text)) for texts in (made, drawn))
    shared = (min(ours[word] / ours.total(), theirs[word] / theirs.total()) for word in ours.keys() & theirs.keys())
    facts["first_words"] = round(sum(shared), 4)
    half = min(len(drawn) // 2, len(made), _SAMPLE)
    if half >= _FEWEST // 2:
        parts = [await _vectors(encoder, texts) for texts in (made[:half], drawn[:half], drawn[half : 2 * half])]
        facts["energy"] = round(energy_distance(parts[0], parts[2]), 4)
        facts["energy_of_halves"] = round(energy_distance(parts[1], parts[2]), 4)
    return facts


async def _vectors(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    encoded, without = await embedded(encoder, texts, "query")
    return np.asarray(encoded.vectors[~without], np.float64)


def energy_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over rows, 0 for equal distributions (Székely and Rizzo 2013)."""

    def mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        return float(np.sqrt(np.maximum(squares, 0.0)).mean())

    return 2 * mean(one, other) - mean(one, one) - mean(other, other)
