"""An embedder behind an OpenAI-compatible `/embeddings`, over either transport."""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import math
import re
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from synth.batching import gathered, halved
from synth.errors import RequestRejected, ServerRefused
from synth.servers.faults import TransientError, by_index, shown
from synth.servers.fleet import Canary, Fleet, Served
from synth.servers.http import ServerAuth
from synth.servers.probe import ANSWER, QUESTION, UNRELATED
from synth.stage import EmbedStage, Encoded, ProbeResult, Role

QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""As Qwen3-Embedding's model card has it: no space after `Query:`."""


class EmbedOptions(EmbedStage):
    """The model and how texts are given to it."""

    model: str
    """The model's name."""
    query_template: str | None = None
    """Text around a query, with {instruction} and {query}; null: Qwen3-Embedding's own there, else {query}."""
    dimensions: int | None = Field(default=None, gt=0)
    """Keep this many leading dimensions of a Matryoshka model, cut here and scaled to unit length again."""
    truncate: Literal["record", "error"] = "record"
    """What to do with a text longer than the model reads: embed its beginning and record that, or reject it."""

    @field_validator("query_template")
    @classmethod
    def _has_query(cls, value: str | None) -> str | None:
        if value is not None and "{query}" not in value:
            raise ValueError("must contain {query}")
        return value

    def wrapped(self, text: str, role: Role, instruction: str) -> str:
        """The text as the model gets it: a query is put into the template, braces in it stay as they are."""
        if role == "document":
            return text
        template = self.query_template
        if template is None:
            template = QWEN3_TEMPLATE if "qwen3-embedding" in self.model.lower() else "{query}"
        values = {"{instruction}": instruction, "{query}": text}
        return re.sub(r"\{instruction\}|\{query\}", lambda found: values[found[0]], template)


Row = NDArray[np.float32]


def read_rows(answer: Any, count: int) -> list[Row | None]:
    """One row for each of `count` inputs; None where it is null, not numbers, not finite or zero.

    An entry without `index` belongs to the input at its own place. Base64 is little-endian float32. Raises
    TransientError when the answer is not a list of embeddings whose indices are 0 to count-1, once each.
    """
    return [_row(entry.get("embedding")) for entry in by_index(answer, count, "embedding")]


def _row(value: Any) -> Row | None:
    try:
        if isinstance(value, str):
            row = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32, copy=False)
        else:
            row = np.array(value, np.float32)
    except (TypeError, ValueError, OverflowError, binascii.Error):
        return None
    if row.ndim != 1:
        return None
    squared = float(row.dot(row))  # between zero and infinity for nearly every row: then all values are finite
    return row if 0 < squared < math.inf or (np.isfinite(row).all() and row.any()) else None


_FEWEST = 16
"""Numbers of a vector by which its kind can be told."""


def has_doubles(answer: Any) -> bool:
    """Whether the base64 of an answer's first embedding is of 64-bit numbers: read as 32-bit ones it means nothing.

    Then every second word is the lower half of a number: zero but for three bits where it came from a 32-bit one, and
    else so random that its exponent is absurd.
    """
    try:
        value = answer["data"][0]["embedding"]
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (TypeError, LookupError, binascii.Error):
        return False
    if len(raw) % 8 or len(raw) < 4 * _FEWEST:
        return False
    lower, size = np.frombuffer(raw, "<u4")[::2], np.abs(np.frombuffer(raw, "<f4")[::2])
    absurd = ~((size > 1e-15) & (size < 1e15)) & (size != 0)  # noqa: PLR2004 - no embedding has such a number
    return not (lower & 0x1FFFFFFF).any() or bool(absurd.mean() > 0.25)  # noqa: PLR2004 - half of them are


def unit(rows: Sequence[Row], dimensions: int | None) -> NDArray[np.float32]:
    """Rows cut to `dimensions` and scaled to length 1: float32 (n, width); a row that is zero there stays zero."""
    matrix = np.stack([row[:dimensions] for row in rows]).astype(np.float32, copy=False)
    wide = matrix.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(lengths == 0, 1, lengths)[:, None]
    return wide.astype(np.float32)


