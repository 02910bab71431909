"""A stage is its options, and the seams through which stages reach models.

Every configurable thing (LLM backend, embedder, task, scorer) is one frozen `Stage`: its fields are the keys in the
job file, its docstring is its help, its one method its behaviour. Services come in as arguments, so a stage can be
hashed, pickled and tested without a server. Three protocols are all that the pipeline knows of models.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from synth.types import Candidates, QueryConfig, Requirement

JsonSchema = Mapping[str, Any]
Tokenize = Callable[[Sequence[tuple[str, str]]], Sequence[Hashable]]
"""The messages of a request, (role, content), as the tokens that the model reads."""
Role = Literal["query", "document"]


class Stage(BaseModel):
    """Frozen, strict options of one thing that a job can name with `use:`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    tuning: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where or how fast a stage runs, never what it yields: left out of `identity`."""

    @property
    def models(self) -> dict[str, ModelStage]:
        return {name: value for name, value in self if isinstance(value, ModelStage)}

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out, as JSON values: what resume compares."""
        nested = {name: {"use": name_of(model)} | model.identity() for name, model in self.models.items()}
        return self.model_dump(mode="json", exclude={*self.tuning, *nested}) | nested


def name_of(stage: Stage) -> str:
    """The name that `use:` has for a stage: `cosine`, or `package.module:Class` for a user's own."""
    cls = type(stage)
    parts = cls.__module__.split(".")
    plugin = len(parts) == 3 and parts[0] == "synth" and not parts[2].startswith("_")  # noqa: PLR2004 - synth.KIND.NAME
    return parts[2] if plugin else f"{cls.__module__}:{cls.__qualname__}"


class Clock:
    """The machine's clocks, which a test replaces: `now` is monotonic seconds, `wall` seconds since 1970."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How to treat a server: the job's `run` and `limits`, none of which changes what it answers.

    `request_timeout`, `outage`, `startup` and `stall` are seconds; `concurrency` None means: find it.
    """

    concurrency: int | None = None
    request_timeout: float = 600.0
    outage: float = 1800.0
    startup: float = 900.0
    stall: float = 900.0
    stopping: Callable[[], bool] = lambda: False
    """While true, a request that failed is not sent again: its call raises Stopped."""
    notify: Callable[[str], None] = print
    """Called with one line when a server goes away, throttles or comes back; rare, safe to print."""
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, slots=True)
class ConfigInputs:
    """What stage one's prompt is rendered from."""

    candidates: Candidates
    question_types: tuple[str, ...]
    difficulties: tuple[str, ...]
    """Empty where the job asks for no difficulty."""
    used: tuple[QueryConfig, ...]
    """Configurations already used for this passage, which must not come again."""
    may_end: bool = False
    """Whether the model may answer that nothing is left to ask of the passage."""
    typing: str = ""
    """As in `QueryInputs`: templates whose stages share a beginning need it in both."""

    @property
    def offered(self) -> dict[str, tuple[str, ...]]:
        """The values of each key of the reply, a Character by its sentence; a key without any is not asked for."""
        people = self.candidates.personas
        return {
            "Question_Type": (*self.question_types, NONE) if self.may_end else self.question_types,
            "Character": (*people, NONE) if people else (),
            "Difficulty": self.difficulties,
        }


NONE = "none"
"""What stage one answers where no candidate fits (Character), or nothing is left to ask (Question_Type)."""


