"""Negatives that a language model writes, for corpora too small to mine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from synth.batching import first_usable, gathered
from synth.errors import UnusableReply
from synth.hashing import item_seed
from synth.negatives._choosing import Selector
from synth.negatives._negatives import Item, Negatives, Pool
from synth.prompts.templates import PairPrompt
from synth.registry import NestedLlm
from synth.replies.objects import read_object
from synth.sources.checks import storable
from synth.stage import (
    ChatReply,
    ChatRequest,
    NegativeInputs,
    ReplyKey,
)

__all__ = ["Written"]

_KEY = "Negatives"


def read_negatives(reply: ChatReply, count: int) -> list[str]:
    """The distinct passages in a reply, at most `count`. Raises UnusableReply with a reason of `synth.replies`."""
    values = read_object(reply, (_KEY,))[0]
    if _KEY not in values:
        raise UnusableReply("key", f"the keys {list(values)[:10]!r} lack {_KEY}")
    found = values[_KEY]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UnusableReply("type", f"{_KEY} is not a list of texts")
    texts = list(dict.fromkeys(storable(each.strip()) for each in found if each.strip()))
    if not texts:
        raise UnusableReply("empty", "the list holds no text")
    return texts[:count]


class Written(Negatives):
    """Passages that a language model writes to look like an answer to the query without answering it.

    They are checked like any other: against the positives, by the score rules and by the reranker. The model is the
    job's, or the `llm: {use: vllm_server, …}` of this source; the prompt is `prompts/negatives`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder", "chat"})
    advice: ClassVar[str] = "`not_written` counts pairs without a usable reply of the model; see `refused`"

    llm: NestedLlm | None = None
    """The model that writes; null for the job's `llm`."""
    prompts: str = "negatives"
    """Folder with `system.j2` and `write.j2`; `negatives` is the shipped one."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts per pair before it gets no written negatives."""
    max_tokens: Annotated[int, Field(ge=32)] = 2048
    """Token limit of a reply, which has all negatives of a pair."""

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"prompts": self._prompt().sha256}

    async def candidates(self, items: Sequence[Item], found: Sequence[Pool], selector: Selector) -> Sequence[Pool]:  # noqa: ARG002 - it searches nothing
        """What the model writes for each pair, if it passes the score rules."""
        assert selector.chat is not None  # noqa: S101 - a plan without one is refused
        chat, prompt = selector.chat, self._prompt()
        room = asyncio.Semaphore(chat.slots)

        async def write(item: Item) -> list[str]:
            async with room:
                requests = self._requests(item, prompt, selector.seed)
                return await first_usable(chat, requests, lambda reply: read_negatives(reply, self.num_negatives)) or []

        return await selector.judged(items, await gathered(write(item) for item in items), "written")

    def _prompt(self) -> PairPrompt:
        return PairPrompt(self.prompts, "write.j2", {"count": self.num_negatives})

    def _requests(self, item: Item, prompt: PairPrompt, seed: int) -> Iterator[ChatRequest]:
        count = self.num_negatives
        texts = {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}
        schema = {"type": "object", "properties": {_KEY: texts}, "required": [_KEY], "additionalProperties": False}
        for attempt in range(self.attempts):
            yield ChatRequest(
                ReplyKey(item.position, item.slot, "negatives", attempt),
                prompt.messages(item.query, item.passage),
                schema,
                "negatives",
                item_seed(seed, "negatives", item.position, item.slot, attempt),
                self.max_tokens,
                NegativeInputs(item.query, item.passage, count),
            )
