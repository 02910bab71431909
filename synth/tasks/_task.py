"""The base class of tasks, and the loop that takes the items of a passage through the model calls of a task.

A task says what to ask and how to read the answers; attempts, seeds, token counts and rejected items are handled here.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field

from synth import replies
from synth.errors import RequestRejected, UnusableReply
from synth.hashing import item_random, item_seed
from synth.prompts import PromptFolder, neutralise
from synth.prompts.templates import Messages
from synth.shipped import find
from synth.stage import (
    ChatModel,
    ChatReply,
    ChatRequest,
    ConfigInputs,
    JsonSchema,
    LlmStage,
    QueryInputs,
    ReplyKey,
    Stage,
    TextInputs,
)
from synth.types import Attempt, Candidates, Layout, Pair, Passage, QueryConfig, Rejected, Requirement, Usage, Written

Value = TypeVar("Value")
Observer = Callable[[ChatRequest, ChatReply | None, str], None]
"""Called after each model call with the reply (None where the server rejected the request) and the verdict on it."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What a job fixes outside the task."""

    seed: int
    """The run's."""
    max_tokens: int
    """Room for one reply."""
    repair: bool
    """Whether replies that need a stated repair are accepted."""
    top_k: int
    """How many of its candidates' personas an item is offered."""
    plain_sources: frozenset[str] = frozenset()
    """Sources whose control tokens stay as they are."""
    llm: LlmStage | None = None
    """The job's model or models: where there are several, `max_tokens` and `repair` of the one that is asked count."""
    prepared: Mapping[str, Any] | None = None
    """What `Task.prepare` returned for this run; None where the task prepares nothing, and while it prepares."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One item to write: the slot of its passage, its own random numbers, and what the passage has already."""

    prompts: Any
    """The task's `prompts_class`."""
    fixed: Any
    """What `Task.begin` returned."""
    settings: TaskSettings
    position: int
    slot: int
    written: tuple[Written, ...] = ()

    def random(self, purpose: str) -> random.Random:
        """A generator that depends on run seed, purpose and item only."""
        return item_random(self.settings.seed, purpose, self.position, self.slot)

    def text(self, passage: Passage) -> str:
        """The passage as a prompt may show it: control tokens are broken unless its source keeps them."""
        return passage.text if passage.source in self.settings.plain_sources else neutralise(passage.text)[0]


@dataclass(frozen=True, slots=True)
class Ask(Generic[Value]):
    """One question to the model; `read` gives (value, whether the reply was repaired) or raises UnusableReply."""

    stage: str
    """Names the call within an item: `config`, `query`."""
    messages: Messages
    schema: JsonSchema
    read: Callable[[ChatReply], tuple[Value, bool]]
    complaint: Callable[[Value], str | None] | None = None
    """Why to ask again although the value is usable; the first usable value is taken when attempts run out."""
    max_tokens: int | None = None
    """Room for the reply; None for all that the job grants."""
    at_least: int = 0
    """Room that the reply needs, also where the job grants less."""
    inputs: ConfigInputs | QueryInputs | TextInputs | None = None
    """What the messages were rendered from, for backends that read no prompt."""


@dataclass(frozen=True, slots=True)
class Item:
    """A finished item: the query, what was asked for, and values of the task's own columns (`Task.columns`)."""

    query: str
    language: str
    """The language that the query was asked in."""
    config: QueryConfig | None = None
    requirement: Requirement | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    """The part of the passage's text that the pair is about, which its column `passage` then holds; None for all of it.

    Only for a task with a column `unit`, which names the kind of part.
    """


Requests = Generator[Ask[Any], Any, Item]
Preparation = Generator[Ask[Any], Any, Mapping[str, Any]]


