"""The retrieval task: for each slot of a passage, one call chooses who asks what, a second writes the query.

Slots of a passage run one after the other: stage one of a slot may not repeat a configuration, stage two sees the
queries already written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from synth import replies
from synth.errors import RequestRejected, UnusableReply
from synth.hashing import item_random, item_seed
from synth.languages import language, length_phrase
from synth.measures import copied_share, language_matches, length_error
from synth.prompts import Prompts, SystemPart, config_schema, neutralise, query_chars, query_schema
from synth.replies import echo_keys
from synth.stage import ChatModel, ChatReply, ChatRequest, ConfigInputs, QueryInputs, ReplyKey, Stage
from synth.tasks._options import Languages, Lengths, QuestionTypes, Weights, draw
from synth.types import Attempt, Candidates, Pair, Query, QueryConfig, Rejected, ReplyStage, Requirement, Usage, Written

__all__ = ["Retrieval"]


def drawn(candidates: Candidates, count: int, rng: random.Random) -> Candidates:
    """`count` of the nearest personas, still nearest first; all of them where there are no more."""
    if len(candidates.personas) <= count:
        return candidates
    chosen = sorted(rng.sample(range(len(candidates.personas)), count))
    return Candidates(
        candidates.passage,
        tuple(candidates.personas[n] for n in chosen),
        tuple(candidates.similarities[n] for n in chosen),
    )


def possible(config: QueryConfig, personas: tuple[str, ...], types: tuple[str, ...], levels: tuple[str, ...]) -> bool:
    """Whether a slot that is offered these could choose the configuration at all."""
    return (
        (not personas or config.character in personas)
        and config.question_type in types
        and (not levels or config.difficulty in levels)
    )


def only_choice(inputs: ConfigInputs) -> QueryConfig | None:
    """The configuration when nothing is left to choose: then stage one costs no call."""
    personas = inputs.candidates.personas
    if len(personas) > 1 or len(inputs.question_types) > 1 or len(inputs.difficulties) > 1:
        return None
    return QueryConfig(
        personas[0] if personas else None,
        inputs.question_types[0],
        inputs.difficulties[0] if inputs.difficulties else None,
    )


KEPT_REPLY_BYTES = 8192
"""How much of a reply a rejected row keeps."""

USUAL_ROOM = 512
"""Default of `llm.max_tokens`; what a job grants beyond it is meant for reasoning before the reply."""
FRAME_TOKENS = 24
"""Room for the JSON around a query."""

TOO_FAR = 0.5
"""`retry_on: [length]` asks again beyond this length error."""
TOO_ALIKE = 0.8
"""`retry_on: [copying]` asks again beyond this copied share."""

Value = TypeVar("Value")


@dataclass(slots=True)
class _Item:
    """What one item has cost so far."""

    slot: int
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""


class _Unusable(Exception):  # noqa: N818 - control flow inside this module, never seen outside
    """An item has run out of attempts, or cannot be asked at all."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
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