def repeated(
    distinct: Sequence[str], vectors: NDArray[np.float32], truncated: Sequence[bool], texts: Sequence[str]
) -> Encoded:
    """The vectors of distinct texts, one for each of `texts`."""
    place = {text: i for i, text in enumerate(distinct)}
    order = np.array([place[text] for text in texts])
    return Encoded(vectors[order], np.array(truncated, np.bool_)[order])


PROBE_TEXTS: tuple[tuple[str, Role], ...] = ((QUESTION, "query"), (ANSWER, "document"), (UNRELATED, "document"))
_NOISE = (
    "a question is not closer to its answer ({:.2f}) than to an unrelated text ({:.2f}): "
    "is this an embedding model, with the pooling it was trained with?"
)


def judge(server: str, rows: Sequence[Row | None], dimensions: int | None) -> ProbeResult:
    """What the rows of `PROBE_TEXTS` show about an embedder."""
    sound = [row for row in rows if row is not None]
    widths = {row.size for row in sound}
    if len(sound) < len(rows) or len(widths) != 1:
        problem = "vectors are missing, zero, not finite or of different widths: is this an embedding model?"
        return ProbeResult(server, True, (problem,))
    width = widths.pop()
    if (dimensions or 0) > width:
        problem = f"vectors have {width} dimensions, the job asks for {dimensions}: lower embed.dimensions."
        return ProbeResult(server, True, (problem,), dimension=width)
    query, answer, other = unit(sound, dimensions)
    paraphrase, unrelated = float(query @ answer), float(query @ other)
    return ProbeResult(
        server,
        reachable=True,
        problems=(_NOISE.format(paraphrase, unrelated),) if paraphrase <= unrelated else (),
        dimension=width,
        norm=float(np.linalg.norm(sound[0])),
        paraphrase=paraphrase,
        unrelated=unrelated,
    )


