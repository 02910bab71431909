"""Pairs as they go into files: one query, its positives and negatives, shard after shard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from synth.hashing import item_random
from synth.shards import OutputFolder, StepFolder
from synth.sources.checks import FirstSeen, digest, id_text
from synth.tables import NEGATIVE, RELABELLED
from synth.types import Layout, Negative, position_and_slot


class Answers:
    """All pairs of a step as keys, 8 bytes each; texts are compared without case, white space and form.

    That a passage is wrongly taken for an answer happens once in 10^12 looks, over ten million pairs.
    """

    def __init__(self, step: StepFolder) -> None:
        shards = (step.read_columns(index, ["query", "passage"]) for index in sorted(step.done()))
        pairs = (pair for table in shards for pair in zip(*(each.to_pylist() for each in table.columns), strict=True))
        self._keys = np.unique(np.fromiter((_key(query or "", passage or "") for query, passage in pairs), np.uint64))

    def has(self, query: str, passage: str) -> bool:
        """Whether a pair says that the passage answers the query."""
        key = np.uint64(_key(query, passage))
        place = int(np.searchsorted(self._keys, key))
        return place < len(self._keys) and bool(self._keys[place] == key)


def _key(query: str, passage: str) -> int:
    return int.from_bytes(digest(f"{digest(query).hex()} {digest(passage).hex()}")[:8], "little")


MINED = ("negatives", "extra_positives", "refused")
"""Columns of `mined/` beyond those of the pairs."""
_COLUMNS = ("id", "query", "passage", "passage_id", "label", "reranker", "negatives", "extra_positives")


class Row(NamedTuple):
    """One pair: `query` is the anchor of the task's layout, `passage` its positive.

    `extra_positives` were found by a reranker or by `synth relabel`; `reranker` is the pair's own score, if stored.
    """

    id: str
    query: str
    passage: str
    passage_id: str | None
    relevance: int
    reranker: float | None
    negatives: tuple[Negative, ...]
    extra_positives: tuple[Negative, ...]
    score: float | None = None
    """How alike the two are, in a task that grades them."""

    @property
    def answers(self) -> list[str]:
        return [self.passage, *(each.passage for each in self.extra_positives)]

    @property
    def taught(self) -> list[tuple[str, float | None]]:
        """Each answer with a teacher's score, the probability that it is relevant."""
        scores = (self.reranker, *(each.reranker for each in self.extra_positives))
        return list(zip(self.answers, scores, strict=True))

    @property
    def usable(self) -> bool:
        """Whether there is a query and a passage that answers it, by the data's own label where it has one."""
        return bool(self.query.strip() and self.passage.strip()) and self.relevance > 0


class Batch(NamedTuple):
    """The rows of one shard that go into one split; `table` holds the pairs' own columns, row by row the same."""

    split: str
    table: pa.Table
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Shape:
    """How many negatives a row has: at most `most`; `on_short` decides about a row with fewer than `least`."""

    least: int = 0
    most: int | None = None
    on_short: Literal["drop", "fill"] = "drop"
    graded: bool = False
    """Whether the rows are pairs with a score, whatever it is; else only those count that may stand as positives."""
    taught: bool = False
    """Whether a row needs a teacher's score of each of its passages."""

    def takes(self, row: Row) -> bool:
        """Whether a row of the source is one of the export's."""
        if not self.graded:
            return row.usable
        return row.score is not None and bool(row.query.strip() and row.passage.strip())


