"""An OpenAI-shaped server on 127.0.0.1, in a thread, that misbehaves on command.

    with Loopback() as server:
        server.fail(Fault(503), Fault(reset=True))          # the next two POSTs
        server.rule = lambda seen: Fault(500) if "poison" in seen.text else None
        ... VllmServer(model="tiny", base_urls=[server.url]) ...
        assert len(server.posts) == 3

Chat answers meet the request's JSON schema (first member of each enum); `server.chat` replaces that. Embeddings are
bags of words, so texts that share words are close; `server.embed` replaces that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from aiohttp import web
from faults.serving import LoopThread, end

WIDTH = 64


@dataclass(frozen=True)
class Fault:
    """Instead of an answer: a status with a body, after a delay, or a connection that ends."""

    status: int = 500
    body: Any = None
    """str and bytes go out as they are, anything else as JSON; None is an error object like vLLM's."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False
    short: bool = False
    """Announce more bytes than are sent."""
    drip: float = 0.0
    """Seconds between the single bytes of the body."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False)


class Loopback:
    def __init__(self, models: tuple[str, ...] = ("tiny",), tls: ssl.SSLContext | None = None) -> None:
        self.log: list[Seen] = []
        self.models = models
        self.root = "/checkpoints/tiny"
        self.max_model_len = 4096
        self.rule: Callable[[Seen], Fault | None] = lambda _: None
        self.chat: Callable[[dict[str, Any]], dict[str, Any]] = completion
        self.embed: Callable[[str], list[float | None] | None] = bag_of_words
        self.latency = 0.0
        self.port = 0
        self._tls = tls
        self._faults: deque[Fault] = deque()
        self._thread: LoopThread
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> Self:
        self._thread = LoopThread()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._thread.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.log if seen.method == "POST"]

    def fail(self, *faults: Fault) -> None:
        """Answer the next POSTs with these."""
        self._faults.extend(faults)

    def start(self) -> None:
        """Listen, after `stop` on the same port as before."""
        self._thread.do(self._start())

    def stop(self) -> None:
        """Close the port and every connection, as a killed server does."""
        self._thread.do(self._stop())

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True, backlog=4096
        )
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await end(self._runner)
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.method, request.path, request.query_string, headers, json.loads(raw) if raw else None)
        self.log.append(seen)
        fault = self.rule(seen)
        if fault is None and seen.method == "POST" and self._faults:
            fault = self._faults.popleft()
        if fault is not None:
            return await _misbehave(request, fault)
        await asyncio.sleep(self.latency)
        return self._serve(seen)

    def _serve(self, seen: Seen) -> web.Response:
        match seen.method, seen.path:
            case "GET", "/v1/models":
                cards = [{"id": m, "root": self.root, "max_model_len": self.max_model_len} for m in self.models]
                return web.json_response({"object": "list", "data": cards})
            case "GET", "/version":
                return web.json_response({"version": "0.32.0"})
            case "POST", ("/v1/chat/completions" | "/v1/embeddings") if seen.body["model"] not in self.models:
                return web.json_response(error("no such model"), status=404)
            case "POST", "/v1/chat/completions":
                return web.json_response(self.chat(seen.body))
            case "POST", "/v1/embeddings":
                return self._vectors(seen.body)
        return web.json_response({"detail": "Not Found"}, status=404)

    def _vectors(self, body: dict[str, Any]) -> web.Response:
        longest = max(len(text.split()) for text in body["input"])
        if longest > self.max_model_len and "truncate_prompt_tokens" not in body:
            text = f"This model's maximum context length is {self.max_model_len} tokens."
            return web.json_response(error(text, "input_tokens"), status=400)
        data = []
        for index, text in enumerate(body["input"]):
            vector: Any = self.embed(" ".join(text.split()[: self.max_model_len]))
            if body.get("encoding_format") == "base64" and vector is not None and None not in vector:
                vector = base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
            data.append({"index": index, "object": "embedding", "embedding": vector})
        data.reverse()
        return web.json_response({"model": body["model"], "data": data, "usage": {"prompt_tokens": 1}})


async def _misbehave(request: web.Request, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(fault.delay)
    if fault.reset and request.transport is not None:
        request.transport.abort()
        return web.Response()
    body = error(f"scripted {fault.status}") if fault.body is None else fault.body
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response = web.StreamResponse(status=fault.status, headers=fault.headers)
    response.headers.setdefault("Content-Type", "application/json")
    response.content_length = len(raw) + 100 * fault.short
    await response.prepare(request)
    for piece in [raw[i : i + 1] for i in range(len(raw))] if fault.drip else [raw]:
        await response.write(piece)
        await asyncio.sleep(fault.drip)
    if fault.short and request.transport is not None:
        request.transport.abort()
    return response


def error(message: str, param: str | None = None) -> dict[str, Any]:
    """An error body as vLLM writes it."""
    return {"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """A completion whose text meets the request's schema, or says hello without one."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    value = {name: part.get("enum", ["words"])[0] for name, part in schema.get("properties", {}).items()}
    return say(json.dumps(value) if value else "hello", body["model"])


def say(text: str | None, model: str = "tiny", finish_reason: str = "stop") -> dict[str, Any]:
    """A completion with that text."""
    return {
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }


def bag_of_words(text: str) -> list[float | None] | None:
    """Counts of hashed words, none zero: close where words are shared."""
    vector: list[float | None] = [0.01] * WIDTH
    for word in text.lower().replace("?", "").replace(".", "").replace(",", "").split():
        place = zlib.crc32(word.encode()) % WIDTH
        vector[place] = (vector[place] or 0.0) + 1.0
    return vector


class FastClock:
    """A clock on which an hour passes in a few seconds; sleeping really sleeps, `speed` times shorter."""

    def __init__(self, speed: float = 1000.0) -> None:
        self.speed = speed
        self.slept: list[float] = []

    def now(self) -> float:
        return asyncio.get_running_loop().time() * self.speed

    def wall(self) -> float:
        return 1_800_000_000.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(seconds / self.speed)
