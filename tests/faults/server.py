"""An OpenAI-shaped server on 127.0.0.1 that fails in every way a server can, the same way on every run.

    python -m tests.faults.server --port 0 --profile mixed --log requests.jsonl --run-seed 7 --passages 3000 --slots 2
    with FaultServer(Profile.mixed(), log).serving() as url: ...

A request's own `seed` says which item and attempt it is for (`Items` turns it back), so faults need no memory of
order. What a reply says wrongly depends on (profile seed, request seed); whether the connection fails, on the delivery
number as well. The accepted text depends on the request alone. Every request is two lines of the log: when it came,
with its number, and what it got; a killed client leaves the second one out or `gone` in it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from aiohttp import web

from .serving import LoopThread, end

TRANSPORT = {
    "500": 30,
    "429 later": 30,
    "429": 10,
    "502 html": 10,
    "503": 10,
    "reset": 20,
    "short": 10,
    "hang": 5,
    "drip": 5,
    "200 html": 5,
}
"""Per thousand deliveries; none of them may cost an item an attempt."""
CONTENT = {"bad json": 20, "repairable": 20, "wrong enum": 10, "empty": 10, "truncated": 5}
"""Per thousand requests; `repairable` must pass, the others cost one attempt. With TRANSPORT 20 % in all."""
POISON = ("content", "transport")
"""A poisoned item fails on every attempt, in one of these two ways."""
MODEL = "faulty"
WIDTH = 32
STAGES = ("config", "query")


@dataclass(frozen=True)
class Profile:
    """How often what goes wrong, per thousand; `poisoned` is a share of all items."""

    seed: int = 1
    transport: dict[str, int] = field(default_factory=dict)
    content: dict[str, int] = field(default_factory=dict)
    poisoned: float = 0.0
    poison: tuple[str, ...] = POISON
    hang: float = 30.0
    """Seconds that `hang` and `drip` last unless the client leaves."""
    latency: float = 0.0

    @classmethod
    def named(cls, name: str) -> Profile:
        return {
            "clean": cls(),
            "content": cls(content=CONTENT, poisoned=0.001),
            "mixed": cls(transport=TRANSPORT, content=CONTENT, poisoned=0.001),
        }[name]


@dataclass(frozen=True)
class Item:
    """What one request is for."""

    stage: str
    position: int
    slot: int
    attempt: int


class Items:
    """Turns request seeds back: 63 bits of the sha256 of `run seed/stage/position/slot/attempt`."""

    def __init__(self, run_seed: int, passages: int, slots: int, attempts: int = 3) -> None:
        self._known = {
            _seed(f"{run_seed}/{stage}/{position}/{slot}/{attempt}"): Item(stage, position, slot, attempt)
            for stage in STAGES
            for position in range(passages)
            for slot in range(slots)
            for attempt in range(attempts)
        }

    def get(self, seed: object) -> Item | None:
        return self._known.get(seed) if isinstance(seed, int) else None


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _share(*parts: object) -> float:
    """A number in 0..1 that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") / 2**64


def _drawn(shares: dict[str, int], *parts: object) -> str | None:
    left = _share(*parts) * 1000
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return None


