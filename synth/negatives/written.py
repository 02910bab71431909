"""Negatives that a language model writes, for corpora too small to mine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from synth.batching import gathered
from synth.errors import JobError, RequestRejected, UnusableReply
from synth.hashing import item_seed
from synth.negatives._choosing import Pool, Selector
from synth.negatives._negatives import Item, Negatives
from synth.prompts import neutralise
from synth.prompts.templates import Templates
from synth.registry import NestedLlm, stage_identity
from synth.replies import whole_text
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
    """The templates of a folder: `system.j2`, which is fixed, and `write.j2` with passage, query and count."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.sha256 = hashlib.sha256(b"\0".join(files[name] for name in _FILES)).hexdigest()
        self._templates = Templates(folder, {name: content.decode() for name, content in files.items()})
        self._templates.check_names("system.j2", {})
        self._templates.check_names("write.j2", {"passage": "", "query": "", "count": 1})
        for variable in ("passage", "query"):
            if not self._templates.mentions("write.j2", variable):
                raise JobError(f"{folder / 'write.j2'}: does not use the {variable}.", f"Add {{{{ {variable} }}}}.")

    @classmethod
    def load(cls, name: str) -> WriterPrompt:
        """The templates of a shipped folder or one of the user's. Raises JobError."""
        folder = find("prompts", name, Path.cwd())
        try:
            return cls(folder, {file: (folder / file).read_bytes() for file in _FILES})
        except OSError as exc:
            advice = "`prompts:` of `written` must name a folder of templates."
            raise JobError(f"{exc.filename}: {exc.strerror}.", advice) from exc
        except UnicodeDecodeError as exc:
            raise JobError(f"{folder}: a template is not UTF-8 ({exc}).") from exc

    def messages(self, query: str, passage: str, count: int) -> tuple[tuple[str, str], ...]:
        """Fixed text, then passage and query, so that all pairs of a passage share a prefix."""
        values = {"passage": neutralise(passage)[0], "query": neutralise(query)[0], "count": count}
        return (
            ("system", self._templates.render("system.j2", {})),
            ("user", self._templates.render("write.j2", values)),
        )


def read_negatives(reply: ChatReply, count: int) -> list[str]:
    """The distinct passages in a reply, at most `count`. Raises UnusableReply with a reason of `synth.replies`."""
    values = read_object(whole_text(reply), lambda found: _KEY in found, repair=True).values
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
        """The options, with the hash of the templates and without where the model runs."""
        own = None if self.llm is None else stage_identity(self.llm)
        return super().identity() | {"llm": own, "prompts": WriterPrompt.load(self.prompts).sha256}

    def open(self, client: ClientSettings, instruction: str) -> Mapping[str, ChatModel | Encoder | Reranker]:
        own = {} if self.llm is None else {"chat": self.llm.open(client)}
        return {**super().open(client, instruction), **own}

    def corpus_problem(self, passages: int) -> tuple[str, str] | None:
        return None if passages else ("the corpus has no passage", "Give one with --corpus.")

    def search(self, items: Sequence[Item], corpus: Corpus, most: int) -> Sequence[Pool]:  # noqa: ARG002 - it needs no search
        return [Pool() for _ in items]

    async def choose(self, items: Sequence[Item], pools: Sequence[Pool], selector: Selector) -> Sequence[MinedPair]:  # noqa: ARG002 - they are empty
        """What the model writes for each pair, if it passes the rules and checks."""
        if selector.chat is None:
            raise JobError("written: needs a language model.", "Add `llm` to it, or to the job.")
        chat, prompt = selector.chat, WriterPrompt.load(self.prompts)
        room = asyncio.Semaphore(chat.slots)

        async def write(item: Item) -> list[str]:
            """The passages of the first usable reply; none after the last attempt or if the model refuses."""
            async with room:
                for attempt in range(self.attempts):
                    request = self._request(item, prompt, attempt, selector.seed)
                    try:
                        return read_negatives(await chat.complete(request), self.num_negatives)
                    except RequestRejected:
                        return []
                    except UnusableReply as problem:
                        if problem.reason == "filtered":
                            return []  # another attempt is useless
            return []

        texts = await gathered(write(item) for item in items)
        return await selector.choose(items, await selector.judged(items, texts, "written"))

    def _request(self, item: Item, prompt: WriterPrompt, attempt: int, seed: int) -> ChatRequest:
        return ChatRequest(
            ReplyKey(item.position, item.slot, "negatives", attempt),
            prompt.messages(item.query, item.passage, self.num_negatives),
            schema(self.num_negatives),
            "negatives",
            item_seed(seed, "negatives", item.position, item.slot, attempt),
            self.max_tokens,
            NegativeInputs(item.query, item.passage, self.num_negatives),
        )