@dataclass(frozen=True, slots=True)
class Generator:
    """The retrieval task with its prompts rendered as far as a run fixes them."""

    task: Retrieval
    prompts: Prompts
    system: SystemPart
    settings: GeneratorSettings
    echoes: frozenset[str]
    """Queries that stand in the prompt, as `replies.echo_keys` gives them: to give one back is not to write one."""

    async def generate(
        self,
        candidates: Candidates,
        chat: ChatModel,
        slots: Sequence[int] | None = None,
        before: Sequence[Written] = (),
    ) -> list[Pair | Rejected]:
        """One outcome per slot (None: all), in slot order; `before` is what the passage has already.

        Raises only what `chat` raises for a server, never for an item.
        """
        outcomes: list[Pair | Rejected] = []
        written = list(before)
        for slot in range(self.task.queries_per_passage) if slots is None else slots:
            item = _Item(slot)
            try:
                pair = await self._item(item, candidates, chat, written)
            except _Unusable as end:
                outcomes.append(Rejected(candidates.passage, slot, end.reason, end.detail, item.attempts, item.usage))
            else:
                written.append(Written(pair.config, pair.query.text))
                outcomes.append(pair)
        return outcomes

    async def _item(self, item: _Item, candidates: Candidates, chat: ChatModel, before: list[Written]) -> Pair:
        config, repaired = await self._configure(item, candidates, chat, before)
        requirement = self._require(candidates, config, item.slot)
        written = tuple(each.text for each in before)
        inputs = QueryInputs(candidates, config, requirement, written)
        query = await self._write(item, inputs, chat)
        return Pair(
            passage=candidates.passage,
            slot=item.slot,
            config=config,
            requirement=requirement,
            query=replace(query, repaired=query.repaired or repaired),
            model=item.model,
            attempts=len(item.attempts),
            usage=item.usage,
        )

    async def _configure(
        self, item: _Item, candidates: Candidates, chat: ChatModel, before: list[Written]
    ) -> tuple[QueryConfig, bool]:
        inputs = self._choices(candidates, item.slot, tuple(each.config for each in before))
        if only := only_choice(inputs):
            return only, False
        text = self._shown(candidates)
        request = ChatRequest(
            key=ReplyKey(candidates.passage.position, item.slot, "config", 0),
            messages=self.prompts.config_messages(self.system, inputs, text),
            schema=config_schema(inputs),
            schema_name="query_config",
            seed=0,
            max_tokens=self.settings.max_tokens,
            inputs=inputs,
        )

        def read(reply: ChatReply) -> tuple[QueryConfig, bool]:
            return replies.read_config(reply, inputs, repair=self.settings.repair)

        return await self._ask(item, request, chat, read)

    def _choices(self, candidates: Candidates, slot: int, used: tuple[QueryConfig, ...]) -> ConfigInputs:
        rng = item_random(self.settings.seed, "choices", candidates.passage.position, slot)
        types = self.task.type_names()
        if self.task.question_types != "auto":
            types = (draw(self.task.question_types.weights(), rng),)
        levels = self.task.levels()
        if isinstance(self.task.difficulties, dict):
            levels = (draw(self.task.difficulties, rng),)
        offered = drawn(candidates, self.settings.top_k, rng)
        used = tuple(config for config in used if possible(config, offered.personas, types, levels))
        if len(set(used)) == max(1, len(offered.personas)) * len(types) * max(1, len(levels)):
            used = ()  # all were there; from now on any may come again
        return ConfigInputs(offered, types, levels, used)

    def _require(self, candidates: Candidates, config: QueryConfig, slot: int) -> Requirement:
        rng = item_random(self.settings.seed, "requirement", candidates.passage.position, slot)
        code = self.task.languages.choose(candidates.passage.language, rng)
        if code is None:
            raise _Unusable("no_language", f"task.languages has no rule for {candidates.passage.language!r}")
        if code == "und":
            raise _Unusable("no_language", "the passage's language is unknown and the query should share it")
        low, high = self.task.lengths.choose(config.question_type, rng)
        return Requirement(code, low, high, language(code).unit)

    async def _write(self, item: _Item, inputs: QueryInputs, chat: ChatModel) -> Query:
        position = inputs.candidates.passage.position
        requirement = inputs.requirement
        wanted = language(requirement.language)
        messages = self.prompts.query_messages(
            self.system,
            inputs,
            self._shown(inputs.candidates),
            length_phrase(wanted, requirement.length_min, requirement.length_max),
            wanted.name,
        )
        chars, room = query_chars(wanted, requirement.length_max), self.settings.max_tokens
        request = ChatRequest(
            key=ReplyKey(position, item.slot, "query", 0),
            messages=messages,
            schema=query_schema(chars),
            schema_name="query",
            seed=0,
            max_tokens=min(room, chars + FRAME_TOKENS + max(0, room - USUAL_ROOM)),
            inputs=inputs,
        )

        def read(reply: ChatReply) -> Query:
            return replies.read_query(reply, inputs, repair=self.settings.repair, echoes=self.echoes)

        return await self._ask(item, request, chat, read, self._complaint)

    def _complaint(self, query: Query, inputs: QueryInputs) -> str | None:
        """Why `retry_on` would ask again, or None; the last attempt is accepted all the same."""
        requirement = inputs.requirement
        if "language" in self.task.retry_on and language_matches(query.text, requirement.language) is False:
            return "language"
        if "length" in self.task.retry_on and length_error(query.text, requirement) > TOO_FAR:
            return "length"
        keywords = inputs.config.question_type == "keywords"
        passage = inputs.candidates.passage.text
        if "copying" in self.task.retry_on and not keywords and copied_share(query.text, passage) > TOO_ALIKE:
            return "copying"
        return None

    async def _ask(
        self,
        item: _Item,
        request: ChatRequest,
        chat: ChatModel,
        read: Callable[[ChatReply], Value],
        complaint: Callable[[Value, QueryInputs], str | None] | None = None,
    ) -> Value:
        """Ask up to `attempts` times for something that `read` accepts, each time with a seed of its own."""
        last = UnusableReply("empty", "no reply")
        fallback: list[Value] = []
        max_tokens = request.max_tokens
        for attempt in range(self.task.attempts):
            key = replace(request.key, attempt=attempt)
            seed = item_seed(self.settings.seed, key.stage, key.position, key.slot, attempt)
            try:
                reply = await chat.complete(replace(request, key=key, seed=seed, max_tokens=max_tokens))
            except RequestRejected as exc:
                _note(item, key.stage, seed, None, exc.reason)
                last = UnusableReply(exc.reason, exc.detail)
                break
            try:
                value = read(reply)
            except UnusableReply as exc:
                last = exc
                _note(item, key.stage, seed, reply, exc.reason)
                if exc.reason not in replies.RETRYABLE:
                    break
                if exc.reason in ("truncated", "whitespace_loop"):
                    max_tokens = request.max_tokens * 2
                continue
            wish = complaint(value, request.inputs) if complaint and isinstance(request.inputs, QueryInputs) else None
            _note(item, key.stage, seed, reply, f"retry_{wish}" if wish else None)
            if wish is None:
                return value
            fallback.append(value)
        if fallback:
            return fallback[0]
        raise _Unusable(last.reason, f"{request.key.stage}: {last.detail}")

    def _shown(self, candidates: Candidates) -> str:
        passage = candidates.passage
        return passage.text if passage.source in self.settings.plain_sources else neutralise(passage.text)[0]