@dataclass(slots=True)
class Counts:
    """What became of the pairs; `held_out` counts negatives that were left out of `train` to keep a split unseen."""

    pairs: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    negatives: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Pairs by how many negatives they have, before any is left out or filled in."""
    too_few: int = 0
    untaught: int = 0
    """Pairs left out because a passage has no score of a teacher."""
    filled: int = 0
    unusable: int = 0
    denied: int = 0
    """Those of the unusable ones whose label is 0 or less."""
    held_out: int = 0
    extra_positives: int = 0
    teacher: bool = True
    """Whether a reranker graded every positive and every negative."""
    query_bytes: int = 0
    passage_bytes: int = 0
    """The longest of each, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Source:
    """The pairs of a step, whole, to be read as often as needed; memory holds one shard."""

    folder: OutputFolder
    step: StepFolder
    shards: tuple[int, ...]
    seed: int
    layout: Layout = field(default_factory=Layout)
    mined: bool = False
    """Whether the step is `mined/`; otherwise a column with the name `negatives` is the user's own."""
    splits: tuple[str, ...] = ("train",)
    split_of: Callable[[int, Sequence[str]], list[str]] | None = None
    held_out: Callable[[str], bool] | None = None

    def batches(self, shape: Shape, counts: Counts | None = None) -> Iterator[Batch]:
        """Rows of the wanted shape in order, first by shard and then by split; `counts` is added to."""
        counts = Counts() if counts is None else counts
        fill = shape.on_short == "fill" and shape.least > 0
        answers = Answers(self.folder.step("generated")) if fill else None
        for index in self.shards:
            own, rows = self._read(index)
            counts.pairs += len(rows)
            names = self.split_of(index, [row.id for row in rows]) if self.split_of else self.splits[:1] * len(rows)
            for name in self.splits:
                picked = [n for n, row in enumerate(rows) if names[n] == name and shape.takes(row)]
                unseen = [self._unseen(rows[n], name, counts) for n in picked]
                made = [self._fitted(row, unseen, answers, shape, counts) for row in unseen]
                kept = [(n, row) for n, row in zip(picked, made, strict=True) if row is not None]
                counts.rows[name] = counts.rows.get(name, 0) + len(kept)
                if kept:
                    yield Batch(name, own.take(pa.array([n for n, _ in kept])), [row for _, row in kept])
            counts.unusable += sum(not shape.takes(row) for row in rows)
            counts.denied += 0 if shape.graded else sum(row.relevance <= 0 for row in rows)

    def fields(self) -> dict[str, pa.DataType]:
        """The columns that the tables of `batches` have, in any shard."""
        found: dict[str, pa.DataType] = {}
        for index in self.shards:
            schema = self._renamed(self.step.schema(index).empty_table()).schema
            found |= {each.name: each.type for each in schema if each.name not in _ours(schema)}
        return found

    def _renamed(self, table: pa.Table) -> pa.Table:
        """A user's column with the name of one of ours becomes `input_…`."""
        if self.mined:
            return table
        return table.rename_columns([f"input_{name}" if name in MINED else name for name in table.column_names])

    def _read(self, index: int) -> tuple[pa.Table, list[Row]]:
        """The pairs' own columns, and the pairs."""
        table = self._renamed(self.step.read(index).table)
        ours = _ours(table.schema)
        chosen = "relabelled" in ours
        rows, layout = [], self.layout
        further = "positives" if chosen and not self.mined else "extra_positives"
        wanted = {
            *_COLUMNS,
            *(["relabelled"] if chosen and not self.mined else []),
            layout.anchor,
            layout.positive,
            *layout.negatives,
            *([layout.score] if layout.score else ()),
        }
        for each in table.select([name for name in wanted if name in table.column_names]).to_pylist():
            label, score, grade = each.get("label"), each.get("reranker"), each.get(layout.score)
            relevance = 1 if label is None else int(label) if label > 1 else int(label > 0)
            row = Row(
                each["id"],
                each[layout.anchor] or "",
                each[layout.positive] or "",
                id_text(each.get("passage_id")) if layout.positive == "passage" else None,
                relevance=relevance if grade is None or grade >= layout.positive_from else 0,
                reranker=score if isinstance(score, float) else None,
                negatives=(*_written(each, layout.negatives), *_passages(each.get("negatives"))),
                extra_positives=_passages((each.get("relabelled") or each).get(further)),
                score=grade,
            )
            rows.append(row)
        return table.drop_columns(ours), rows

    def _unseen(self, row: Row, split: str, counts: Counts) -> Row:
        """The row without passages of another split, if it is in train."""
        if self.held_out is None or split != "train":
            return row
        hidden = self.held_out
        negatives = tuple(each for each in row.negatives if not hidden(each.passage))
        extra = tuple(each for each in row.extra_positives if not hidden(each.passage))
        counts.held_out += len(row.negatives) + len(row.extra_positives) - len(negatives) - len(extra)
        return row._replace(negatives=negatives, extra_positives=extra)

    def _fitted(
        self, row: Row, rows: Sequence[Row], answers: Answers | None, shape: Shape, counts: Counts
    ) -> Row | None:
        """The row with as many negatives as wanted, filled up if there are `answers`; None if it has too few."""
        counts.lengths[len(row.negatives)] += 1
        found = row.negatives if shape.most is None else row.negatives[: shape.most]
        if answers is not None and len(found) < shape.least:
            found += self._drawn(row, rows, answers, shape.least - len(found))
            counts.filled += len(found) >= shape.least
        if len(found) < shape.least:
            counts.too_few += 1
            return None
        others = (*found, *row.extra_positives)
        teacher = None not in (row.reranker, *(each.reranker for each in others))
        if shape.taught and not teacher:
            counts.untaught += 1
            return None
        counts.negatives += len(found)
        counts.extra_positives += len(row.extra_positives)
        counts.teacher = counts.teacher and teacher
        counts.query_bytes = max(counts.query_bytes, len(row.query.encode()))
        passages = (row.passage, *(each.passage for each in others))
        counts.passage_bytes = max(counts.passage_bytes, *(len(each.encode()) for each in passages))
        return row._replace(negatives=found)

    def _drawn(self, row: Row, others: Sequence[Row], answers: Answers, count: int) -> tuple[Negative, ...]:
        """Passages of other pairs of the same shard and split, by the pair's own seed; none that is a known answer."""
        taken = {*row.answers, *(each.passage for each in row.negatives)}
        generator = item_random(self.seed, "export", *position_and_slot(row.id))
        drawn: list[Negative] = []
        tried: set[int] = set()
        while len(drawn) < count and len(tried) < len(others):
            place = generator.randrange(len(others))
            other = others[place]
            same = other.passage_id is not None and other.passage_id == row.passage_id
            known = place in tried or other.passage in taken or same
            if not known and not answers.has(row.query, other.passage):
                taken.add(other.passage)
                drawn.append(Negative(other.passage, other.passage_id, None, None, None, None, "random"))
            tried.add(place)
        return tuple(drawn)


