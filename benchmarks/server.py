"""A loopback server with vLLM's API that needs less CPU than the clients it measures: `python benchmarks/server.py`.

Answers `/v1/chat/completions` according to the schema (a value of each enum, some words of the passage for a free
string), `/v1/embeddings`, `/v1/models` and `/metrics`. `/trace` returns the arrival, start and end of every call,
`/dump` the bodies. Latency is lognormal; calls beyond `--slots` wait in a queue.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import random
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

Choice = Callable[[random.Random, list[str]], dict[str, str]]
MODEL = "Qwen/Qwen3-32B"


class Vectors:
    """The sum of a fixed random vector per word, so that texts with common words are similar."""

    def __init__(self, width: int) -> None:
        self.table = np.random.default_rng(1).standard_normal((4096, width), dtype=np.float32)

    def __call__(self, text: str) -> str:
        rows = np.fromiter({zlib.crc32(word.encode()) & 4095 for word in text.split()} or {0}, np.intp)
        vector = self.table[rows].sum(axis=0)
        return base64.b64encode((vector / np.linalg.norm(vector)).astype("<f4").tobytes()).decode()


class Model:
    """Latency, slots and replies; `trace` has (arrival, start, end) of every chat call, in seconds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.random = random.Random(options.seed)  # noqa: S311 - draws latencies
        sigma = options.sigma
        self.mu = math.log(options.latency) - sigma**2 / 2 if options.latency else None
        self.embed = Vectors(options.width)
        self.running = 0
        self.queue: deque[Callable[[], None]] = deque()
        self.trace: list[list[float]] = []
        self.bodies: list[tuple[str, str]] = []

    def serve(self, path: str, body: bytes, answer: Callable[[bytes], None]) -> None:
        if path == "/v1/chat/completions":
            call = [time.monotonic(), 0.0, 0.0]
            if self.options.die and not self.trace:
                asyncio.get_running_loop().call_later(self.options.die, os._exit, 1)
            self.trace.append(call)
            self._admit(lambda: self._start(call, chat(body), answer))
        elif path == "/v1/embeddings":
            answer(self._embeddings(json.loads(body)))
        elif path == "/v1/models":
            card = {"id": MODEL, "object": "model", "root": MODEL, "max_model_len": 40960}
            answer(json.dumps({"object": "list", "data": [card]}).encode())
        elif path == "/metrics":
            answer(self._metrics())
        elif path == "/trace":
            answer(json.dumps(self.trace).encode())
        elif path == "/dump":
            answer(json.dumps(self.bodies).encode())
        elif path == "/reset":
            self.trace, self.bodies = [], []
            answer(b"{}")
        else:
            answer(b"{}")
        if self.options.record and path in {"/v1/chat/completions", "/v1/embeddings"}:
            self.bodies.append((path, body.decode()))

    def _admit(self, start: Callable[[], None]) -> None:
        if self.options.slots and self.running >= self.options.slots:
            self.queue.append(start)
        else:
            self.running += 1
            start()

    def _start(self, call: list[float], reply: bytes, answer: Callable[[bytes], None]) -> None:
        call[1] = time.monotonic()
        if self.mu is None:
            self._end(call, reply, answer)
        else:
            wait = self.random.lognormvariate(self.mu, self.options.sigma)
            asyncio.get_running_loop().call_later(wait, self._end, call, reply, answer)

    def _end(self, call: list[float], reply: bytes, answer: Callable[[bytes], None]) -> None:
        call[2] = time.monotonic()
        answer(reply)
        if self.queue:
            self.queue.popleft()()
        else:
            self.running -= 1

    def _embeddings(self, asked: dict[str, Any]) -> bytes:
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        data = [{"index": n, "object": "embedding", "embedding": self.embed(text)} for n, text in enumerate(texts)]
        return json.dumps({"object": "list", "model": asked["model"], "data": data}).encode()

    def _metrics(self) -> bytes:
        values = {
            "num_requests_running": self.running,
            "num_requests_waiting": len(self.queue),
            "kv_cache_usage_perc": self.running / (self.options.slots or 1024) * 0.8,
            "num_preemptions_total": 0,
        }
        return "".join(f'vllm:{name}{{engine="0"}} {float(value)}\n' for name, value in values.items()).encode()


def chat(body: bytes) -> bytes:
    """A reply that fits the schema; the same body always gets the same one."""
    asked = json.loads(body)
    rng = random.Random(zlib.crc32(body))  # noqa: S311 - draws words
    schema = asked.get("response_format", {}).get("json_schema", {}).get("schema", {})
    values = {
        name: rng.choice(rule["enum"]) if "enum" in rule else words(asked["messages"], rng)
        for name, rule in schema.get("properties", {}).items()
    }
    text = json.dumps(values) if values else "yes"
    reply = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(body) // 4, "completion_tokens": len(text) // 4, "total_tokens": len(body) // 4},
    }
    return json.dumps(reply).encode()


def words(messages: list[dict[str, str]], rng: random.Random) -> str:
    """Eight consecutive words from the longest line of the last message: the passage."""
    found = max(messages[-1]["content"].split("\n"), key=len).split(" ")
    first = rng.randrange(max(1, len(found) - 8))
    return " ".join(found[first : first + 8])


class Http(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one call at a time on a connection."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        self.model.serve(head.split(b" ", 2)[1].decode(), body, self.answer)

    def answer(self, body: bytes) -> None:
        if self.transport is not None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free port; the first line printed is the base URL")
    parser.add_argument("--latency", type=float, default=0.0, help="mean seconds of a chat call")
    parser.add_argument("--sigma", type=float, default=0.25, help="standard deviation of the logarithm of the latency")
    parser.add_argument("--slots", type=int, default=0, help="calls at once; 0: unlimited")
    parser.add_argument("--width", type=int, default=1024, help="dimensions of the vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--die", type=float, default=0.0, help="seconds after the first call; 0: never")
    parser.add_argument("--record", action="store_true", help="keep the bodies for /dump")
    return parser.parse_args()


async def serve(options: argparse.Namespace) -> None:
    model = Model(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http(model), "127.0.0.1", options.port, backlog=8192)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