class FaultServer:
    """`items` is needed for poisoned items and for the item in the log."""

    def __init__(self, profile: Profile, log: Path, items: Items | None = None) -> None:
        self.profile = profile
        self.items = items
        self._deliveries: Counter[object] = Counter()
        self._count = 0
        self._answered: Counter[str] = Counter()
        self._by_port: Counter[int] = Counter()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def start(self, port: int = 0) -> tuple[web.AppRunner, int]:
        """Listen; returns what to clean up, and the port."""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_address=True).start()
        return runner, runner.addresses[0][1]

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve from a thread of this process; yields the base URL."""
        with self.serving_at(1) as urls:
            yield urls[0]

    @contextmanager
    def serving_at(self, ports: int) -> Iterator[list[str]]:
        """Serve at several ports, one for each client that shall be told from the others."""
        with closing(LoopThread()) as thread:
            begun = [thread.do(self.start()) for _ in range(ports)]
            try:
                yield [f"http://127.0.0.1:{port}/v1" for _, port in begun]
            finally:
                for runner, _ in begun:
                    thread.do(end(runner))
        os.close(self._log)

    def answered_at(self, url: str) -> int:
        """Requests that were answered well at one of the ports, probes left out."""
        return self._by_port[urlsplit(url).port or 0]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        if request.method == "GET":
            return self._get(path)
        body = await request.json()
        seed = body.get("seed")
        item = self.items.get(seed) if self.items else None
        key = seed or zlib.crc32(json.dumps(body, sort_keys=True).encode())
        self._deliveries[key] += 1
        self._count += 1
        line = {"id": self._count, "path": path, "seed": seed, "delivery": self._deliveries[key]}
        self._write(line | {"event": "came", "item": None if item is None else list(vars(item).values())})
        tiny = seed == 0 or body.get("input") == ["yes", "no"]
        fault = None if tiny else self._fault(key, item)  # probes and canaries: the server itself is well
        try:
            await asyncio.sleep(self.profile.latency)
            reply = self._reply(path, body, item)
            response = await _misbehave(request, fault, reply, self.profile.hang) if fault else web.json_response(reply)
        except asyncio.CancelledError:
            self._write({"id": line["id"], "event": "gone"} | ({"outcome": fault} if fault else {}))
            raise
        said = reply["choices"][0]["message"]["content"] if "choices" in reply and not fault else None
        self._answered[fault or "ok"] += 1
        if not tiny and not fault and request.transport is not None:
            self._by_port[request.transport.get_extra_info("sockname")[1]] += 1
        self._write({"id": line["id"], "event": "answered", "outcome": fault or "ok", "reply": said})
        return response

    def _get(self, path: str) -> web.Response:
        if path == "/models":
            card = {"id": MODEL, "object": "model", "root": "/checkpoints/faulty", "max_model_len": 32768}
            return web.json_response({"object": "list", "data": [card]})
        if path == "/health":
            return web.Response()
        if path == "/metrics":
            lines = [f'answered_total{{outcome="{name}"}} {count}\n' for name, count in sorted(self._answered.items())]
            return web.Response(text="".join(lines))
        return web.json_response({"version": "0.32.0"}) if path == "/version" else web.Response(status=404)

    def _fault(self, key: object, item: Item | None) -> str | None:
        if item is not None and self._poison(item) == "transport":
            return "500"
        return _drawn(self.profile.transport, self.profile.seed, "transport", key, self._deliveries[key])

    def _poison(self, item: Item) -> str | None:
        where = (self.profile.seed, "poison", item.position, item.slot)
        if item.stage != "query" or _share(*where) >= self.profile.poisoned:
            return None
        return self.profile.poison[int(_share(*where, "kind") * len(self.profile.poison))]

    def _reply(self, path: str, body: dict[str, Any], item: Item | None) -> dict[str, Any]:
        match path:
            case "/chat/completions":
                return self._chat(body, item)
            case "/embeddings":
                return _embeddings(body)
            case "/score":
                texts = body["text_2"] if isinstance(body["text_2"], list) else [body["text_2"]]
                scores = [{"index": n, "score": _share(body["text_1"], text)} for n, text in enumerate(texts)]
                return {"model": MODEL, "data": scores}
        return {"error": {"message": f"no {path} here", "code": 404}}

    def _chat(self, body: dict[str, Any], item: Item | None) -> dict[str, Any]:
        seed = body.get("seed") or 0
        text = json.dumps(_value(body, seed), ensure_ascii=False)
        wrong = _drawn(self.profile.content, self.profile.seed, "content", seed) if seed else None
        if item is not None and self._poison(item) == "content":
            wrong = "bad json"
        text, finish = _spoilt(text, wrong, seed)
        return {
            "model": MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": 9},
        }

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._log, json.dumps(line).encode() + b"\n")


def _value(body: dict[str, Any], seed: int) -> dict[str, Any]:
    """What the schema asks for: enum members, and words of the passage for the query."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    prompt = body["messages"][-1]["content"]
    passage = (re.findall(r"<passage>\n(.*?)\n</passage>", prompt, re.DOTALL) or [prompt])[-1]
    words = re.findall(r"\w+", passage) or ["nothing"]
    value: dict[str, Any] = {}
    for name, part in schema.get("properties", {}).items():
        if "enum" in part:
            value[name] = part["enum"][int(_share(seed, name) * len(part["enum"]))]
        else:
            begin = int(_share(seed, "begin") * max(1, len(words) - 6))
            value[name] = " ".join([*words[begin : begin + 5], f"v{seed % 9973}"])
    return value


