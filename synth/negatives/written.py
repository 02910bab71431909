"""Negatives that a language model writes, for corpora too small to mine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, SerializeAsAny

from synth.batching import gathered
from synth.errors import JobError, RequestRejected, UnusableReply
from synth.hashing import item_seed
from synth.negatives._choosing import Pool, Selector
from synth.negatives._negatives import Item, Negatives
from synth.prompts import neutralise
from synth.prompts.templates import Templates
from synth.registry import resolve, stage_identity
from synth.replies.objects import read_object
from synth.search import Corpus
from synth.shipped import find
from synth.sources.checks import storable
from synth.stage import (
    ChatModel,
    ChatReply,
    ChatRequest,
    ClientSettings,
    Encoder,
    JsonSchema,
    NegativeInputs,
    ReplyKey,
    Reranker,
    Stage,
)
from synth.types import MinedPair

__all__ = ["Written"]

_KEY = "Negatives"
_FILES = ("system.j2", "write.j2")


def schema(count: int) -> JsonSchema:
    """An object with a list of `count` texts."""
    texts = {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {_KEY: texts}, "required": [_KEY], "additionalProperties": False}


class WriterPrompt:
    """Templates of one folder: `system.j2`, which never varies, and `write.j2` with passage, query and number."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.sha256 = hashlib.sha256(b"\0".join(files[name] for name in _FILES)).hexdigest()
        self._templates = Templates(folder, {name: content.decode() for name, content in files.items()})
        self._templates.check_names("system.j2", {})
        self._templates.check_names("write.j2", {"passage": "", "query": "", "count": 1})
        for variable in ("passage", "query"):
            if not self._templates.mentions("write.j2", variable):
                raise JobError(f"{folder / 'write.j2'}: the {variable} is not in it.", f"Add {{{{ {variable} }}}}.")

    @classmethod
    def load(cls, name: str) -> WriterPrompt:
        """The templates of a shipped folder or one of the user's. Raises JobError."""
        folder = find("prompts", name, Path.cwd())
        try:
            return cls(folder, {file: (folder / file).read_bytes() for file in _FILES})
        except OSError as exc:
            raise JobError(f"{exc.filename}: {exc.strerror}.", "`prompts:` of `written` names a folder.") from exc
        except UnicodeDecodeError as exc:
            raise JobError(f"{folder}: a template is not UTF-8 ({exc}).") from exc

    def messages(self, query: str, passage: str, count: int) -> tuple[tuple[str, str], ...]:
        """Fixed text, then passage and query: all pairs of a passage share what stands before the query."""
        values = {"passage": neutralise(passage)[0], "query": neutralise(query)[0], "count": count}
        return (
            ("system", self._templates.render("system.j2", {})),
            ("user", self._templates.render("write.j2", values)),
        )


def read_negatives(reply: ChatReply, count: int) -> list[str]:
    """The distinct passages in a reply, at most `count`. Raises UnusableReply with a reason of `synth.replies`."""
    if reply.finish_reason == "content_filter":
        raise UnusableReply("filtered", "the server's content filter stopped the reply")
    if reply.finish_reason == "length":
        raise UnusableReply("truncated", "the reply reached its token limit")
    if not (reply.text or "").strip():
        raise UnusableReply("empty", "the reply has no text")
    values = read_object(reply.text or "", lambda found: _KEY in found, repair=True).values
    if _KEY not in values:
        raise UnusableReply("key", f"there is no {_KEY} among the keys {list(values)[:10]!r}")
    found = values[_KEY]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UnusableReply("type", f"{_KEY} is not a list of texts")
    texts = list(dict.fromkeys(storable(each.strip()) for each in found if each.strip()))
    if not texts:
        raise UnusableReply("empty", "the list holds no text")
    return texts[:count]


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

    def corpus_problem(self, passages: int) -> tuple[str, str] | None:
        """Any corpus will do."""
        return None if passages else ("the corpus has no passage", "Name one with --corpus.")

    def search(self, items: Sequence[Item], corpus: Corpus, most: int) -> Sequence[Pool]:  # noqa: ARG002 - it searches nothing
        """Nothing: what is written is written when it is chosen."""
        return [Pool() for _ in items]

    async def choose(self, items: Sequence[Item], pools: Sequence[Pool], selector: Selector) -> Sequence[MinedPair]:  # noqa: ARG002 - they are empty
        """What the model writes for each pair, as far as it passes the rules and checks."""
        if selector.chat is None:
            raise JobError("written: needs a language model.", "Add `llm` to it, or to the job.")
        writer = _Writer(self, selector.chat, WriterPrompt.load(self.prompts), selector.seed)
        room = asyncio.Semaphore(selector.chat.slots)

        async def one(item: Item) -> list[str]:
            async with room:
                return await writer.write(item)

        texts = await gathered(one(item) for item in items)
        return await selector.choose(items, await selector.judged(items, texts, "written"))


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
