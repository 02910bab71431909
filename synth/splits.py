"""Splits that do not leak: pairs that share a query, a passage, a document or a near-duplicate stay together.

Groups are formed over all generated pairs, whatever view is exported, so every view of a run is split in the same way.
A hash of a group's first pair decides its split, so rows added later only move pairs whose groups they join.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.errors import JobError
from synth.hashing import mix
from synth.scores import PairBatch
from synth.scores.near_duplicate import NearDuplicate
from synth.shards import OutputFolder, StepFolder
from synth.sources.checks import id_text
from synth.stage import Services

Group = Literal["passage_id", "doc", "cluster"]
Keys = NDArray[np.uint64]
TRAIN = "train"
_CLUSTERS = ("query_cluster", "passage_cluster")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def text_key(*parts: object) -> int:
    """A 64-bit hash of one or several texts; with ten million texts the chance of any collision is 3 in a million."""
    joined = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """The splits other than `train`, each with its share of the groups, and what must stay together.

    `group`: `passage_id` keeps pairs with an equal query, passage or passage id together; `doc` also those of one
    document; `cluster` also near-duplicates. `document` names the column that identifies documents.
    """

    shares: tuple[tuple[str, float], ...] = ()
    group: Group = "cluster"
    document: str | None = None
    seed: int = 0

    @classmethod
    def parse(cls, texts: Sequence[str], group: str, document: str | None, seed: int) -> SplitOptions:
        """From `test=0.05`. Raises JobError for an invalid name or share, or if nothing is left to train on."""
        shares: dict[str, float] = {}
        for text in (part for each in texts for part in each.split(",")):
            name, _, number = text.partition("=")
            try:
                share = float(number)
            except ValueError:
                share = 0.0
            if not _NAME.fullmatch(name) or name == TRAIN or name in shares or not 0 < share < 1:
                what = f"expected NAME=SHARE, 0 < SHARE < 1, with each name once and not {TRAIN}"
                raise JobError(f"--split {text}: {what}.", "For example: --split test=0.05")
            shares[name] = share
        if sum(shares.values()) >= 1:
            given = ", ".join(texts)
            raise JobError(f"--split {given}: leaves nothing to train on.", "The shares must sum to less than 1.")
        if group not in ("passage_id", "doc", "cluster"):
            raise JobError(f"--group {group}: expected passage_id, doc or cluster.")
        return cls(tuple(shares.items()), group, document, seed)  # type: ignore[arg-type] # just checked


@dataclass(frozen=True, slots=True)
class Splits:
    """The split of each generated pair, and the passages that only their own split may contain; 60 bytes a pair."""

    names: tuple[str, ...]
    largest: float
    """The share of all pairs that the largest group holds."""
    _step: StepFolder
    _firsts: Mapping[int, int]
    """How many pairs come before each shard."""
    _numbers: NDArray[np.int8]
    _held: Keys

    def of(self, shard: int, ids: Sequence[str]) -> list[str]:
        """The names of the splits of pairs of one shard."""
        first = self._firsts[shard]
        known = {each: n for n, each in enumerate(self._step.read_columns(shard, ["id"])["id"].to_pylist(), first)}
        return [self.names[self._numbers[known[each]]] for each in ids]

    def held_out(self, text: str) -> bool:
        """Whether the passage belongs to a split other than `train`, which must not contain it even as a negative."""
        key = np.uint64(text_key(text))
        place = int(np.searchsorted(self._held, key))
        return place < len(self._held) and bool(self._held[place] == key)


def split(folder: OutputFolder, options: SplitOptions, query: str = "query") -> Splits:
    """Assign every generated pair to a split. Raises JobError if the column of documents does not exist.

    `query` is the column of what is searched with; labels, which many pairs share, must not keep these together.
    """
    step = folder.step("generated")
    shards = sorted(step.done())
    documents, texts = _documents(folder, options)
    asked, passage, columns = _keys(step, shards, options, documents, query)
    if options.group == "cluster":
        columns += clusters(folder, shards, query)
    labels = components([asked, passage, *columns])
    names = (TRAIN, *(name for name, _ in options.shares))
    ends = np.cumsum([share for _, share in options.shares])
    drawn = (mix(passage[labels] ^ np.uint64(text_key("split", options.seed))) >> np.uint64(11)) * 2.0**-53
    numbers = (np.searchsorted(ends, drawn, side="right") + 1) % len(names)
    # a split keeps its passages, and all others of its documents, to itself
    held = np.unique(np.concatenate([passage[numbers > 0], texts[np.isin(documents, columns[1][numbers > 0])]]))
    counts = np.cumsum([0, *(step.meta(index).rows_out for index in shards)]).tolist()
    largest = float(np.bincount(labels, minlength=1).max()) / max(1, len(labels))
    return Splits(names, largest, step, dict(zip(shards, counts, strict=False)), numbers.astype(np.int8), held)


def components(columns: Sequence[Keys]) -> NDArray[np.int64]:
    """Connected components of rows with equal keys in any column: int64 (n,), for each row the first of its group."""
    inverses = [np.unique(column, return_inverse=True)[1] for column in columns]
    labels = np.arange(len(columns[0]), dtype=np.int64)
    while True:
        before = labels
        for inverse in inverses:
            least = np.full(len(labels), len(labels), np.int64)
            np.minimum.at(least, inverse, labels)
            labels = least[inverse]
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def clusters(folder: OutputFolder, shards: Sequence[int], query: str = "query") -> list[Keys]:
    """Near-duplicate clusters of queries and of passages: from a stored scorer, else computed (Jaccard 0.8)."""
    for stored in sorted((folder.path / "scores").glob("[!.]*")) if query == "query" else ():
        step = folder.step(f"scores/{stored.name}")
        if shards and step.done() >= {*shards} and {*_CLUSTERS} <= {*step.schema(shards[0]).names}:
            found = [step.read_columns(index, _CLUSTERS) for index in shards]
            return [np.concatenate([each[name].to_numpy() for each in found]).astype(np.uint64) for name in _CLUSTERS]
    return asyncio.run(_compute_clusters(folder.step("generated"), shards, query)) if shards else []


async def _compute_clusters(step: StepFolder, shards: Sequence[int], query: str) -> list[Keys]:
    scorer = NearDuplicate()
    with TemporaryDirectory(prefix="synth-clusters-") as place:
        index = Path(place) / "index"
        await scorer.build(_batches(step, shards, query), index, Services())
        batches = (replace(batch, index=index) for batch in _batches(step, shards, query))
        found = pa.concat_tables([await scorer.score(batch, Services()) for batch in batches])
    return [found[name].to_numpy().astype(np.uint64) for name in _CLUSTERS]


def _batches(step: StepFolder, shards: Sequence[int], query: str) -> Iterator[PairBatch]:
    """The texts of all pairs; a missing one counts as empty."""
    first = 0
    for index in shards:
        pairs = step.read_columns(index, [query, "passage"])
        filled = [pa.array([text or "" for text in pairs[name].to_pylist()]) for name in (query, "passage")]
        yield PairBatch(pa.table(filled, names=["query", "passage"]), (), first=first, shard=index)
        first += pairs.num_rows


def _documents(folder: OutputFolder, options: SplitOptions) -> tuple[Keys, Keys]:
    """For each row of `passages/`, by position, the keys of its document and of its text; empty if unknown."""
    step = folder.step("passages")
    shards = sorted(step.done()) if options.group != "passage_id" else []
    if not shards and options.group == "doc" and not options.document:
        what = "the data does not show which pairs belong to one document"
        raise JobError(f"--group doc: {what}.", "Name the column: --document COLUMN")
    if shards and options.document and options.document not in step.schema(shards[0]).names:
        raise _no_column(step, options.document)
    document, text = [], []
    names = ["source", "source_row", "text", *([options.document] if options.document else [])]
    for index in shards:
        for row in step.read_columns(index, names).to_pylist():
            text.append(text_key(row["text"]))
            document.append(_document_key(row, options.document, (row["source"], row["source_row"])))
    return np.array(document, np.uint64), np.array(text, np.uint64)


def _keys(
    step: StepFolder, shards: Sequence[int], options: SplitOptions, documents: Keys, query: str
) -> tuple[Keys, Keys, list[Keys]]:
    """Keys of queries, of passages, and of what else connects pairs: passage ids, then documents."""
    found: list[list[int]] = [[], [], [], []]
    column = options.document if options.group != "passage_id" else None
    by_position = len(documents) > 0
    for index in shards:
        there = step.schema(index).names
        own = [name for name in (column or "", f"input_{column}") if name in there][:1]
        if column is not None and not own and not by_position:
            raise _no_column(step, column)
        names = [name for name in ("id", query, "passage", "passage_id", "source") if name in there]
        for row in step.read_columns(index, [*names, *own]).to_pylist():
            passage = text_key(row["passage"])
            ident = id_text(row.get("passage_id"))
            found[0].append(text_key(row[query]))
            found[1].append(passage)
            found[2].append(passage if ident is None else text_key("id", row.get("source"), ident))
            position = int(str(row["id"]).partition("-")[0])
            found[3].append(int(documents[position]) if by_position else _document_key(row, "".join(own), (row["id"],)))
    asked, passages, *others = (np.array(each, np.uint64) for each in found)
    return asked, passages, others


def _document_key(row: Mapping[str, Any], column: str | None, own: Iterable[object]) -> int:
    value = row.get(column) if column else None
    return text_key("row", *own) if value is None else text_key("document", value)


def _no_column(step: StepFolder, column: str) -> JobError:
    hint = "Carry it (`carry` of the corpus), or name another with --document."
    return JobError(f"{step.path}: has no column {column}.", hint)