@dataclass(frozen=True, slots=True)
class Facts:
    """What TRAIN.md and the card need to know about the run."""

    title: str
    """Name of the run's folder."""
    view: str
    folder: Path
    """Where the files will be, as given on the command line."""
    address: str
    """What to pass to `load_dataset`: the name on the Hub if they are pushed, otherwise the folder."""
    instruction: str
    seed: int
    languages: tuple[str, ...]
    embedder: str | None
    mined: bool
    counts: Counts
    shape: Shape
    layout: Layout = field(default_factory=Layout)

    def negatives(self) -> int:
        """Negatives of the fullest row."""
        longest = max((n for n, rows in self.counts.lengths.items() if rows), default=0)
        reached = longest if self.shape.most is None else min(longest, self.shape.most)
        return max(reached, self.shape.least if self.counts.filled else 0)


def _written(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Negative]:
    """The negatives that the task wrote beside the pair."""
    for name in columns:
        texts = row.get(name) or ()
        for text in [texts] if isinstance(texts, str) else texts:
            yield Negative(text, None, None, None, None, None, "written")


def _passages(found: Sequence[Mapping[str, Any]] | None) -> tuple[Negative, ...]:
    return tuple(Negative(**each) for each in found or () if each["passage"])


class Ids:
    """Names of distinct texts."""

    def __init__(self) -> None:
        self._texts, self._taken = FirstSeen(), FirstSeen()
        self._names: list[str] = []

    def add(self, text: str, wanted: str | None) -> tuple[str, bool]:
        """The id of a text, and whether the text is new."""
        key = digest(text)
        earlier = self._texts.add(key, len(self._names))
        if earlier is not None:
            return self._names[earlier], False
        hashed = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        name = wanted or f"p-{hashed[:16]}"
        if self._taken.add(digest(name), 0) is not None:
            name = f"{name}#{hashed[:8]}"
        self._names.append(name)
        return name, True