def _spoilt(text: str, wrong: str | None, seed: int) -> tuple[str | None, str]:
    """The reply text with one content fault in it, and its finish reason."""
    match wrong:
        case "bad json":
            return text[:-1] + ', "more": [', "stop"
        case "repairable":
            forms = (f"```json\n{text}\n```", f"<think>Let me see.</think>\n{text}", text[:-1] + ",}")
            return forms[seed % 3], "stop"
        case "wrong enum":
            return re.sub(r'("(?:Question_Type|Query)": )"[^"]*"', r'\1["none of these"]', text), "stop"
        case "empty":
            return (None, "")[seed % 2], "stop"
        case "truncated":
            return text[: len(text) // 2], "length"
    return text, "stop"


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    data = []
    for index, text in enumerate(body["input"]):
        vector = np.full(WIDTH, 0.05, "<f4")
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % WIDTH] += 1.0
        packed = base64.b64encode(vector.tobytes()).decode()
        value: Any = packed if body.get("encoding_format") == "base64" else vector.tolist()
        data.append({"index": index, "object": "embedding", "embedding": value})
    return {"model": MODEL, "data": data, "usage": {"prompt_tokens": 1}}


async def _misbehave(request: web.Request, fault: str, reply: dict[str, Any], hang: float) -> web.StreamResponse:
    error = {"error": {"message": f"made to fail: {fault}", "code": 500}}
    page = "<html><body><h1>Bad Gateway</h1></body></html>"
    transport = request.transport
    match fault:
        case "500" | "503" | "429":
            return web.json_response(error, status=int(fault))
        case "429 later":
            return web.json_response(error, status=429, headers={"Retry-After": "0"})
        case "502 html" | "200 html":
            return web.Response(text=page, content_type="text/html", status=int(fault[:3]))
        case "reset":
            if transport is not None:
                transport.abort()
            return web.Response()
        case "hang":
            await asyncio.sleep(hang)
            return web.json_response(error, status=504)
    raw = json.dumps(reply).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(raw) + 100
    await response.prepare(request)
    for piece in [raw[n : n + 1] for n in range(40)] if fault == "drip" else [raw[: len(raw) // 2]]:
        await response.write(piece)
        await asyncio.sleep(hang / 40 if fault == "drip" else 0)
    if transport is not None:
        transport.abort()
    return response


async def _forever(server: FaultServer, port: int) -> None:
    _, bound = await server.start(port)
    print(f"http://127.0.0.1:{bound}/v1", flush=True)  # noqa: T201 - how a parent process learns the port
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed; the first line of output is the base URL."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--profile", choices=["clean", "content", "mixed"], default="mixed")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hang", type=float, default=30.0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--poisoned", type=float)
    for name, default in (("run-seed", 0), ("passages", 0), ("slots", 1), ("attempts", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    profile = replace(Profile.named(given.profile), seed=given.seed, hang=given.hang, latency=given.latency)
    if given.poisoned is not None:
        profile = replace(profile, poisoned=given.poisoned)
    items = Items(given.run_seed, given.passages, given.slots, given.attempts) if given.passages else None
    asyncio.run(_forever(FaultServer(profile, given.log, items), given.port))


if __name__ == "__main__":
    main()
