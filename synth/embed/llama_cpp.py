"""Embeddings from llama.cpp inside this process: a GGUF file, no server to start and no torch."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from synth.embed._served import PROBE_TEXTS, EmbedOptions, Row, judge, read_rows, repeated, unit
from synth.errors import JobError, RequestRejected
from synth.llama import find_model, load_server
from synth.process import OneThread
from synth.stage import ClientSettings, Encoded, ProbeResult, Role

__all__ = ["LlamaCppEmbedder"]

_ADDED = 8
"""More tokens than a tokenizer adds to a text."""


class LlamaCppEmbedder(EmbedOptions):
    """A GGUF embedding model run by llama.cpp in this process. Each vector depends on its text alone."""

    tuning: ClassVar[frozenset[str]] = frozenset({"threads"})

    model: str
    """Path of a GGUF file."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How the vectors of all tokens become one; null: as the file says."""
    context: int = Field(default=2048, gt=_ADDED)
    """Tokens of a text that are read, at most what the model was trained for. More take more memory."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null takes one for each physical core."""
    gpu_layers: int | None = Field(default=None, ge=0)
    """Layers on the GPU, if xllamacpp was installed for one; null puts all of them there."""
    parallel: int = Field(default=1, gt=0)
    """Texts in one batch. More than one is faster on a GPU, and then the last bits of vectors differ between runs."""

    def open(self, client: ClientSettings, instruction: str) -> LlamaEncoder:  # noqa: ARG002 - the seam's signature
        return LlamaEncoder(self, instruction)


class LlamaEncoder:
    """An Encoder over one loaded file: one call at a time, in a thread. Must be closed."""

    def __init__(self, options: LlamaCppEmbedder, instruction: str) -> None:
        self._options = options
        self._instruction = instruction
        self._thread = OneThread("embedder")
        self._server: Any = None
        self._key = secrets.token_hex()
        self._context = 0

    async def encode(self, texts: Sequence[str], role: Role) -> Encoded:
        """Unit vectors. Raises RequestRejected, and JobError or InputError when the file cannot be used."""
        wrapped = [self._options.wrapped(text, role, self._instruction) for text in texts]
        return await self._thread.run(self._encode, wrapped)

    async def probe(self) -> list[ProbeResult]:
        """One result: the model's width, and whether its vectors are meaningful."""
        texts = [self._options.wrapped(text, role, self._instruction) for text, role in PROBE_TEXTS]
        rows, _ = await self._thread.run(self._computed, texts)
        found = judge(self._options.model, rows, self._options.dimensions)
        return [replace(found, models=(self._options.model,), max_model_len=self._context)]

    async def close(self) -> None:
        """Free the model's memory."""
        self._server = None
        self._thread.close()

    def _encode(self, wrapped: list[str]) -> Encoded:
        if not wrapped:
            return Encoded(np.zeros((0, 0), np.float32), np.zeros(0, np.bool_))
        options, distinct = self._options, list(dict.fromkeys(wrapped))
        found, truncated = self._computed(distinct)
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            text = next(text for text, row in zip(distinct, found, strict=True) if row is None)
            raise RequestRejected("embedding", f"no finite vector other than zero (text: {text[:60]!r}…)")
        if options.dimensions and options.dimensions > (width := rows[0].size):
            raise JobError(f"field dimensions: {options.dimensions} is more than the {width} of {options.model}.")
        return repeated(distinct, unit(rows, options.dimensions), truncated, wrapped)

    def _computed(self, texts: list[str]) -> tuple[list[Row | None], list[bool]]:
        """The model's own vectors, None where one is of no use, and which texts were cut."""
        server, rows, truncated = self._loaded(), [], []
        for start in range(0, len(texts), self._options.parallel):
            inputs = [self._fitted(text) for text in texts[start : start + self._options.parallel]]
            answer = server.handle_embeddings({"input": inputs, "encoding_format": "base64", "embd_normalize": -1})
            if error := answer.get("error"):
                raise RequestRejected("embedding", str(error.get("message"))[:500])
            rows += read_rows(answer, len(inputs))
            truncated += [isinstance(each, list) for each in inputs]
        return rows, truncated

    def _fitted(self, text: str) -> str | list[int]:
        """The text, or its first tokens with those that end every text, where it is longer than the context."""
        if len(text.encode()) <= self._context - _ADDED:  # a token has at least one byte
            return text
        tokens = self._tokens(text)
        if len(tokens) <= self._context:
            return text
        if self._options.truncate == "error":
            raise RequestRejected("too_long", f"longer than {self._context} tokens (text: {text[:60]!r}…)")
        word, whole = self._tokens("a", special=False), self._tokens("a")
        end = whole[whole.index(word[0]) + len(word) :]
        return tokens[: self._context - len(end)] + end

    def _tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The text's tokens; the binding has no function for that, only llama.cpp's local port."""
        body = json.dumps({"content": text, "add_special": special})
        with closing(HTTPConnection(self._server.listening_address.removeprefix("http://"))) as connection:
            connection.request("POST", "/tokenize", body, {"Authorization": f"Bearer {self._key}"})
            tokens: list[int] = json.load(connection.getresponse())["tokens"]
        return tokens

    def _loaded(self) -> Any:
        if self._server is None:
            options, file = self._options, find_model(self._options.model)
            pooling = options.pooling or file.pooling
            if file.pooling == "rank":
                raise JobError(f"{file.path}: is a reranker.", "Name an embedding model in embed.model.")
            if pooling is None:
                hint = "Name an embedding model, or set embed.pooling to mean, cls or last."
                raise JobError(f"{file.path}: the file names no pooling; it may be a chat model.", hint)
            trained = (file.context or options.context) - (pooling == "last")  # llama.cpp keeps a token free there
            self._context = min(options.context, trained)
            self._server = load_server(
                file,
                context=self._context + 1,
                places=options.parallel,
                threads=options.threads,
                gpu_layers=options.gpu_layers,
                pooling=pooling,
                key=self._key,
            )
        return self._server