class Corpus:
    """Writes every passage of the run once, as id, title and text: those read, else those of all pairs.

    Passages that only mining knows, from a corpus of its own, follow when they are named.
    """

    def __init__(self, source: Source, write: Callable[[str, str, str], None]) -> None:
        self._ids, self._write = Ids(), write
        step = source.folder.step("passages")
        text, ident = "text", "id"
        if not step.done():
            step = source.folder.step("generated")
            text, ident = "passage", "passage_id"
        for index in sorted(step.done()):
            there = step.schema(index).names
            for row in step.read_columns(index, [n for n in (text, ident, "title") if n in there]).to_pylist():
                if (row[text] or "").strip():
                    own, title = row.get(ident), row.get("title")
                    self.name(row[text], id_text(own), title if isinstance(title, str) else "")

    def name(self, text: str, wanted: str | None, title: str = "") -> str:
        """The id of a passage, which is written if it is new."""
        name, new = self._ids.add(text, wanted)
        if new:
            self._write(name, title, text)
        return name


_SURE = 1e-6
"""Probabilities are kept this far from 0 and 1, so that their logits stay finite (±13.8)."""


def logit(probability: float | None) -> float:
    """Of a teacher's score, finite also for 0 and 1."""
    assert probability is not None  # noqa: S101 - every passage is graded where there is a teacher
    near = min(max(probability, _SURE), 1 - _SURE)
    return math.log(near / (1 - near))


_NUMBERS = pa.struct([field for field in NEGATIVE if field.name != "passage"])


def meta(batch: Batch, *, one_answer: bool = False) -> pa.Table:
    """A row for each row of the trainer's file: ids, all that is known of the pair, and its negatives' numbers.

    With `one_answer` a row of the file has one positive, so a pair with several has several rows; else it has all.
    """
    places = [n for n, row in enumerate(batch.rows) for _ in (row.answers if one_answer else [row])]
    own = [name for name in batch.table.column_names if name not in {"query", "passage", "positive"}]
    table = batch.table.select(own).take(pa.array(places, pa.int64()))
    if one_answer:
        ids = [name for row in batch.rows for name in (row.passage_id, *(e.passage_id for e in row.extra_positives))]
        table = table.append_column("positive", pa.array(ids, pa.string()))
    found = [[each._asdict() for each in batch.rows[n].negatives] for n in places]
    return table.append_column("negatives", pa.array(found, pa.list_(_NUMBERS)))


def _ours(schema: pa.Schema) -> list[str]:
    """The columns that mining and relabelling added."""
    found = [name for name in MINED if name in schema.names]
    chosen = "relabelled" in schema.names and schema.field("relabelled").type == RELABELLED
    return [*found, "relabelled"] if chosen else found


def whole(batch: Batch) -> pa.Table:
    """The pairs with all of their columns, their negatives and extra positives with texts and numbers."""
    table = batch.table
    for name in ("negatives", "extra_positives"):
        found = [[each._asdict() for each in getattr(row, name)] for row in batch.rows]
        table = table.append_column(name, pa.array(found, pa.list_(NEGATIVE)))
    return table
