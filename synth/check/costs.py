"""What a run over a corpus will cost: calls, tokens, texts to embed and disk, from prompts rendered for a sample.

`synth check` and `synth plan` share this estimate. Nothing is asked of a model: each prompt is rendered as a run would
render it, and answered with a draw from its schema.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from synth.check import Findings
from synth.check.data import DataReport
from synth.errors import UnusableReply
from synth.job import Job
from synth.personas import Library
from synth.prompts import PromptFolder
from synth.runs.run import writer_of
from synth.stage import NONE, ChatReply, ChatRequest, Tokenize
from synth.tasks import Writer
from synth.types import Candidates, Passage

BYTES_PER_TOKEN = 4
"""Of UTF-8 text; right for English within a fifth, generous elsewhere."""
REPLY_TOKENS = 25
"""Usual length of a reply."""
_COMPRESSED = 0.5
"""Text in zstd, as a share of its bytes."""
_PAIR_BYTES = 400
"""Columns of a pair beside its passage, in two copies (generated/ and kept/), with its scores."""
_MOST_SLOTS = 10
"""Items of a passage that are rendered; with more of them the others count as these."""
_PERSONA = "A person of some profession who has a reason to look for what this passage tells"
_OFFERED = 10
"""For each persona that a passage is offered, so many to draw from."""
_QUERY_WORDS, _QUERY_CHARS = 9, 60


@dataclass(frozen=True, slots=True)
class Costs:
    """Expected totals over the whole corpus. Tokens are None where no prompt could be rendered."""

    passages: int
    items: int
    calls: int
    prompt_tokens: int | None
    computed_tokens: int | None
    """Prompt tokens that no earlier prompt begins with, so that a perfect prefix cache leaves them to compute."""
    completion_tokens: int | None
    longest_prompt: int | None
    """Tokens of the longest of the prompts rendered."""
    counted: Literal["pilot", "tokenizer", "bytes"]
    """By whom: the model in a pilot, its tokenizer, or nobody; then a token is taken for 4 bytes."""
    embeddings: int
    """Texts to embed."""
    disk_bytes: int
    disk_free: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of one passage, with `text` its own bytes."""

    text: int
    calls: int
    bytes: int
    tokens: int
    computed: int
    longest: int


class PrefixCache:
    """Prompts so far. One is computed from the end of its longest common prefix with any earlier prompt."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def computed(self, ids: Sequence[Hashable]) -> int:
        """How many tokens of this prompt are new, and remember it."""
        at = shared = 0
        for count, token in enumerate(ids, 1):
            at = hash((at, token))
            if shared == count - 1 and at in self._seen:
                shared = count
            else:
                self._seen.add(at)
        return len(ids) - shared


def by_bytes(messages: Sequence[tuple[str, str]]) -> Sequence[Hashable]:
    """In place of a tokenizer: pieces of four bytes."""
    raw = "".join(f"{role}\n{content}\n" for role, content in messages).encode("utf-8", "replace")
    return [raw[start : start + BYTES_PER_TOKEN] for start in range(0, len(raw), BYTES_PER_TOKEN)]


async def rehearse(
    writer: Writer, passages: Sequence[Passage], personas: Sequence[str], tokenize: Tokenize = by_bytes
) -> list[Asked]:
    """Render the prompts of every passage; each is offered personas of about the mean length, drawn at random."""
    cache, count = PrefixCache(), writer.settings.top_k
    usual = sum(map(len, personas)) / max(1, len(personas))
    personas = sorted(personas, key=lambda each: abs(len(each) - usual))[: _OFFERED * count]
    slots = range(min(writer.task.items_per_passage, _MOST_SLOTS))
    found = []
    for passage in passages:
        rng = random.Random(passage.position)  # noqa: S311 - sampling, not secrets
        names = rng.sample(personas, count) if len(personas) > count else [*personas, *[_PERSONA] * count][:count]
        chat = _Rehearsal(passage, tokenize, cache)
        await writer.write(Candidates(passage, tuple(names), (0.0,) * len(names)), chat, slots)
        found.append(chat.asked(writer.task.items_per_passage / len(slots)))
    return found


class _Rehearsal:
    """A chat model that draws each reply from its schema, and notes the size of the prompt."""

    slots = 1
    troubled = False

    def __init__(self, passage: Passage, tokenize: Tokenize, cache: PrefixCache) -> None:
        self._text, self._words = len(passage.text.encode("utf-8", "replace")), passage.text.split()
        self._tokenize, self._cache = tokenize, cache
        self._sizes: list[tuple[int, int, int]] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.key.attempt == 0:
            size = sum(len(content.encode("utf-8", "replace")) for _, content in request.messages)
            ids = self._tokenize(request.messages)
            self._sizes.append((size, len(ids), self._cache.computed(ids)))
        rng = random.Random(request.seed)  # noqa: S311 - as above
        return ChatReply(json.dumps(_drawn(request.schema, self._words, rng)), "stop", "rehearsal")

    def asked(self, scale: float) -> Asked:
        size, tokens, computed = (round(scale * sum(each[n] for each in self._sizes)) for n in range(3))
        longest = max((count for _, count, _ in self._sizes), default=0)
        return Asked(self._text, round(scale * len(self._sizes)), size, tokens, computed, longest)

    async def close(self) -> None:
        pass


def _drawn(schema: Mapping[str, Any], words: Sequence[str], rng: random.Random) -> Any:
    """A value that fits a JSON schema of the plain kind that constrained decoders take."""
    if "enum" in schema:
        return rng.choice([each for each in schema["enum"] if each != NONE] or schema["enum"])
    match schema.get("type"):
        case "object":
            return {name: _drawn(part, words, rng) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_drawn(schema.get("items", {}), words, rng) for _ in range(int(schema.get("minItems", 1)))]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    return " ".join(rng.sample(words, min(_QUERY_WORDS, len(words))))[:_QUERY_CHARS] or "sample"


async def _prepared(job: Job, prompts: PromptFolder, passages: Sequence[Passage]) -> Writer | None:
    """The job's writer; what its task prepares is made up, None where no reply can be."""
    writer = writer_of(job, prompts)
    if count := writer.task.prepares_from:
        chat = _Rehearsal(max(passages, key=lambda each: len(each.text)), by_bytes, PrefixCache())
        try:
            writer = writer_of(job, prompts, prepared=await writer.prepare(passages[:count], chat))
        except UnusableReply:
            return None
    return writer


