"""CPU time of a chat call in transport and parsing alone, with few to thousands of calls in flight.

    python benchmarks/transport.py CLIENT URL IN_FLIGHT CALLS

CLIENT is `synth`, or `bare` for the same exchange with plain aiohttp. The script opens the connections in a first
round, then prints CPU milliseconds per call. The body is that of stage two: 3 kB, with a schema for the reply.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import measure
import texts
from measure import HERE

LATENCY = 0.2
RAMP = 0.001
"""Seconds between opening two connections: thousands at once would time out on a busy machine."""
LEVELS = (64, 256, 1024, 4096)
GOAL = 0.5
SCHEMA = {"type": "object", "properties": {"Query": {"type": "string", "maxLength": 2000}}, "required": ["Query"]}


SYSTEM = "".join(texts.passage(n) for n in range(100))[:1000]
PASSAGES = [texts.passage(n) for n in range(100)]


async def synth(url: str, in_flight: int, calls: int) -> float:
    """CPU milliseconds per call of synth's client."""
    from synth.llm.vllm_server import VllmServer  # noqa: PLC0415 - `report` does without
    from synth.stage import ChatRequest, ClientSettings, JudgeInputs, ReplyKey  # noqa: PLC0415 - as above

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    model = VllmServer(model="Qwen/Qwen3-32B", base_urls=[url]).open(ClientSettings(in_flight, notify=tell))

    async def call(number: int) -> None:
        messages = (("system", SYSTEM), ("user", PASSAGES[number % 100]))
        key = ReplyKey(number, 0, "query", 0)
        await model.complete(ChatRequest(key, messages, SCHEMA, "query", number, 512, JudgeInputs("", "")))

    try:
        return await cost(call, in_flight, calls)
    finally:
        await model.close()


async def bare(url: str, in_flight: int, calls: int) -> float:
    """The same for a POST with aiohttp; the answer is read and parsed."""
    import aiohttp  # noqa: PLC0415 - as above

    headers = {"Content-Type": "application/json"}
    held = {"type": "json_schema", "json_schema": {"name": "query", "schema": SCHEMA}}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight), headers=headers) as session:

        async def call(number: int) -> None:
            passage = PASSAGES[number % 100]
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": passage}]
            body = {"model": "Qwen/Qwen3-32B", "messages": messages, "response_format": held, "seed": number}
            async with session.post(f"{url}/chat/completions", data=json.dumps(body).encode()) as response:
                json.loads(await response.read())

        return await cost(call, in_flight, calls)


async def cost(call: Callable[[int], Awaitable[None]], in_flight: int, calls: int) -> float:
    """CPU milliseconds per call, with this many in flight."""

    async def ask(numbers: range, ramp: float = 0.0) -> None:
        upcoming = iter(numbers)

        async def worker(place: int) -> None:
            await asyncio.sleep(place * ramp)
            for number in upcoming:
                await call(number)

        await asyncio.gather(*(worker(place) for place in range(in_flight)))

    await ask(range(2 * in_flight), ramp=RAMP)
    begun = time.process_time()
    await ask(range(calls))
    return (time.process_time() - begun) / calls * 1000


CLIENTS = {"synth": synth, "bare": bare}


def report(folder: Path) -> list[str]:
    lines = ["| calls in flight | connections at most | CPU ms a call | bare aiohttp | ratio |", "|-|-|-|-|-|"]
    found = []
    for level in LEVELS:
        spent = {}
        calls = str(max(4000, 3 * level))
        for client in CLIENTS:
            with measure.server(latency=LATENCY) as url:
                script = [sys.executable, str(HERE / "transport.py"), client, url, str(level), calls]
                spent[client] = float(measure.spend(script, folder, PYTHONPATH=str(HERE.parent)).output)
        ours, theirs = spent["synth"], spent["bare"]
        found.append(ours)
        lines.append(f"| {level:,} | {level + 1:,} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    growth = found[-1] / found[0]
    lines += ["", f"- most: {max(found):.2f} ms (goal: at most {GOAL})"]
    return [*lines, f"- {LEVELS[-1]:,} in flight cost {growth:.2f} x {LEVELS[0]} (goal: at most 1)"]


if __name__ == "__main__":
    print(asyncio.run(CLIENTS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
