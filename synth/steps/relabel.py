"""Positives chosen anew: `relabelled/` has the pairs of a view with every passage near the query that answers it.

A reranker judges the passages near each query, the pair's own among them, and a language model those of which it is
unsure. That the passage a query was written for is often not its best answer is Gecko's finding (arXiv 2403.20327); the
cascade is that of RLHN (2505.16967), the third outcome, ambiguous, that of ARHN (2604.11092).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from synth.batching import first_usable, gathered, rerank_all
from synth.errors import UnusableReply
from synth.hashing import item_seed
from synth.languages.words import quoted
from synth.negatives import Candidate, Item, Pool, Share
from synth.prompts.templates import PairPrompt
from synth.registry import NestedLlm, NestedReranker
from synth.replies.objects import read_object
from synth.search import Excluded, products, retrieve
from synth.shards import Journal
from synth.stage import ChatReply, ChatRequest, JsonSchema, JudgeInputs, ReplyKey, Services, Stage
from synth.steps.generate import JournaledChat
from synth.steps.neighbours import RELABELLED, Neighbours, Plan
from synth.tables import RELABELLED as COLUMN
from synth.tables import append
from synth.types import Negative, Notify

Outcome = Literal["positive", "ambiguous", "negative"]
_VERDICTS: Mapping[str, Outcome] = {"answers": "positive", "partly": "ambiguous", "no": "negative"}
_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"Quote": {"type": "string"}, "Verdict": {"type": "string", "enum": list(_VERDICTS)}},
    "required": ["Quote", "Verdict"],
    "additionalProperties": False,
}
_OF_QUERY = frozenset(
    {"id", "task", "query", "query_language", "character", "question_type", "difficulty", "model", "template"}
    | {"length_min", "length_max", "length_unit", "revision", "attempts", "repaired", "prompt_tokens", "form"}
    | {"completion_tokens", "retry_of", "typing", "detected_language", "language_ok", "length", "length_error"}
)
"""Columns that stay true of a pair whose passage is another; the rest is null then."""


class Relabel(Stage):
    """Which passages near a query answer it: the options of `synth relabel`.

    The reranker decides above `positive_above` and below `negative_below`; between them the language model, if there is
    one, and what neither decides is ambiguous: no positive, and never a negative.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})

    reranker: NestedReranker
    """Judges first: {use: vllm_server, model: …, base_urls: […]}; see `synth list rerank`."""
    llm: NestedLlm | None = None
    """Judges the passages of which the reranker is unsure; null: they are ambiguous."""
    pool: Annotated[int, Field(ge=0, le=1000)] = 20
    """Nearest passages judged for each query, besides its own; 0 judges the own one alone."""
    positive_above: Share = 0.9
    """A passage with a higher reranker score than this answers the query."""
    negative_below: Share = 0.1
    """A passage with a lower score than this does not."""
    margin: Share = 0.2
    """The own passage gives way to the best other positive if that one's score is higher by more than this."""
    prompts: str = "relabel"
    """Folder with `system.j2` and `judge.j2`; `relabel` is the shipped one."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often the language model is asked about a passage before it is ambiguous."""
    max_tokens: Annotated[int, Field(ge=32)] = 512
    """Room for one reply; a model that thinks needs more."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative_below > self.positive_above:
            raise ValueError(f"negative_below {self.negative_below} exceeds positive_above {self.positive_above}")
        return self

    def identity(self) -> dict[str, Any]:
        """With the content of its prompts, where a language model reads them."""
        return super().identity() | ({} if self.llm is None else {"prompts": self.prompt("").sha256})

    def prompt(self, instruction: str) -> PairPrompt:
        return PairPrompt(self.prompts, "judge.j2", {"instruction": instruction})

    def outcome(self, score: float | None) -> Outcome:
        """What the reranker's score alone says, None where it gave none."""
        if score is None or self.negative_below <= score <= self.positive_above:
            return "ambiguous"
        return "positive" if score > self.positive_above else "negative"