class Task(Stage):
    """What a job asks a model to write for each passage: subclass it, and add a folder of prompts.

    `requests` is all that a task must define: it yields one `Ask` after the other, receives what each read, and
    returns the finished `Item`.
    """

    columns: ClassVar[Mapping[str, str]] = {}
    """Columns of the task's own in `generated/`, beyond those of every pair: name → Arrow type, such as `string`."""
    layout: ClassVar[Layout] = Layout()
    """What its rows are to a trainer."""
    scores: ClassVar[tuple[str, ...]] = ("cosine", "round_trip", "language", "length", "copying")
    """Scorers of a job that names none."""
    keep: ClassVar[Mapping[str, Any]] = {}
    """Rules of a job that names neither scorers nor rules."""
    mixes: ClassVar[tuple[str, ...]] = ("query_language", "passage_language")
    """Columns whose values the summary counts."""
    prompt_files: ClassVar[tuple[str, ...]] = ()
    """Files that the prompt folder must have."""
    prompts_class: ClassVar[type[PromptFolder]] = PromptFolder
    prompt_options: ClassVar[tuple[str, ...]] = ()
    """Options beside `prompts` that decide which files its prompts have."""
    prompt_sets: ClassVar[Mapping[str, str]] = {}
    """Short names of prompt folders that come with the task."""

    queries_per_passage: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many queries each passage gets (its slots)."""
    instruction: str = "Given a question, retrieve passages that answer it"
    """One English sentence on the retrieval task: for query vectors, rerankers and exports."""
    prompts: str
    """The folder of templates."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Replies asked for per stage before an item is rejected."""

    @property
    def name(self) -> str:
        """The value of the column `task`."""
        return type(self).__name__.lower()

    @property
    def items_per_passage(self) -> int:
        """How many items each passage has."""
        return self.queries_per_passage

    @property
    def item_columns(self) -> Mapping[str, str]:
        """Those of `columns` that its options ask for."""
        return self.columns

    @property
    def own_prompts(self) -> bool:
        """Whether the job names prompt files of its own, in place of those that come with the task."""
        return self.prompts not in {*self.prompt_sets, type(self).model_fields["prompts"].default}

    def load_prompts(self, base: Path) -> PromptFolder:
        """The prompts that the job names, below `base` or among those shipped. Raises JobError."""
        folder = self.prompt_sets.get(self.prompts, self.prompts)
        return self.prompts_class.load(find("prompts", folder, base), self.prompt_files)

    @property
    def prepares_from(self) -> int:
        """How many passages, spread over the corpus, `prepare` reads; 0 where a run needs nothing prepared."""
        return 0

    def prepare(self, passages: Sequence[Passage], draw: Draw) -> Preparation:
        """Ask, once for a run, what all of its items build on; the JSON object that it returns is kept in the run."""
        raise NotImplementedError(f"{self.name} prepares nothing")

    def begin(self, prompts: Any, settings: TaskSettings) -> Any:  # noqa: ARG002 - for subclasses
        """What a run fixes, made once: every `Draw` has it as `fixed`."""
        return None

    @abstractmethod
    def requests(self, passage: Candidates, draw: Draw) -> Requests:
        """Ask for one item. Raises UnusableReply where the item cannot be asked for."""

    def check(self, prompts: Any) -> Iterable[str]:  # noqa: ARG002 - for subclasses
        """What `synth check` warns of."""
        return ()

    def facts(self, prompts: Any, prepared: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:  # noqa: ARG002 - for subclasses
        """What `synth check` and `synth preview` say about the task, as (name, text)."""
        return ()

    def values(self) -> Mapping[str, Sequence[str]]:
        """Columns that hold one of a few known values, so that rules by group can be checked beforehand."""
        return {}

    def asked(self) -> Mapping[str, Mapping[str, float]]:
        """Shares (0..1) that the job asks for, by column and value: the summary sets them beside what came."""
        return {}

    def plannable(self) -> Mapping[str, Sequence[str]]:
        """Columns whose values a `target` can plan, with those that the job may ask for; none: any may be named."""
        return {}

    def planned(self, shares: Mapping[str, Mapping[str, float]]) -> Self:  # noqa: ARG002 - for subclasses
        """The task when it draws these values of plannable columns, by share, and leaves none of them to the model.

        Only what `requests` draws may differ, so that each item can have a single value. Raises ValueError.
        """
        return self

    def query_languages(self, passage_language: str) -> Sequence[str]:
        """Languages that a query for a passage in this language may be asked in."""
        return [passage_language]


@dataclass(slots=True)
class _Progress:
    slot: int
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    repaired: bool = False


class Writer:
    """A task bound to its prompts: writes the items of one passage after the other. Raises JobError."""

    def __init__(
        self, task: Task, prompts: PromptFolder, settings: TaskSettings, observe: Observer | None = None
    ) -> None:
        self.task, self.prompts, self.settings, self.observe = task, prompts, settings, observe
        self._fixed = task.begin(prompts, settings)

    async def prepare(self, passages: Sequence[Passage], chat: ChatModel) -> Mapping[str, Any]:
        """What `Task.prepare` makes of these passages. Raises UnusableReply, and what `chat` raises for a server."""
        draw = Draw(self.prompts, self._fixed, self.settings, 0, 0)
        return await self._answers(_Progress(0), self.task.prepare(passages, draw), 0, chat)

    async def write(
        self,
        candidates: Candidates,
        chat: ChatModel,
        slots: Sequence[int] | None = None,
        before: Sequence[Written] = (),
        fixed: Mapping[int, Mapping[str, str]] | None = None,
    ) -> list[Pair | Rejected]:
        """One outcome per slot (None: all), in slot order; `before` is what the passage has already.

        `fixed` are the values of plannable columns that a slot is to have.

        Raises only what `chat` raises for a server, never for an item.
        """
        outcomes: list[Pair | Rejected] = []
        written, ended = tuple(before), None
        for slot in range(self.task.items_per_passage) if slots is None else slots:
            so_far = _Progress(slot)
            try:
                if ended is not None:
                    raise ended
                values = {name: {value: 1.0} for name, value in (fixed or {}).get(slot, {}).items()}
                task = self.task.planned(values) if values else self.task
                pair = await self._item(so_far, task.requests, candidates, chat, written)
            except UnusableReply as end:
                rejected = Rejected(candidates.passage, slot, end.reason, end.detail, so_far.attempts, so_far.usage)
                outcomes.append(rejected)
                if end.reason == "exhausted":
                    ended = end
            else:
                written += (Written(pair.config, pair.query),)
                outcomes.append(pair)
        return outcomes

    async def _item(
        self,
        so_far: _Progress,
        requests: Callable[[Candidates, Draw], Requests],
        candidates: Candidates,
        chat: ChatModel,
        before: tuple[Written, ...],
    ) -> Pair:
        passage = candidates.passage
        draw = Draw(self.prompts, self._fixed, self.settings, passage.position, so_far.slot, before)
        item = await self._answers(so_far, requests(candidates, draw), passage.position, chat)
        return Pair(
            passage=passage if item.part is None else replace(passage, text=item.part),
            slot=so_far.slot,
            config=item.config,
            requirement=item.requirement,
            query=item.query,
            model=so_far.model,
            attempts=len(so_far.attempts),
            usage=so_far.usage,
            task=self.task.name,
            language=item.language,
            repaired=so_far.repaired,
            columns=item.columns,
        )

    async def _answers(
        self, so_far: _Progress, requests: Generator[Ask[Any], Any, Value], position: int, chat: ChatModel
    ) -> Value:
        """What `requests` returns once each of its questions is answered."""
        answer: Any = None
        while True:
            try:
                ask = requests.send(answer)
            except StopIteration as end:
                value: Value = end.value
                return value
            answer = await self._answer(so_far, ask, position, chat)

    async def _answer(self, so_far: _Progress, ask: Ask[Any], position: int, chat: ChatModel) -> Any:
        """Ask up to `attempts` times for something that `read` accepts, each time with a seed of its own."""
        last = UnusableReply("empty", "no reply")
        fallback: list[tuple[Any, bool]] = []
        llm = self.settings.llm and self.settings.llm.drawn(position, so_far.slot, ask.stage)
        granted = llm.max_tokens if llm else self.settings.max_tokens
        room = max(ask.at_least, granted if ask.max_tokens is None else min(ask.max_tokens, granted))
        request = ChatRequest(
            key=ReplyKey(position, so_far.slot, ask.stage, 0),
            messages=ask.messages,
            schema=ask.schema,
            schema_name=ask.stage,
            seed=0,
            max_tokens=room,
            inputs=ask.inputs,
        )
        for attempt in range(self.task.attempts):
            key = replace(request.key, attempt=attempt)
            seed = item_seed(self.settings.seed, key.stage, key.position, key.slot, attempt)
            request = replace(request, key=key, seed=seed)
            try:
                reply = await chat.complete(request)
            except RequestRejected as exc:
                self._note(so_far, request, None, exc.reason, f"rejected by the server: {exc}")
                last = UnusableReply(exc.reason, exc.detail)
                break
            try:
                value, repaired = _read(ask, reply, llm if llm is not self.settings.llm else None)
            except UnusableReply as exc:
                last = exc
                self._note(so_far, request, reply, exc.reason, f"unusable: {exc}")
                if exc.reason in replies.REASONS and exc.reason not in replies.RETRYABLE:
                    break
                if exc.reason in ("truncated", "whitespace_loop"):
                    request = replace(request, max_tokens=2 * room)
                continue
            wish = ask.complaint(value) if ask.complaint else None
            verdict = "accepted after a repair" if repaired else "accepted"
            self._note(so_far, request, reply, f"retry_{wish}" if wish else None, f"{wish}" if wish else verdict)
            fallback.append((value, repaired))
            if wish is None:
                fallback = fallback[-1:]
                break
        if not fallback:
            raise UnusableReply(last.reason, f"{ask.stage}: {last.detail}")
        value, repaired = fallback[0]
        so_far.repaired |= repaired
        return value

    def _note(
        self, so_far: _Progress, request: ChatRequest, reply: ChatReply | None, reason: str | None, verdict: str
    ) -> None:
        text = (reply and reply.text) or ""
        kept = text.encode("utf-8", "replace")[:8192].decode("utf-8", "ignore")
        so_far.attempts += (Attempt(request.key.stage, request.seed, kept, reason),)
        if reply:
            so_far.usage += Usage(reply.prompt_tokens, reply.completion_tokens)
            so_far.model = reply.model
        if self.observe is not None:
            self.observe(request, reply, verdict)


def _read(ask: Ask[Any], reply: ChatReply, several: LlmStage | None) -> tuple[Any, bool]:
    """What the task reads; of several models, `several` is the one that replied, whose `repair` counts."""
    value, repaired = ask.read(reply)
    if repaired and several and not several.repair:
        raise UnusableReply("json", "only a repair could read it, and `repair` of this model is false")
    return value, repaired
