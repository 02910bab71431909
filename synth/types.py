"""The records, in the order in which they flow through the pipeline.

Passage → Candidates → QueryConfig → Requirement → Pair, or Rejected. Frozen and slotted; nothing here imports
from synth. `position` is the row number of a passage in `passages/` and the only key; the user's own ids are carried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

SCHEMA_VERSION = "1"
"""Of the columns in `synth.tables` and of the checks that rows passed; part of a run's identity."""
Notify = Callable[[str], None]
"""Takes a line for the user: a warning, or how far something is."""
LengthUnit = Literal["words", "characters"]


def position_and_slot(item: str) -> tuple[int, int]:
    """What an item's id, `{position}-{slot}`, is made of."""
    position, _, slot = item.partition("-")
    return int(position), int(slot or 0)


@dataclass(frozen=True, slots=True)
class Passage:
    """One row of `passages/`: checked text whose language is known."""

    position: int
    id: str
    text: str
    language: str
    """BCP-47 code from the table of 119 languages, or `und` where nothing could be told."""
    source: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of a task are to a trainer: cards, summaries and exports ask it. The default is retrieval's."""

    kind: Literal["retrieval", "sts", "bitext", "classification"] = "retrieval"
    pairs: str = "query–passage pairs"
    """What a heading calls the rows."""
    category: str = "text-retrieval"
    """The Hub's task category."""
    anchor: str = "query"
    """The column that comes first in a trainer's row."""
    target: str | None = None
    """The column of the positive; None for the other one of query and passage."""
    negatives: tuple[str, ...] = ()
    """Columns of the task's own with texts (string, or a list of them) that are hard negatives of the anchor."""
    score: str | None = None
    """The column that says how alike a pair is, for losses on graded pairs."""
    scale: tuple[float, float] = (1.0, 5.0)
    """The least and the greatest `score`."""
    positive_from: float = 0.0
    """The least `score` of a pair that may stand as a positive."""
    symmetric: bool = False
    """Whether both sides are texts of one kind, so that a prompt goes before both."""
    labels: bool = False
    """Whether positives come from a small closed set, so that equal ones meet in a batch."""

    @property
    def positive(self) -> str:
        return self.target or ("passage" if self.anchor == "query" else "query")


@dataclass(frozen=True, slots=True)
class Candidates:
    """A passage with its nearest personas, nearest first; `similarities` are the cosines, one each."""

    passage: Passage
    personas: tuple[str, ...]
    similarities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """Stage one's choice: who asks, what kind of question, how hard. None where the job asks for none."""

    character: str | None
    question_type: str | None
    difficulty: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """A query that a passage has already, which no later one may repeat."""

    config: QueryConfig | None
    text: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """What stage two is asked for besides the configuration: language and inclusive length range."""

    language: str
    length_min: int
    length_max: int
    length_unit: LengthUnit


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them, 0 where it does not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Pair:
    """One usable pair: item (`passage.position`, `slot`) with all that was asked and got."""

    passage: Passage
    slot: int
    config: QueryConfig | None
    requirement: Requirement | None
    """As `config`: None for a task that knows none."""
    query: str
    model: str
    attempts: int
    usage: Usage
    task: str
    language: str
    """The language that the query was asked in."""
    repaired: bool = False
    """Whether a reply needed one of the stated repairs."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the task's own columns."""

    @property
    def id(self) -> str:
        return f"{self.passage.position}-{self.slot}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One model call of a rejected item; `reply` is cut to 8 KiB, `reason` is None where the reply was accepted."""

    stage: str
    seed: int
    reply: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """One item that ended without a pair, and why, with every attempt made for it."""

    passage: Passage
    slot: int
    reason: str
    detail: str
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = Usage()

    @property
    def id(self) -> str:
        return f"{self.passage.position}-{self.slot}"


class Negative(NamedTuple):
    """A hard negative, or an extra positive. None stands for what is not known of a passage drawn at random."""

    passage: str
    passage_id: str | None
    rank: int | None
    """Counts from 1 over all passages that are not positives of the query; None for a passage that was not searched."""
    score: float | None
    """Cosine with the query."""
    margin: float | None
    """How far the score is below that of the least similar positive."""
    reranker: float | None
    source: str
    """`mined`, `written`, `given` or `random`; who judged a relabelled one: `reranker` or `llm`."""
    facet: str | None = None
    """Of a written one: the requirement of the query that it misses."""
    facet_type: str | None = None
    """In which way."""
    quote: str | None = None
    """Of a passage that a language model judged: its words that answer the query."""


@dataclass(slots=True)
class MinedPair:
    """What mining found for one pair: its negatives by rank, extra positives, and how many it refused, by reason."""

    negatives: list[Negative] = field(default_factory=list)
    extra_positives: list[Negative] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