def read_verdict(reply: ChatReply, passage: str) -> tuple[Outcome, str | None]:
    """The outcome and the words of the passage that the reply quotes for it; none for `no`. Raises UnusableReply."""
    values = read_object(reply, ("Quote", "Verdict"))[0]
    quote, verdict = values.get("Quote"), values.get("Verdict")
    if not isinstance(quote, str) or not isinstance(verdict, str):
        raise UnusableReply("key", f"Quote and Verdict are not texts among the keys {list(values)[:10]!r}")
    if verdict not in _VERDICTS:
        raise UnusableReply("enum", f"Verdict is {verdict[:50]!r}; allowed: {', '.join(_VERDICTS)}")
    found = quoted(passage, quote)
    if verdict != "no" and found is None:
        raise UnusableReply("answer", f"{quote[:200]!r} is not in the passage")
    return _VERDICTS[verdict], None if verdict == "no" else found


@dataclass(slots=True)
class Counts:
    """What was judged so far, including shards of earlier calls."""

    shards: int = 0
    done: int = 0
    rows: int = 0
    own: dict[str, int] = field(default_factory=lambda: {"positive": 0, "ambiguous": 0, "negative": 0})
    """Pairs by the outcome of their own passage."""
    replaced: int = 0
    """Pairs whose passage is another now."""
    several: int = 0
    """Pairs with more than one positive."""
    dropped: dict[str, int] = field(default_factory=dict)
    judged: int = 0
    """Passages, own ones included; the next three add up to it."""
    positives: int = 0
    ambiguous: int = 0
    negatives: int = 0

    def add(self, table: pa.Table, rejects: pa.Table | None) -> None:
        """Count a finished shard."""
        self.done += 1
        for part in (table, *([] if rejects is None else [rejects])):
            self.rows += part.num_rows
            for row in filter(None, part[RELABELLED].to_pylist()):
                self.own[row["own"]] += 1
                moved = row["replaced"] is not None
                positives = len(row["positives"]) + (moved or row["own"] == "positive")
                ambiguous = len(row["ambiguous"]) + (not moved and row["own"] == "ambiguous")
                self.replaced += moved
                self.several += positives > 1
                self.judged += row["judged"]
                self.positives += positives
                self.ambiguous += ambiguous
                self.negatives += row["judged"] - positives - ambiguous
        for reason in rejects["reason"].to_pylist() if rejects is not None else []:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Judged(NamedTuple):
    """A passage and what was decided about it."""

    outcome: Outcome
    passage: Negative


class Settled(NamedTuple):
    """What becomes of a pair: the column `relabelled`, its score, the passage `instead` of its own, why it is lost."""

    value: dict[str, Any] | None = None
    score: float | None = None
    instead: Negative | None = None
    reason: str | None = None


