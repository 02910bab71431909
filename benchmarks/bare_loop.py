"""A minimal HTTP client as a baseline: sends recorded bodies with aiohttp, parses the answers, drops them.

python benchmarks/bare_loop.py URL RECORDED IN_FLIGHT
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp


async def main(url: str, recorded: list[tuple[str, str]], in_flight: str) -> None:
    calls = iter([(path, body.encode()) for path, body in recorded])
    base = url.removesuffix("/v1")
    connector = aiohttp.TCPConnector(limit=int(in_flight))
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:

        async def worker() -> None:
            for path, body in calls:
                async with session.post(base + path, data=body) as response:
                    json.loads(await response.read())

        await asyncio.gather(*(worker() for _ in range(int(in_flight))))


asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3]))
