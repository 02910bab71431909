"""Negatives that a language model writes, for corpora too small to mine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, SerializeAsAny

from synth.answers import gathered
from synth.errors import JobError, RequestRejected, UnusableReply
from synth.negatives._choosing import Desk, Found, Pool
from synth.negatives._corpus import Corpus
from synth.negatives._items import Item
from synth.negatives._options import Negatives
from synth.negatives._writing import WriterPrompt, read_negatives, schema
from synth.nested import resolve, stage_identity
from synth.seeds import item_seed
from synth.stage import ChatModel, ChatRequest, ClientSettings, Encoder, NegativeInputs, ReplyKey, Reranker, Stage

__all__ = ["Written"]

_FINAL = "filtered"
"""The reason after which asking again gives the same."""


def _llm(value: object) -> object:
    return resolve("llm", value)


class Written(Negatives):
    """Passages that a language model writes to look like an answer to the query and to be none.

    They are checked like any other: against the positives, by the score rules and by the reranker. The model is the
    job's own, or `llm: {use: vllm_server, …}` of this source; the prompt is `prompts/negatives`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder", "chat"})
    advice: ClassVar[str] = "`not_written` counts pairs to which the model gave no usable reply; see `refused`"

    llm: Annotated[SerializeAsAny[Stage] | None, BeforeValidator(_llm)] = None
    """The writer and where it runs; null takes the job's `llm`."""
    prompts: str = "negatives"
    """Folder with `system.j2` and `write.j2`; `negatives` is the shipped one."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a pair is asked before it ends without written ones."""
    max_tokens: Annotated[int, Field(ge=32)] = 2048
    """Room for one reply, which holds all negatives of a pair."""

    def identity(self) -> dict[str, Any]:
        """The options, with the templates as they are and without where the model runs."""
        own = None if self.llm is None else stage_identity(self.llm)
        return super().identity() | {"llm": own, "prompts": WriterPrompt.load(self.prompts).sha256}

    def open(self, client: ClientSettings, instruction: str) -> Mapping[str, ChatModel | Encoder | Reranker]:
        """The reranker and the writer, where they are given."""
        opener: Any = self.llm
        own = {} if opener is None else {"chat": opener.open(client)}
        return {**super().open(client, instruction), **own}

    def unfit(self, passages: int) -> tuple[str, str] | None:
        """Any corpus will do."""
        return None if passages else ("the corpus has no passage", "Name one with --corpus.")

    def search(self, items: Sequence[Item], corpus: Corpus, most: int) -> Sequence[Pool]:  # noqa: ARG002 - it searches nothing
        """Nothing: what is written is written when it is chosen."""
        return [Pool() for _ in items]

    async def choose(self, items: Sequence[Item], pools: Sequence[Pool], desk: Desk) -> Sequence[Found]:  # noqa: ARG002 - they are empty
        """What the model writes for each pair, as far as it passes the rules and checks."""
        if desk.chat is None:
            raise JobError("written: needs a language model.", "Add `llm` to it, or to the job.")
        writer = _Writer(self, desk.chat, WriterPrompt.load(self.prompts), desk.seed)
        room = asyncio.Semaphore(desk.chat.slots)

        async def one(item: Item) -> list[str]:
            async with room:
                return await writer.write(item)

        texts = await gathered(one(item) for item in items)
        return await desk.choose(items, await desk.judged(items, texts, "written"))


@dataclass(frozen=True, slots=True)
class _Writer:
    options: Written
    chat: ChatModel
    prompt: WriterPrompt
    seed: int

    async def write(self, item: Item) -> list[str]:
        """The first usable reply's passages; none after the last attempt or where the model will never answer."""
        count = self.options.num_negatives
        for attempt in range(self.options.attempts):
            request = ChatRequest(
                ReplyKey(item.position, item.slot, "negatives", attempt),
                self.prompt.messages(item.query, item.passage, count),
                schema(count),
                "negatives",
                item_seed(self.seed, "negatives", item.position, item.slot, attempt),
                self.options.max_tokens,
                NegativeInputs(item.query, item.passage, count),
            )
            try:
                return read_negatives(await self.chat.complete(request), count)
            except RequestRejected:
                return []
            except UnusableReply as problem:
                if problem.reason == _FINAL:
                    return []
        return []