class Relabelling(Neighbours[Relabel]):
    """One call of `synth relabel`."""

    name, verb = RELABELLED, "relabel"
    counts: Counts

    def __init__(self, plan: Plan[Relabel], services: Services, notify: Notify) -> None:
        super().__init__(plan, services, notify)
        self.counts = Counts()

    def _count(self, table: pa.Table, rejects: pa.Table | None) -> None:
        self.counts.add(table, rejects)

    def _search(self, items: Sequence[Item]) -> Sequence[Pool]:
        """The own passage of each item, then the nearest ones that no pair of the view has for its query.

        Of several pairs of one query, those with the passage that comes first in the corpus get the others.
        """
        own = self._corpus.rows([item.passage for item in items])
        queries = np.array([item.vector for item in items], np.float32).reshape(len(items), -1)
        scores = products(queries, np.arange(len(items)), self._corpus, own)
        pools = [Pool([Candidate(None, score, "mined", row)]) for row, score in zip(own.tolist(), scores, strict=True)]
        heads = [n for n, item in enumerate(items) if item.known[0] == own[n]]
        if depth := min(self.plan.options.pool, self._corpus.count):
            never = Excluded.of([(n, items[place].known) for n, place in enumerate(heads)])
            hits = retrieve(queries[heads], self._corpus, depth, never)
            for n, place in enumerate(heads):
                found = zip(hits.rows[n].tolist(), hits.scores[n].tolist(), strict=True)
                near = [Candidate(rank, at, "mined", row) for rank, (row, at) in enumerate(found, 1) if row >= 0]
                pools[place] = Pool([*pools[place].candidates, *near])
        return pools

    async def _made(
        self, table: pa.Table, items: Sequence[Item], pools: Sequence[Pool], lost: Mapping[int, str], journal: Journal
    ) -> tuple[pa.Table, list[str | None]]:
        judged = iter(await self._judged(items, pools, journal))
        rows = [Settled(reason=lost[n]) if n in lost else self._settled(*next(judged)) for n in range(table.num_rows)]
        table = _replaced(table, [row.instead for row in rows])
        scores, values = [row.score for row in rows], [row.value for row in rows]
        table = append(table, pa.field("reranker", pa.float64()), pa.array(scores, pa.float64()))
        return append(table, pa.field(RELABELLED, COLUMN), pa.array(values, COLUMN)), [row.reason for row in rows]

    def _settled(self, own: Judged, *others: Judged) -> Settled:
        """What becomes of a pair whose own passage and others were judged so."""
        positives = [each.passage for each in others if each.outcome == "positive"]
        positives.sort(key=lambda each: -(each.reranker or 0.0))
        doubtful = [each.passage for each in others if each.outcome == "ambiguous"]
        ahead = (positives[0].reranker or 0.0) - (own.passage.reranker or 0.0) if positives else 0.0
        best = None
        if positives and (own.outcome == "negative" or ahead > self.plan.options.margin):
            best, *positives = positives
            positives[:0] = [own.passage] if own.outcome == "positive" else []
            doubtful[:0] = [own.passage] if own.outcome == "ambiguous" else []
        value = {
            "own": own.outcome,
            "replaced": None if best is None else own.passage.passage_id,
            "judged": 1 + len(others),
            "positives": [each._asdict() for each in positives],
            "ambiguous": [each._asdict() for each in doubtful],
        }
        reason = "no_answer" if own.outcome == "negative" and best is None else None
        return Settled(value, (best or own.passage).reranker, best, reason)

    async def _judged(self, items: Sequence[Item], pools: Sequence[Pool], journal: Journal) -> list[list[Judged]]:
        """Each item's passages, in the order of its pool."""
        options, services = self.plan.options, self.services
        assert services.reranker is not None  # noqa: S101 - a plan without one is refused
        near = [
            (item, each, item.passage if each.rank is None else self._corpus.text(each.row))
            for item, pool in zip(items, pools, strict=True)
            for each in pool.candidates
        ]
        pairs = [(item.query, text) for item, _, text in near]
        scores = await rerank_all(services.reranker, pairs, journal)
        chat = None if services.chat is None else JournaledChat(services.chat, journal, lambda: False)
        room, prompt = asyncio.Semaphore(chat.slots if chat else 1), options.prompt(self.plan.run.job.instruction)

        async def judge(item: Item, each: Candidate, text: str) -> Judged:
            score = scores[item.query, text]
            outcome, margin = options.outcome(score), item.min_positive_score - each.score
            passage = Negative(text, self._corpus.id(each.row), each.rank, each.score, margin, score, "reranker")
            if chat is None or outcome != "ambiguous":
                return Judged(outcome, passage)
            requests, read = self._requests(prompt, item, passage), partial(read_verdict, passage=text)
            async with room:
                verdict = await first_usable(chat, requests, read)
            if verdict is None:
                return Judged(outcome, passage)
            return Judged(verdict[0], passage._replace(source="llm", quote=verdict[1]))

        judged = iter(await gathered(judge(*each) for each in near))
        return [list(islice(judged, len(pool.candidates))) for pool in pools]

    def _requests(self, prompt: PairPrompt, item: Item, passage: Negative) -> Iterator[ChatRequest]:
        stage, options = f"relabel-{passage.rank or 0}", self.plan.options
        for attempt in range(options.attempts):
            yield ChatRequest(
                ReplyKey(item.position, item.slot, stage, attempt),
                prompt.messages(item.query, passage.passage),
                _SCHEMA,
                "verdict",
                item_seed(self.plan.run.job.file.seed, stage, item.position, item.slot, attempt),
                options.max_tokens,
                JudgeInputs(item.query, passage.passage),
            )


def _replaced(table: pa.Table, chosen: Sequence[Negative | None]) -> pa.Table:
    """The pairs with the chosen passages; what else such a row says of its former passage is null."""
    mask = pa.array([each is not None for each in chosen], pa.bool_())
    new = {name: [each and getattr(each, name) for each in chosen] for name in ("passage", "passage_id")}
    for place, column in enumerate(table.schema if mask.true_count else ()):
        if column.name in _OF_QUERY:
            continue
        texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        values = pa.array(new.get(column.name, [None] * len(mask)) if texts else [None] * len(mask), column.type)
        table = table.set_column(place, column, pc.if_else(mask, values, table[column.name].combine_chunks()))
    return table
