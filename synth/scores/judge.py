"""Grades by a language model: whether the passage is what the query is after, and answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field, SerializeAsAny

from synth.answers import Memory, gathered, key_of
from synth.errors import JobError, RequestRejected, UnusableReply
from synth.nested import resolve, stage_identity
from synth.scores._batch import PairBatch
from synth.scores._judging import SCHEMA, Grades, JudgePrompt, read_grades
from synth.scores._scorer import ScoreColumn, Scorer
from synth.seeds import item_seed
from synth.stage import ChatModel, ChatReply, ChatRequest, ClientSettings, JudgeInputs, ReplyKey, Services, Stage

__all__ = ["Judge"]

_FINAL = "filtered"
"""The reason after which asking again gives the same."""


def _llm(value: object) -> object:
    return resolve("llm", value)


class Judge(Scorer):
    """Relevance and answerability of each pair, graded 1 to 5 by a language model.

    The model is the job's own, or `llm: {use: vllm_server, …}` of this scorer: a model that grades its own queries is
    kinder than another one. The prompt is `prompts/judge`: fixed text, passage, query. Replies are held to a schema;
    one that holds no grades is asked again, and after `attempts` the grades are null.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"chat"})
    outputs = (
        ScoreColumn("judge_relevance", pa.int64(), low=1, high=5),
        ScoreColumn("judge_answerability", pa.int64(), low=1, high=5),
    )

    llm: Annotated[SerializeAsAny[Stage] | None, BeforeValidator(_llm)] = None
    """The grader and where it runs; null takes the job's `llm`."""
    instruction: str | None = None
    """A sentence on what the searches are for, shown to the grader."""
    prompts: str = "judge"
    """Folder with `system.j2` and `grade.j2`; `judge` is the shipped one."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a pair is asked before its grades stay null."""
    max_tokens: Annotated[int, Field(ge=8)] = 64
    """Room for one reply; a model that thinks needs more."""
    seed: int = 0
    """Of the sampling, together with the pair's place and the attempt."""

    def at(self, base: Path) -> Self:
        """With a folder of templates where the job has it, unless it is the shipped one."""
        own = base / Path(self.prompts).expanduser()
        return self.model_copy(update={"prompts": str(own)}) if own.is_dir() else self

    def identity(self) -> dict[str, Any]:
        """The options, with the templates as they are and without where the model runs."""
        own = None if self.llm is None else stage_identity(self.llm)
        return super().identity() | {"llm": own, "prompts": JudgePrompt.load(self.prompts).sha256}

    @property
    def brings(self) -> frozenset[str]:
        """Its own model, if it has one."""
        return frozenset() if self.llm is None else self.needs

    def open(self, client: ClientSettings, instruction: str) -> Mapping[str, ChatModel]:  # noqa: ARG002 - has its own
        """The model of `llm`, if it is given."""
        opener: Any = self.llm
        return {} if opener is None else {"chat": opener.open(client)}

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Ask for each distinct pair; the queries of a passage come one after another. Raises what the chat raises."""
        if services.chat is None:
            raise JobError("scores: judge: needs a language model.", "Add `llm:` to it or to the job.")
        bench = _Bench(self, services.chat, JudgePrompt.load(self.prompts), batch.remember)
        rows = list(zip(batch.texts("passage"), batch.texts("query"), strict=True))
        place = {row: batch.first + n for n, row in reversed(list(enumerate(rows)))}
        passages: dict[str, list[str]] = {}
        for passage, query in dict.fromkeys(rows):
            passages.setdefault(passage, []).append(query)
        room = asyncio.Semaphore(services.chat.slots)

        async def of(passage: str, queries: list[str]) -> dict[tuple[str, str], Grades | None]:
            first = place[passage, queries[0]]
            async with room:
                return {(passage, q): await bench.grades(q, passage, first, place[passage, q] - first) for q in queries}

        found: dict[tuple[str, str], Grades | None] = {}
        for answers in await gathered(of(passage, queries) for passage, queries in passages.items()):
            found |= answers
        grades = [found[row] for row in rows]
        return self.table([g and g.relevance for g in grades], [g and g.answerability for g in grades])


@dataclass(frozen=True, slots=True)
class _Bench:
    judge: Judge
    chat: ChatModel
    prompt: JudgePrompt
    memory: Memory | None

    async def grades(self, query: str, passage: str, position: int, slot: int) -> Grades | None:
        """The first usable verdict, None after the last attempt or where the model will never answer."""
        for attempt in range(self.judge.attempts):
            request = ChatRequest(
                ReplyKey(position, slot, "judge", attempt),
                self.prompt.messages(query, passage, self.judge.instruction or ""),
                SCHEMA,
                "grades",
                item_seed(self.judge.seed, "judge", position, slot, attempt),
                self.judge.max_tokens,
                JudgeInputs(query, passage),
            )
            try:
                return read_grades(await self._reply(request))
            except RequestRejected:
                return None
            except UnusableReply as problem:
                if problem.reason == _FINAL:
                    return None
        return None

    async def _reply(self, request: ChatRequest) -> ChatReply:
        key = key_of("judge", str(request.seed), *(content for _, content in request.messages))
        known = self.memory.get(key) if self.memory is not None else None
        if known is not None and "rejected" in known:
            raise RequestRejected(known["rejected"])
        if known is not None:
            return ChatReply(**known)
        try:
            reply = await self.chat.complete(request)
        except RequestRejected as rejection:
            if self.memory is not None:
                self.memory.append(key, {"rejected": rejection.reason})
            raise
        if self.memory is not None:
            self.memory.append(key, asdict(reply))
        return reply
