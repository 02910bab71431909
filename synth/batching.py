"""Many texts or pairs through a model: concurrency, halving of rejected batches, and a cache of answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from synth.errors import RequestRejected, ServerRefused, SynthError, UnusableReply
from synth.stage import ChatModel, ChatReply, ChatRequest, Encoded, Encoder, Reranker, Role

T = TypeVar("T")
Item = TypeVar("Item")
Pairs = Sequence[tuple[str, str]]
"""Queries, each with a document."""
Refused = dict[int, RequestRejected]
"""Why a text has no vector, by the number of the text."""


async def gathered(tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first SynthError cancels the other tasks and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except* SynthError as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in running]


async def first_usable(chat: ChatModel, requests: Iterable[ChatRequest], read: Callable[[ChatReply], T]) -> T | None:
    """What `read` makes of the first usable reply; None after the last request or when the model refuses one."""
    for request in requests:
        try:
            return read(await chat.complete(request))
        except RequestRejected:
            return None
        except UnusableReply as problem:
            if problem.reason == "filtered":
                return None  # asking again gives the same
    return None


async def halved(
    items: Sequence[Item],
    ask: Callable[[Sequence[Item]], Awaitable[list[T]]],
    refused: Callable[[Item, RequestRejected], Awaitable[T]],
) -> list[T]:
    """What `ask` gives for the items, one by one what `refused` gives for those that are at fault.

    A rejected batch is halved until they are found.
    """
    try:
        return await ask(items)
    except RequestRejected as rejection:
        if len(items) == 1:
            return [await refused(items[0], rejection)]
    middle = len(items) // 2
    return await halved(items[:middle], ask, refused) + await halved(items[middle:], ask, refused)


class AnswerCache(Protocol):
    """Answers of models, kept until the shard is done, so that a crash does not cost them twice.

    `synth.shards.Journal` is one. Values never change.
    """

    def get(self, key: str) -> dict[str, Any] | None: ...

    def append(self, key: str, value: dict[str, Any]) -> None: ...


async def encode_all(encoder: Encoder, texts: Sequence[str], role: Role) -> tuple[Encoded, Refused]:
    """Vectors of all texts, and which texts were refused; their rows are zero.

    One call, unless something is refused: then halves are tried until the texts are found.
    """
    try:
        return await encoder.encode(texts, role), {}
    except RequestRejected as exc:
        if len(texts) == 1:
            return Encoded(np.zeros((1, 0), np.float32), np.zeros(1, np.bool_)), {0: exc}
    middle = len(texts) // 2
    first, refused = await encode_all(encoder, texts[:middle], role)
    second, later = await encode_all(encoder, texts[middle:], role)
    width = max(first.vectors.shape[1], second.vectors.shape[1])
    vectors = [
        half.vectors if half.vectors.shape[1] else np.zeros((len(half.vectors), width), np.float32)
        for half in (first, second)
    ]
    truncated = np.concatenate([first.truncated, second.truncated])
    encoded = Encoded(np.concatenate(vectors), truncated, first.silent or second.silent)
    return encoded, refused | {middle + n: exc for n, exc in later.items()}


async def embedded(encoder: Encoder, texts: Sequence[str], role: Role) -> tuple[Encoded, NDArray[np.bool_]]:
    """Vectors of all texts, and for which texts there is none because the encoder refused them: bool (n,).

    Raises ServerRefused for another number of vectors than texts, and for NaN, infinity or zeros as a vector.
    """
    encoded, refused = await encode_all(encoder, texts, role)
    vectors = encoded.vectors
    if vectors.ndim != 2 or len(vectors) != len(texts) or len(encoded.truncated) != len(texts):  # noqa: PLR2004 - (n, width)
        what = f"embed: {len(texts)} texts went in, an array of shape {vectors.shape} came back."
        raise ServerRefused(what, "Each text needs exactly one vector.")
    without = np.zeros(len(texts), np.bool_)
    without[list(refused)] = True
    unusable = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)) & ~without)
    if len(unusable):
        what = f"embed: the vector of {len(unusable)} of {len(texts)} texts ({role}) has NaN, infinity or only zeros"
        hint = "Check the model's dtype on the server; such vectors have no cosine."
        raise ServerRefused(f"{what}; the first is {texts[int(unusable[0])][:60]!r}.", hint)
    return encoded, without


async def rerank_all(
    reranker: Reranker, pairs: Pairs, cache: AnswerCache | None
) -> dict[tuple[str, str], float | None]:
    """The score of each distinct pair, None for a refused one.

    The batches are always the same, so that those in the cache are found again when a shard is resumed.
    """

    async def batch(some: Pairs) -> list[float | None]:
        texts = b"\0".join(text.encode("utf-8", "surrogatepass") for pair in some for text in pair)
        key = f"rerank/{sha256(texts).hexdigest()[:32]}"
        known = cache.get(key) if cache is not None else None
        if known is not None:
            return list(known["scores"])
        scores = [None if math.isnan(value) else value for value in (await reranker.score(some)).tolist()]
        if cache is not None:
            cache.append(key, {"scores": scores})
        return scores

    distinct = list(dict.fromkeys(pairs))
    size = reranker.batch_size
    found = await gathered(batch(distinct[start : start + size]) for start in range(0, len(distinct), size))
    return dict(zip(distinct, (score for scores in found for score in scores), strict=True))
