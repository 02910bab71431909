"""Processor time of one chat call in transport and parsing alone, from few to thousands in flight.

    python benchmarks/transport.py URL IN_FLIGHT CALLS

The script opens synth's own client with that many connections and prints milliseconds of its process per call, after
a first round that opens the connections. The body is that of a second stage: 3 kB, its reply held to a schema.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import measure
import texts
from measure import HERE

LATENCY = 0.2
RAMP = 0.001
"""Seconds between two connections that are opened: thousands in one moment would time out on a busy machine."""
LEVELS = (64, 256, 1024, 4096)
GOAL = 0.5
SCHEMA = {"type": "object", "properties": {"Query": {"type": "string", "maxLength": 2000}}, "required": ["Query"]}


async def cost(url: str, in_flight: int, calls: int) -> float:
    """Milliseconds of the processor per call."""
    from synth.llm.vllm_server import VllmServer  # noqa: PLC0415 - `report` does without
    from synth.stage import ChatRequest, ClientSettings, JudgeInputs, ReplyKey  # noqa: PLC0415 - as above

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    passages = [texts.passage(n) for n in range(100)]
    system = "".join(passages)[:1000]

    def request(number: int) -> ChatRequest:
        messages = (("system", system), ("user", passages[number % 100]))
        return ChatRequest(ReplyKey(number, 0, "query", 0), messages, SCHEMA, "query", number, 512, JudgeInputs("", ""))

    model = VllmServer(model="Qwen/Qwen3-32B", base_urls=[url]).open(ClientSettings(in_flight, notify=tell))

    async def ask(numbers: range, ramp: float = 0.0) -> None:
        upcoming = iter(numbers)

        async def worker(place: int) -> None:
            await asyncio.sleep(place * ramp)
            for number in upcoming:
                await model.complete(request(number))

        await asyncio.gather(*(worker(place) for place in range(in_flight)))

    await ask(range(2 * in_flight), ramp=RAMP)
    begun = time.process_time()
    await ask(range(calls))
    spent = time.process_time() - begun
    await model.close()
    return spent / calls * 1000


def report(folder: Path) -> list[str]:
    lines = ["| calls in flight | connections at most | CPU ms a call |", "|-|-|-|"]
    found = []
    for level in LEVELS:
        with measure.server(latency=LATENCY) as url:
            command = [sys.executable, str(HERE / "transport.py"), url, str(level), str(max(4000, 3 * level))]
            found.append(float(measure.spend(command, folder, PYTHONPATH=str(HERE.parent)).output))
        lines.append(f"| {level:,} | {level + 1:,} | {found[-1]:.2f} |")
    growth = found[-1] / found[0]
    lines += ["", f"- most: {max(found):.2f} ms (goal: at most {GOAL})"]
    return [*lines, f"- {LEVELS[-1]:,} in flight cost {growth:.2f} x {LEVELS[0]} (goal: no more)"]


if __name__ == "__main__":
    print(asyncio.run(cost(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