@cache
def letters(count: int) -> tuple[str, ...]:
    """Names of `count` candidates: A to Z, then AA, AB and so on."""
    return tuple((chr(64 + n // 26) if n >= 26 else "") + chr(65 + n % 26) for n in range(count))  # noqa: PLR2004 - letters


@dataclass(frozen=True, slots=True)
class QueryInputs:
    """What stage two's prompt is rendered from."""

    candidates: Candidates
    config: QueryConfig
    requirement: Requirement
    written: tuple[str, ...]
    """Queries already written for this passage."""
    form: str = ""
    """How the question is put, a key of the task's `forms`; empty where the templates do not ask for one."""
    typing: str = ""
    """How it is typed, a key of the task's `typing`; empty as above."""
    styles: tuple[str, ...] = ()
    """Real queries whose manner it shall have."""
    answer: bool = False
    """Whether the reply also quotes the words of the passage that answer the query."""


@dataclass(frozen=True, slots=True)
class TextInputs:
    """The text that a task other than retrieval asks about: the test double takes the words of its answers from it."""

    text: str


@dataclass(frozen=True, slots=True)
class JudgeInputs:
    """What a judge's prompt is rendered from."""

    query: str
    passage: str


@dataclass(frozen=True, slots=True)
class NegativeInputs:
    """What the prompt for written negatives is rendered from."""

    query: str
    passage: str
    count: int


@dataclass(frozen=True, slots=True)
class ReplyKey:
    """Names one model call for good: the same key means the same question, also after a crash."""

    position: int
    slot: int
    stage: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a chat model: the rendered messages and the inputs they were rendered from.

    `messages` are (role, content); `seed` has 63 bits; all requests of one `key.position` should meet the same
    server, because they share the prefix that ends with the passage.
    """

    key: ReplyKey
    messages: tuple[tuple[str, str], ...]
    schema: JsonSchema
    schema_name: str
    seed: int
    max_tokens: int
    inputs: ConfigInputs | QueryInputs | TextInputs | JudgeInputs | NegativeInputs | None = None
    """None where only the messages are given."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back, unjudged; `text` None and `finish_reason` other than `stop` are normal values here."""

    text: str | None
    finish_reason: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatModel(Protocol):
    """Answers one request; keep `slots` requests in flight.

    It retries by itself, and raises only RequestRejected, ServerRefused and ServerUnavailable. `troubled` is true while
    no server answers: then the run waits for `limits.outage`, not for `limits.stall`.
    """

    @property
    def slots(self) -> int: ...

    @property
    def troubled(self) -> bool: ...

    async def complete(self, request: ChatRequest) -> ChatReply: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of some texts, and which of them the model saw only a part of.

    `vectors`: float32 (n, width), unit length, row i for text i; `truncated`: bool (n,).
    """

    vectors: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    silent: bool = False
    """Whether the model may cut a text and not say so: what is not marked as truncated is unknown then."""


class Encoder(Protocol):
    """Turns texts into unit vectors. Queries get the model's query template, documents go in as they are."""

    async def encode(self, texts: Sequence[str], role: Role) -> Encoded: ...

    async def close(self) -> None: ...


class Reranker(Protocol):
    """Reads a query and a document together and says how probably the document meets the query.

    `score` gives float64 (n,), one P(yes) in 0..1 for each (query, document), NaN where the model will never answer
    that pair (too long, no verdict). It raises ServerRefused, ServerUnavailable, JobError; `batch_size` pairs make one
    request.
    """

    @property
    def batch_size(self) -> int: ...

    async def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The open models a step may use; None where the job names none or the step needs none."""

    chat: ChatModel | None = None
    encoder: Encoder | None = None
    reranker: Reranker | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one server, or one local model, answered to a probe; None where a fact does not apply or is unknown."""

    server: str
    """URL without secrets, or the path of a local model."""
    reachable: bool
    problems: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    max_model_len: int | None = None
    version: str | None = None
    engines: int | None = None
    """Data-parallel engines behind the URL."""
    constrained: bool | None = None
    """Whether the reply followed a schema that the model would not follow by chance."""
    dimension: int | None = None
    norm: float | None = None
    """Length of a vector before normalisation."""
    paraphrase: float | None = None
    """How near an answer is to its question: the cosine of an embedder, P(yes) of a reranker."""
    unrelated: float | None = None
    """The same for an unrelated text; must be the lower one."""
    remote: bool = False
    """Whether texts leave this machine."""


@runtime_checkable
class Probing(Protocol):
    """An open model that `synth check` can ask what it serves."""

    async def probe(self) -> list[ProbeResult]: ...


class ModelStage(Stage):
    """Base of everything that opens a model: `llm`, `embed` and `rerank`."""

    service: ClassVar[str]
    """The field of `Services` that its model fills."""

    model: str = ""
    """The model's name."""

    @property
    def gpus(self) -> int:
        """GPUs that the model takes in the process that opens it."""
        return 0

    def urls(self) -> list[str]:
        """Base URLs of its servers; empty for a model in this process."""
        return []


class LlmStage(ModelStage):
    """Base of language models, the job key `llm`."""

    service: ClassVar[str] = "chat"
    judges: ClassVar[bool] = True
    """Whether it understands texts well enough to grade pairs."""

    max_tokens: int = Field(default=512, gt=0)
    """Most tokens of one reply; a reply cut there is asked again once with twice as many."""
    repair: bool = True
    """Accept replies whose JSON needs a stated small repair."""

    def drawn(self, position: int, slot: int, stage: str) -> LlmStage:  # noqa: ARG002 - where there are several
        """The model that this call of an item is asked of: this one, unless a job has several."""
        return self

    def writes(self, query: str, passage: str) -> bool:  # noqa: ARG002 - for models that know fewer languages
        """Whether it can write a query in one language for a passage in another; both are language codes."""
        return True

    def tokenizer(self) -> Tokenize | None:
        """The model's tokenizer; None where this machine does not have it."""
        return None

    @abstractmethod
    def open(self, client: ClientSettings) -> ChatModel:
        """The model; nothing is loaded or connected before its first request."""


class EmbedStage(ModelStage):
    """Base of embedders, the job key `embed`."""

    service: ClassVar[str] = "encoder"

    @abstractmethod
    def open(self, client: ClientSettings, instruction: str) -> Encoder:
        """The model; queries get `instruction`, which says what is searched for."""


class RerankStage(ModelStage):
    """Base of rerankers, the key `model` of the score `reranker`."""

    service: ClassVar[str] = "reranker"

    @abstractmethod
    def open(self, client: ClientSettings, instruction: str) -> Reranker:
        """The model; it scores with `instruction`, which says what is searched for."""


def open_models(stage: Stage, client: ClientSettings, instruction: str) -> dict[str, ChatModel | Encoder | Reranker]:
    """The models among the options of a stage, by field of `Services`; the caller closes them."""
    opened: dict[str, ChatModel | Encoder | Reranker] = {}
    for model in stage.models.values():
        if isinstance(model, LlmStage):
            opened[model.service] = model.open(client)
        elif isinstance(model, EmbedStage | RerankStage):
            opened[model.service] = model.open(client, instruction)
    return opened
