"""What all sources of negatives share: their options, and what goes into a source and comes out of it."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synth.registry import NestedReranker
from synth.search import Corpus, Rows, Scores
from synth.stage import Stage

if TYPE_CHECKING:
    from synth.negatives._choosing import Selector

Share = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


class Negatives(Stage):
    """Base of all sources of negatives: how many to find, and what must not be a negative."""

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    """Fields of `Services` that it requires."""
    has_facets: ClassVar[bool] = False
    """Whether its negatives say which requirement of the query they miss."""
    advice: ClassVar[str] = "raise --max-score, or lower --absolute-margin"
    """What to try if no pair got a negative."""

    num_negatives: Annotated[int, Field(ge=1, le=1000)] = 5
    """Negatives per pair."""
    max_score: Cosine | None = 0.8
    """Maximum cosine of a negative with the query; null for no limit."""
    min_score: Cosine | None = None
    """Minimum cosine of a negative with the query."""
    absolute_margin: Annotated[float, Field(ge=0, le=2)] | None = 0.1
    """Minimum distance of a negative's cosine below that of the query's least similar positive."""
    relative_margin: Share | None = None
    """The same, as a share of the positive's cosine."""
    near: Annotated[float, Field(gt=0, le=1)] | None = 0.8
    """Word overlap with a positive from which a passage counts as a copy of it; null compares no words."""
    near_cosine: Cosine | None = 0.98
    """Cosine with a positive from which a passage counts as a copy of it."""
    reranker: NestedReranker | None = None
    """Checks the remaining candidates: {use: vllm_server, model: …, base_urls: […]}; see `synth list rerank`."""
    reject_above: Share = 0.5
    """A passage with a higher reranker score than this is not a negative."""
    promote_above: Share | None = 0.9
    """A passage with a higher score than this becomes an extra positive of the pair; null for never."""
    same_document: bool = False
    """Allow other chunks of the positive's document as negatives."""
    on_short: Literal["keep", "drop", "fill"] = "keep"
    """What to do with a pair that has too few: keep it, drop it (to `rejected/`), or fill it with random passages."""

    @property
    def tried(self) -> int | None:
        """How many passing candidates of a pair end its search; None to try all of them."""
        return self.num_negatives

    def refusals(self, scores: Scores, lowest: Scores) -> list[tuple[str, NDArray[np.bool_]]]:
        """For each score rule, the scores that break it; `lowest` is the least cosine of a positive, (n,) or (n, 1).

        Strict as in sentence-transformers: a score exactly at a threshold passes.
        """
        found = []
        if self.absolute_margin is not None:
            found.append(("absolute_margin", scores + self.absolute_margin > lowest))
        if self.relative_margin is not None:
            found.append(("relative_margin", scores > lowest - np.abs(lowest) * self.relative_margin))
        if self.max_score is not None:
            found.append(("max_score", scores > self.max_score))
        if self.min_score is not None:
            found.append(("min_score", scores < self.min_score))
        return found

    def corpus_problem(self, passages: int) -> tuple[str, str] | None:
        """Why a corpus of this size yields no negatives, and what to do; None if it can."""
        return None if passages else ("the corpus has no passage", "Give one with --corpus.")

    def column_problem(self, names: Sequence[str]) -> tuple[str, str] | None:  # noqa: ARG002 - for sources that read some
        """Why pairs with these columns yield no negatives, and what to do; None if they can."""
        return None

    def columns(self, names: Sequence[str]) -> list[str]:  # noqa: ARG002 - for sources that read some
        """The columns of a pair that it reads, besides query and passage."""
        return []

    def supplied(self, row: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002 - as above
        """The negatives in these columns of a pair."""
        return ()

    def search(self, items: Sequence[Item], corpus: Corpus, most: int) -> Sequence[Pool]:  # noqa: ARG002 - for sources that search
        """What the corpus holds for each item; many items share one pass over it.

        `most` is the largest number of positives of a query in the whole run.
        """
        return [Pool() for _ in items]

    @abstractmethod
    async def candidates(self, items: Sequence[Item], found: Sequence[Pool], selector: Selector) -> Sequence[Pool]:
        """What each item tries, given what `search` found. Raises the errors of the models that end a run."""


def _no_rows() -> Rows:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Item:
    """One pair. `known` are the rows of all passages known to answer its query, its own among them; ascending.

    `vector` is the query's, float32 (width,); `min_positive_score` the least cosine of its query's positives; `never`
    are rows that the query must not find: of the same documents, and the `doubtful` ones, which were judged ambiguous;
    `supplied` are negatives from the data's own columns.
    """

    id: str
    position: int
    slot: int
    shard: int
    query: str
    passage: str
    vector: NDArray[np.float32]
    known: Rows
    min_positive_score: float
    never: Rows = field(default_factory=_no_rows)
    doubtful: Rows = field(default_factory=_no_rows)
    supplied: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A possible negative: row `row` of the corpus, or a text with its own vector."""

    rank: int | None
    score: float
    source: Literal["mined", "written", "given", "random"]
    row: int = -1
    text: str = ""
    id: str = ""
    vector: NDArray[np.float32] | None = None
    facet: str | None = None
    facet_type: str | None = None


@dataclass(slots=True)
class Pool:
    """The candidates of one item, in the order in which they are tried; `refused` counts what was ruled out before."""

    candidates: Sequence[Candidate] = ()
    refused: Counter[str] = field(default_factory=Counter)
    at: int = 0

    def take(self, count: int) -> Sequence[Candidate]:
        """The next `count` candidates, or those that are left."""
        taken = self.candidates[self.at : self.at + count]
        self.at += len(taken)
        return taken


class Positives:
    """The rows of each query's passages; ignores case, white space and Unicode form; 16 bytes per pair."""

    def __init__(self, pairs: Iterable[tuple[NDArray[np.uint64], Rows]]) -> None:
        parts = list(pairs)
        queries = np.concatenate([np.empty(0, np.uint64), *(each for each, _ in parts)])
        rows = np.concatenate([np.empty(0, np.int64), *(each for _, each in parts)])
        order = np.lexsort((rows, queries))
        self._queries, self._rows = queries[order], rows[order]

    def of(self, key: int) -> Rows:
        """The distinct rows of a query, ascending."""
        wanted = np.uint64(key)
        low, high = np.searchsorted(self._queries, wanted), np.searchsorted(self._queries, wanted, side="right")
        rows = self._rows[low:high]
        return rows if len(rows) == 1 else np.unique(rows)

    @property
    def most(self) -> int:
        """The largest number of pairs of one query."""
        return int(np.unique(self._queries, return_counts=True)[1].max(initial=0))


def query_keys(queries: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit hashes of queries; two different ones collide once in 10^19 pairs."""
    return np.array([query_key(query) for query in queries], np.uint64)


def query_key(query: str) -> int:
    """The hash of one query without case, white space and Unicode form."""
    folded = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    return int.from_bytes(blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
