"""A proxy for a real vLLM that passes every prompt on and lets it write one token.

    python benchmarks/short_replies.py URL

It returns the reply of the loopback server, drawn from the schema. A run therefore works as with a real model, while
the CPU only computes prompts. Prints its base URL.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
from aiohttp import web
from server import chat


async def main(url: str) -> None:
    base = url.removesuffix("/v1")
    async with aiohttp.ClientSession() as session:

        async def completions(request: web.Request) -> web.Response:
            body = await request.read()
            asked = json.loads(body) | {"max_completion_tokens": 1}
            asked.pop("response_format", None)
            async with session.post(f"{base}/v1/chat/completions", json=asked) as answer:
                found = await answer.json()
                if answer.status != 200:
                    return web.json_response(found, status=answer.status)
            reply = json.loads(chat(body))
            return web.json_response(reply | {"usage": found["usage"]})

        async def other(request: web.Request) -> web.Response:
            async with session.get(base + request.path) as answer:
                return web.Response(body=await answer.read(), status=answer.status)

        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", completions)
        app.router.add_get("/{path:.*}", other)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
