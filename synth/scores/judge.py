"""Grades by a language model: whether the passage is what the query is after, and answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import Field

from synth.batching import first_usable, gathered
from synth.errors import UnusableReply
from synth.hashing import item_seed
from synth.names import path_of
from synth.prompts.templates import PairPrompt
from synth.registry import NestedLlm
from synth.replies.objects import read_object
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import ChatReply, ChatRequest, JsonSchema, JudgeInputs, ReplyKey, Services

__all__ = ["Judge"]

GRADES = range(1, 6)
_KEYS = ("Relevance", "Answerability")

SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {key: {"type": "integer", "enum": list(GRADES)} for key in _KEYS},
    "required": list(_KEYS),
    "additionalProperties": False,
}


Grades = tuple[int, int]
"""Relevance and answerability, 1 to 5 each."""


def read_grades(reply: ChatReply) -> Grades:
    """The verdict in a reply. Raises UnusableReply with a reason of `synth.replies`."""
    values = read_object(reply, _KEYS)[0]
    grades = []
    for key in _KEYS:
        if key not in values:
            raise UnusableReply("key", f"no {key} among the keys {list(values)[:10]!r}")
        value = values[key]
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise UnusableReply("type", f"{key} is a {type(value).__name__}, not a whole number")
        if value not in GRADES:
            raise UnusableReply("enum", f"{key} is {value}, not 1 to 5")
        grades.append(value)
    return grades[0], grades[1]


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

    llm: NestedLlm | None = None
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
        own = base / path_of(self.prompts)
        return self.model_copy(update={"prompts": str(own)}) if own.is_dir() else self

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"prompts": self._prompt().sha256}

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Ask for each distinct pair; the queries of a passage come one after another. Raises what the chat raises."""
        assert services.chat is not None  # noqa: S101 - a job without one is refused
        chat, prompt = services.chat, self._prompt()
        rows = list(zip(batch.texts("passage"), batch.texts("query"), strict=True))
        place = {row: batch.first + n for n, row in reversed(list(enumerate(rows)))}
        passages: dict[str, list[str]] = {}
        for passage, query in dict.fromkeys(rows):
            passages.setdefault(passage, []).append(query)
        room = asyncio.Semaphore(chat.slots)

        async def of(passage: str, queries: list[str]) -> dict[tuple[str, str], Grades | None]:
            first = place[passage, queries[0]]
            asked = {q: self._requests(prompt, q, passage, first, place[passage, q] - first) for q in queries}
            async with room:
                return {(passage, q): await first_usable(chat, requests, read_grades) for q, requests in asked.items()}

        found: dict[tuple[str, str], Grades | None] = {}
        for answers in await gathered(of(passage, queries) for passage, queries in passages.items()):
            found |= answers
        grades = [found[row] or (None, None) for row in rows]
        return self.table([relevance for relevance, _ in grades], [answerability for _, answerability in grades])

    def _prompt(self) -> PairPrompt:
        return PairPrompt(self.prompts, "grade.j2", {"instruction": self.instruction or ""})

    def _requests(
        self, prompt: PairPrompt, query: str, passage: str, position: int, slot: int
    ) -> Iterator[ChatRequest]:
        for attempt in range(self.attempts):
            yield ChatRequest(
                ReplyKey(position, slot, "judge", attempt),
                prompt.messages(query, passage),
                SCHEMA,
                "grades",
                item_seed(self.seed, "judge", position, slot, attempt),
                self.max_tokens,
                JudgeInputs(query, passage),
            )