def mean(asked: Sequence[Asked], values: Sequence[float], text: float) -> float:
    """The mean of `values` over the corpus, whose passages have `text` bytes on average.

    A regression on the length of the passage corrects a sample that is longer or shorter than the corpus.
    """
    lengths: NDArray[np.float64] = np.array([each.text for each in asked], np.float64)
    numbers: NDArray[np.float64] = np.array(values, np.float64)
    spread = lengths - lengths.mean()
    slope = float(spread @ numbers / (spread @ spread)) if spread.any() else 0.0
    return float(numbers.mean() + slope * (text - lengths.mean()))


def sampled(data: DataReport) -> list[Passage]:
    """The sample of a corpus as passages of a run; a language that could not be told counts as English."""
    return [
        Passage(n, row.id, row.text, row.language if row.language != "und" else "en", row.source, row.title)
        for n, row in enumerate(data.sample)
    ]


def expect(
    job: Job, prompts: PromptFolder | None, library: Library | None, data: DataReport, findings: Findings
) -> tuple[Costs, list[Asked]]:
    """Add up what all passages will cost if every first reply is accepted; warn where the disk is too small.

    Also gives the prompts of the sample.
    """
    task = job.require_task()
    count = data.expected
    items = count * task.items_per_passage
    tokenize = job.llm.tokenizer() if job.llm else None
    asked: list[Asked] = []
    if prompts is not None and data.sample:
        people = library.sentences if library else ()
        writer = asyncio.run(_prepared(job, prompts, sampled(data)))
        if writer is not None:
            asked = asyncio.run(rehearse(writer, sampled(data), people, tokenize or by_bytes))
    per_passage = max((each.calls for each in asked), default=task.items_per_passage)
    text = data.bytes / max(1, data.passages)
    copies = 1 + 2 * min(task.items_per_passage, 2)  # a repeated text compresses well within a shard
    needed = round(_COMPRESSED * text * count * copies + items * _PAIR_BYTES)
    out = (job.base / (job.file.out or "outputs")).absolute()
    free = shutil.disk_usage(next(each for each in (out, *out.parents) if each.exists())).free
    if needed > free:
        findings.warn(
            f"the run needs about {needed / 1e9:,.1f} GB, the disk has {free / 1e9:,.1f} GB left. "
            "Choose another folder with -o."
        )
    later = asked[1:] or asked  # the first one computes what all have in common
    titled = sum(row.title is not None for row in data.sample) / max(1, len(data.sample))
    costs = Costs(
        passages=count,
        items=items,
        calls=count * per_passage + (task.prepares_from > 0),
        prompt_tokens=round(count * mean(asked, [each.tokens for each in asked], text)) if asked else None,
        computed_tokens=round(asked[0].computed + (count - 1) * mean(later, [each.computed for each in later], text))
        if asked
        else None,
        completion_tokens=REPLY_TOKENS * count * per_passage if asked else None,
        longest_prompt=max(each.longest for each in asked) if asked else None,
        counted="tokenizer" if tokenize else "bytes",
        embeddings=_embeddings(job, count, items, titled),
        disk_bytes=needed,
        disk_free=free,
    )
    return costs, asked


def _embeddings(job: Job, passages: int, items: int, titled: float) -> int:
    """Texts that the embedder gets: passages for personas and cosine together, queries for each scorer by itself.

    A scorer that compares all pairs embeds the passages once more.
    """
    found = round(passages * (1 + titled)) if job.file.personas else 0
    scorers = [each for each in job.scores if "encoder" in each.needs - each.brings]
    if any(each.scope == "shard" for each in scorers) and (not found or job.persona_embed != job.embed):
        found += passages
    return found + sum(items + (passages if each.scope == "pass" else 0) for each in scorers)