class ServedEmbedOptions(ServerAuth, EmbedOptions):
    """The same of a model on servers."""

    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request. They replace ours of the same name; null leaves one of ours out. Those under
    `query` and `document` go with texts of that kind: `{query: {input_type: query}, document: {input_type: passage}}`.
    """
    batch_size: int = Field(default=64, gt=0)
    """Texts in one request."""

    @property
    def silent(self) -> bool:
        """Whether the server may cut a text that is too long instead of rejecting it."""
        return False

    @field_validator("extra_body")
    @classmethod
    def _by_role(cls, value: dict[str, Any]) -> dict[str, Any]:
        for role in ("query", "document"):
            if not isinstance(fields := value.get(role, {}), dict) or "input" in fields:
                raise ValueError(f"{role} expects the fields of requests with such texts: {{input_type: {role}}}")
        return value

    def body(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        """A request for base64 vectors, which have a quarter of the bytes of JSON numbers and need no parsing."""
        body = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        return self.extended(body, {"query": None, "document": None} | self.extra_body.get(role, {}))

    @abstractmethod
    def shortened(self, text: str, attempt: int) -> tuple[str, Mapping[str, Any]] | None:
        """A text that is too long, for the n-th attempt (text, further fields); None to give up."""


class ServedEncoder(Served):
    """An Encoder over a fleet; one `encode` keeps `slots` requests of `batch_size` texts in flight.

    A rejected batch is halved until the one text is found that the server does not accept.
    """

    def __init__(self, options: ServedEmbedOptions, instruction: str, fleet: Fleet) -> None:
        self._options = options
        self._instruction = instruction
        self._width: int | None = None
        self._proven: set[Role] = set()
        """Texts of which role ever had vectors."""
        super().__init__(fleet, self._canary("document"))

    async def encode(self, texts: Sequence[str], role: Role) -> Encoded:
        """Unit vectors of the texts, each distinct one asked for once.

        Raises RequestRejected (`too_long`, `embedding`, …) for the first text that cannot be embedded, ServerRefused
        when vectors change their width, ServerUnavailable.
        """
        wrapped = [self._options.wrapped(text, role, self._instruction) for text in texts]
        distinct = list(dict.fromkeys(wrapped))
        if not distinct:
            return Encoded(np.zeros((0, self._width or 0), np.float32), np.zeros(0, np.bool_))
        size = self._options.batch_size
        batches = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        room = asyncio.Semaphore(self.slots)

        async def one(batch: list[str]) -> list[tuple[Row, bool]]:
            async with room:
                return await self._embed(batch, role)

        found = [item for batch in await gathered(map(one, batches)) for item in batch]
        vectors = unit([row for row, _ in found], self._options.dimensions)
        encoded = repeated(distinct, vectors, [truncated for _, truncated in found], wrapped)
        return replace(encoded, silent=self._options.silent)

    async def _embed(self, texts: list[str], role: Role) -> list[tuple[Row, bool]]:
        """Vectors of the texts, and whether only their beginnings were embedded."""

        async def ask(some: Sequence[str]) -> list[tuple[Row | None, bool]]:
            return [(row, False) for row in self._sound(await self._ask(some, role))]

        async def refused(text: str, rejection: RequestRejected) -> tuple[Row | None, bool]:
            if rejection.reason != "too_long" or self._options.truncate == "error":
                if role not in self._proven and rejection.reason == "bad_request":
                    await self._fleet.require_answer(self._canary(role))
                raise RequestRejected(rejection.reason, f"{rejection.detail} (text: {_start(text)})") from None
            return await self._beginning(text, role, rejection), True

        found = zip(texts, await halved(texts, ask, refused), strict=True)
        return [(row if row is not None else await self._again(text, role), cut) for text, (row, cut) in found]

    async def _ask(self, texts: Sequence[str], role: Role, more: Mapping[str, Any] | None = None) -> list[Row | None]:
        affinity = zlib.crc32(texts[0].encode("utf-8", "replace"))
        request = self._options.body(texts, role) | dict(more or {})
        return await self._fleet.call(request, affinity, partial(self._read, role, count=len(texts)))

    async def _beginning(self, text: str, role: Role, rejection: RequestRejected) -> Row:
        for attempt in itertools.count():
            if (cut := self._options.shortened(text, attempt)) is None:
                break
            try:
                (row,) = self._sound(await self._ask([cut[0]], role, cut[1]))
            except RequestRejected as again:
                if again.reason != "too_long":
                    raise
            else:
                return row if row is not None else await self._again(cut[0], role)
        raise rejection

    async def _again(self, text: str, role: Role) -> Row:
        (row,) = await self._ask([text], role)
        if row is None or row.size != self._width:
            what = "no finite vector other than zero" if row is None else f"{row.size} dimensions, not {self._width}"
            raise RequestRejected("embedding", f"{what}, also when asked alone (text: {_start(text)})")
        return row

    def _canary(self, role: Role) -> Canary:
        texts = ["yes", "no"][: self._options.batch_size]
        return self._options.body(texts, role), partial(self._read, role, count=len(texts))

    def _read(self, role: Role, answer: Any, count: int) -> list[Row | None]:
        """As `read_rows`; until there was a vector, an answer without any raises TransientError too."""
        if not self._proven and has_doubles(answer):
            raise TransientError(
                "HTTP 200 with 64-bit numbers in base64 (`extra_body: {encoding_format: float}` helps)"
            )
        rows = read_rows(answer, count)
        if not self._proven and all(row is None for row in rows):
            raise TransientError("HTTP 200 without a vector of finite numbers")
        self._proven.add(role)
        return rows

    def _sound(self, rows: list[Row | None]) -> list[Row | None]:
        widths = Counter(row.size for row in rows if row is not None)
        if not widths:
            return rows
        width = self._width or max(widths, key=lambda w: (widths[w], w))
        if width not in widths and sum(widths.values()) == len(rows):
            what = f"embeddings had {width} dimensions and now have {max(widths)}."
            raise ServerRefused(what, "All servers of a run must serve one model, also after a restart.")
        if (self._options.dimensions or 0) > width:
            what = f"the model's vectors have {width} dimensions, the job asks for {self._options.dimensions}."
            raise ServerRefused(what, "Lower embed.dimensions.")
        self._width = width
        return [row if row is not None and row.size == width else None for row in rows]

    async def _examine(self, url: str) -> ProbeResult:
        rows: list[Row | None] = []
        for role, each in itertools.groupby(PROBE_TEXTS, key=lambda each: each[1]):
            texts = [self._options.wrapped(text, role, self._instruction) for text, _ in each]
            body = self._options.body(texts, role)
            rows += await self._fleet.ask(url, body, partial(self._read, role, count=len(texts)))
        return judge(shown(url), rows, self._options.dimensions)


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")  # noqa: PLR2004 - enough to recognise it