def _note(item: _Item, stage: ReplyStage, seed: int, reply: ChatReply | None, reason: str | None) -> None:
    text = (reply.text or "") if reply else ""
    kept = text.encode("utf-8", "replace")[:KEPT_REPLY_BYTES].decode("utf-8", "ignore")
    item.attempts += (Attempt(stage, seed, kept, reason),)
    if reply:
        item.usage += Usage(reply.prompt_tokens, reply.completion_tokens)
        item.model = reply.model


PROMPT_SETS = {"default": "retrieval", "small": "retrieval-small"}
QUESTION_TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
DIFFICULTIES = ("high_school", "university", "phd")


class Retrieval(Stage):
    """Search queries for passages, in two calls: first who asks what kind of question, then the query itself."""

    queries_per_passage: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many queries each passage gets (its slots)."""
    question_types: Literal["auto"] | QuestionTypes = "auto"
    """`auto`: the model chooses. Or weights by type; a type of your own needs `means: "..."`."""
    difficulties: Literal["auto"] | Weights | None = "auto"
    """`auto`: the model chooses. Or weights by level. null: none is asked."""
    languages: Languages = Languages.model_validate({"same": 1.0})
    """Query languages by weight, flat or by passage language; `same` is the passage's own."""
    lengths: Lengths = Lengths.model_validate({"default": [{"range": [3, 7]}, {"range": [8, 24], "weight": 3.0}]})
    """Inclusive length ranges by question type, in the query language's unit."""
    instruction: str = "Given a question, retrieve passages that answer it"
    """One English sentence on the retrieval task: for query vectors, rerankers and exports."""
    guidance: str | None = None
    """A sentence or two on who searches here and why; becomes part of the prompt."""
    examples: str | None = None
    """A JSONL file of your own worked examples in place of the shipped three."""
    prompts: str = "default"
    """`default`, `small` (short, for models below some four billion parameters), or a folder of your own templates."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Replies asked for per stage before an item is rejected."""
    retry_on: list[Literal["language", "length", "copying"]] = Field(default=[])
    """Ask again before accepting a query in the wrong language, of the wrong length, or copied."""

    @model_validator(mode="after")
    def _explained(self) -> Retrieval:
        if self.question_types != "auto":
            own = self.question_types.meanings()
            for name in self.question_types.weights():
                if name not in (*QUESTION_TYPES, *own):
                    raise ValueError(
                        f"question type {name!r} is not one of {', '.join(QUESTION_TYPES)}; "
                        f'explain your own: {name}: {{weight: 1, means: "..."}}'
                    )
        kinds = ("default", *QUESTION_TYPES, *self.type_names())
        if strangers := [name for name in self.lengths.root if name not in kinds]:
            raise ValueError(f"lengths names {strangers[0]!r}, which is not one of {', '.join(dict.fromkeys(kinds))}")
        unknown = [level for level in self.levels() if level not in DIFFICULTIES]
        if unknown:
            raise ValueError(f"difficulty {unknown[0]!r} is not one of {', '.join(DIFFICULTIES)}")
        return self

    def type_names(self) -> tuple[str, ...]:
        """The question types in play, in the job's order."""
        return QUESTION_TYPES if self.question_types == "auto" else tuple(self.question_types.weights())

    def levels(self) -> tuple[str, ...]:
        """The difficulties in play; none where the job asks for none."""
        if self.difficulties is None:
            return ()
        return DIFFICULTIES if self.difficulties == "auto" else tuple(self.difficulties)

    @property
    def prompt_folder(self) -> str:
        """The folder that `prompts` names."""
        return PROMPT_SETS.get(self.prompts, self.prompts)

    def choices(self, personas: int) -> tuple[str, ...]:
        """The keys of stage one that the model chooses; the others are drawn, or have a single value."""
        offered = {
            "Character": personas,
            "Question_Type": len(self.type_names()) if self.question_types == "auto" else 1,
            "Difficulty": len(self.levels()) if self.difficulties == "auto" else 1,
        }
        return tuple(key for key, count in offered.items() if count > 1)

    def open(self, prompts: Prompts, settings: GeneratorSettings) -> Generator:
        """Ready to generate: the part of the prompt that a run fixes is rendered here, once."""
        own = {} if self.question_types == "auto" else self.question_types.meanings()
        meanings: Mapping[str, str] = {**prompts.definitions.question_types, **own}
        system = prompts.system(
            types={name: meanings[name] for name in self.type_names()},
            difficulties={level: prompts.definitions.difficulties[level] for level in self.levels()},
            guidance=self.guidance,
            examples=prompts.examples,
            personas=settings.top_k > 0,
            choices=self.choices(settings.top_k),
        )
        echoes = echo_keys(text for example in prompts.examples for text in (example.query, example.passage))
        return Generator(self, prompts, system, settings, frozenset(echoes))
