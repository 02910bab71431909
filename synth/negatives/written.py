"""Negatives that a language model writes: each misses exactly one requirement of the query."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from synth.batching import first_usable, gathered
from synth.errors import UnusableReply
from synth.hashing import item_random, item_seed
from synth.negatives._choosing import Selector
from synth.negatives._negatives import Item, Pool, Share
from synth.negatives._searched import Searched
from synth.prompts import PromptFolder, neutralise
from synth.registry import NestedLlm
from synth.replies.objects import read_object
from synth.shipped import find
from synth.sources.checks import storable
from synth.stage import ChatReply, ChatRequest, JsonSchema, NegativeInputs, ReplyKey

__all__ = ["Written"]

BREAKS = ("other_thing", "other_property", "other_condition", "other_relation", "other_aim", "other_step")
"""In which ways a passage can miss one requirement; `prompts/negatives/system.j2` says what each means."""
FEWEST, MOST = 4, 8
"""Requirements of a query."""
_FILES = ("system.j2", "facets.j2", "write.j2")


@dataclass(frozen=True, slots=True)
class Facet:
    """A requirement of a query, and how a passage can miss it and meet the others."""

    facet: str
    critical: bool
    type: str
    """One of `BREAKS`."""
    how: str


def read_facets(reply: ChatReply) -> list[Facet]:
    """The requirements in a reply. Raises UnusableReply with a reason of `synth.replies`."""
    found = _listed(reply, "Facets")
    facets = []
    for each in found:
        values = [each.get(key) for key in ("Facet", "Critical", "Break", "How")] if isinstance(each, dict) else []
        text, critical, how_missed, how = values or (None,) * 4
        if not (isinstance(text, str) and isinstance(how, str) and isinstance(critical, bool)):
            raise UnusableReply("type", "a facet needs Facet, Critical, Break and How")
        if how_missed not in BREAKS:
            raise UnusableReply("enum", f"Break is {str(how_missed)[:50]!r}; allowed: {', '.join(BREAKS)}")
        if any(map(str.isalnum, text)):
            facets.append(Facet(storable(text.strip()), critical, str(how_missed), storable(how.strip())))
    if (different := len({each.facet for each in facets})) < FEWEST:
        raise UnusableReply("empty", f"{different} different facets, fewer than {FEWEST}")
    return facets[:MOST]


def read_negatives(reply: ChatReply, count: int) -> list[str]:
    """The passages in a reply in their order, at most `count`; one without a word is empty. Raises UnusableReply."""
    found = _listed(reply, "Negatives")
    if not all(isinstance(each, str) for each in found):
        raise UnusableReply("type", "Negatives is not a list of texts")
    texts = [storable(str(each).strip()) if any(map(str.isalnum, str(each))) else "" for each in found[:count]]
    if not any(texts):
        raise UnusableReply("empty", "the list holds no text")
    return texts


def _listed(reply: ChatReply, key: str) -> list[Any]:
    values = read_object(reply, (key,))[0]
    if key not in values:
        raise UnusableReply("key", f"the keys {list(values)[:10]!r} lack {key}")
    found = values[key]
    if not isinstance(found, list):
        raise UnusableReply("type", f"{key} is not a list")
    return found


class Written(Searched):
    """Passages that a language model writes to miss exactly one requirement of the query, beside mined ones.

    Two calls a pair: the first names what a passage must meet to answer the query, four to eight requirements, and how
    one could miss each; the second writes a passage for each requirement chosen, critical ones first, in the style of
    the passages that were mined. They are checked like any other: against the positives, by the score rules and by the
    reranker. Each has its requirement in `facet` and how it misses it in `facet_type`. The structure is that of
    CausalNeg (arXiv 2606.01304). The model is the job's, or the `llm: {use: vllm_server, …}` of this source.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder", "chat"})
    has_facets: ClassVar[bool] = True
    advice: ClassVar[str] = "`not_written` counts pairs without a usable reply of the model; see `refused`"

    llm: NestedLlm | None = None
    """The model that writes; null for the job's `llm`."""
    written_share: Annotated[Share, Field(gt=0)] = 0.2
    """Most of `num_negatives` that may be written, rounded up; the others are mined. 1 if the corpus is too small."""
    samples: Annotated[int, Field(ge=0, le=10)] = 3
    """Passages of the corpus that the model sees for their style."""
    prompts: str = "negatives"
    """Folder with `system.j2`, `facets.j2` and `write.j2`; `negatives` is the shipped one."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts per call before the pair gets no written negatives."""
    max_tokens: Annotated[int, Field(ge=32)] = 2048
    """Token limit of a reply."""

    def identity(self) -> dict[str, Any]:
        """With the content of its prompts."""
        files = self._prompts().files
        digest = hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()
        return super().identity() | {"prompts": digest}

    def corpus_problem(self, passages: int) -> tuple[str, str] | None:
        """None for a corpus that is smaller than the window: then there are written ones only."""
        return None if passages > 1 else super().corpus_problem(passages)

    async def candidates(self, items: Sequence[Item], found: Sequence[Pool], selector: Selector) -> Sequence[Pool]:
        """What the model writes for each pair, if it passes the score rules, then what is mined."""
        assert selector.chat is not None  # noqa: S101 - a plan without one is refused
        prompts, room = self._prompts(), asyncio.Semaphore(selector.chat.slots)

        async def write(item: Item, pool: Pool) -> dict[str, Facet]:
            async with room:
                return await self._write(item, pool, selector, prompts)

        mined = await super().candidates(items, found, selector)
        made = await gathered(write(*each) for each in zip(items, found, strict=True))
        judged = await selector.judged(items, [list(each) for each in made], "written")
        pools = []
        for ours, pool, facets in zip(judged, mined, made, strict=True):
            named = [c._replace(facet=facets[c.text].facet, facet_type=facets[c.text].type) for c in ours.candidates]
            pools.append(Pool([*named, *pool.candidates], Counter(pool.refused) + ours.refused))
        return pools

    async def _write(self, item: Item, pool: Pool, selector: Selector, prompts: PromptFolder) -> dict[str, Facet]:
        """Texts with the requirement that each misses; none where the model gives no usable reply."""
        assert selector.chat is not None  # noqa: S101 - as above
        rng = item_random(selector.seed, "negatives/facets", item.position, item.slot)
        values: dict[str, Any] = {"query": neutralise(item.query)[0], "passage": neutralise(item.passage)[0]}
        shape = {"Facet": _TEXT, "Critical": {"type": "boolean"}, "Break": _TEXT | {"enum": list(BREAKS)}, "How": _TEXT}
        facets = {"Facets": _array(_object(shape), FEWEST, MOST)}
        messages = prompts.messages("facets.j2", values)
        requests = self._requests(item, "facets", messages, {"Need": _TEXT, "Boundary": _TEXT} | facets, selector.seed)
        known = await first_usable(selector.chat, requests, read_facets)
        if not known:
            return {}
        rng.shuffle(known)
        wanted = math.ceil(self.written_share * self.num_negatives)
        chosen = sorted(known, key=lambda each: not each.critical)[:wanted]
        shown: list[Mapping[str, str]] = [
            {"facet": neutralise(each.facet)[0], "type": each.type, "how": neutralise(each.how)[0]} for each in chosen
        ]
        rows = [each.row for each in pool.candidates] or rng.sample(range(selector.corpus.count), selector.corpus.count)
        never = {*item.known.tolist(), *item.never.tolist()}
        samples = [selector.corpus.text(row) for row in [each for each in rows if each not in never][: self.samples]]
        values |= {"samples": [neutralise(text)[0] for text in samples], "facets": shown}
        messages = prompts.messages("write.j2", values)
        schema = {"Negatives": _array(_TEXT, len(chosen), len(chosen))}
        requests = self._requests(item, "negatives", messages, schema, selector.seed)
        texts = await first_usable(selector.chat, requests, lambda reply: read_negatives(reply, len(chosen)))
        return {text: facet for text, facet in zip(texts or (), chosen, strict=False) if text}

    def _prompts(self) -> PromptFolder:
        return PromptFolder.load(find("prompts", self.prompts, Path.cwd()), _FILES)

    def _requests(
        self, item: Item, stage: str, messages: tuple[tuple[str, str], ...], schema: JsonSchema, seed: int
    ) -> Iterator[ChatRequest]:
        for attempt in range(self.attempts):
            yield ChatRequest(
                ReplyKey(item.position, item.slot, stage, attempt),
                messages,
                _object(schema),
                stage,
                item_seed(seed, stage, item.position, item.slot, attempt),
                self.max_tokens,
                NegativeInputs(item.query, item.passage, self.num_negatives),
            )


_TEXT = {"type": "string"}


def _array(items: JsonSchema, least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(properties: JsonSchema) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
