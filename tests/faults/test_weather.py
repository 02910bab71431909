"""T6: an outage, a storm of 429 and a server that comes and goes, on a clock that runs a thousand times faster.

500 requests each; weather costs time and never an item.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
from asking import Said, ask, opened
from loopback import FastClock, Fault, Loopback

from synth.batching import gathered
from synth.errors import ServerUnavailable

pytestmark = pytest.mark.faults

REQUESTS = 500


async def answers(model, requests=REQUESTS):
    """All requests at once; the texts of their replies."""
    return [reply.text for reply in await gathered(model.complete(ask(n)) for n in range(requests))]


async def switch(server, *, on):
    """Starting and stopping wait for the server's own thread."""
    await asyncio.to_thread(server.start if on else server.stop)


def test_ten_minutes_without_the_server(server):
    async def run():
        clock, said = FastClock(), Said()
        async with opened(server, clock=clock, said=said, client={"concurrency": 64}) as model:
            await model.complete(ask(0))
            await switch(server, on=False)
            asked = asyncio.create_task(answers(model))
            began = clock.now()
            await clock.sleep(600)
            await switch(server, on=True)
            assert set(await asked) == {'{"kind": "summary"}'}
            assert clock.now() - began >= 600
            assert [line for line in said if line.endswith("is back")]

    asyncio.run(run())


def test_an_outage_beyond_the_limit_ends_in_75_and_rejects_nothing(server):
    async def run():
        async with opened(server, client={"concurrency": 64, "outage": 600.0}) as model:
            await model.complete(ask(0))
            await switch(server, on=False)
            results = await asyncio.gather(*(model.complete(ask(n)) for n in range(REQUESTS)), return_exceptions=True)
        assert {type(result) for result in results} == {ServerUnavailable}
        assert {result.exit_code for result in results} == {75}

    asyncio.run(run())


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3"}], ids=["bare", "with Retry-After"])
def test_nine_in_ten_are_sent_away_for_a_minute(server, headers):
    async def run():
        clock, said = FastClock(200.0), Said()
        storm, count = threading.Event(), 0

        def rule(seen):
            nonlocal count
            count += seen.method == "POST"
            return Fault(429, headers=headers) if not storm.is_set() and seen.method == "POST" and count % 10 else None

        async with opened(server, clock=clock, said=said, client={"concurrency": 32}) as model:
            await model.complete(ask(0))
            server.rule = rule
            asked = asyncio.create_task(answers(model))
            await clock.sleep(60)
            storm.set()
            assert set(await asked) == {'{"kind": "summary"}'}
        assert [line for line in said if "limits the rate" in line]

    asyncio.run(run())


def test_a_server_that_comes_and_goes(server):
    """A minute up, twenty seconds down, five times; alone, and with a second server that never goes."""

    async def run(*others):
        clock = FastClock(200.0)
        async with opened(server, *others, clock=clock, client={"concurrency": 64}) as model:
            await model.complete(ask(0))
            asked = asyncio.create_task(answers(model))
            for _ in range(5):
                await switch(server, on=False)
                await clock.sleep(20)
                await switch(server, on=True)
                await clock.sleep(60)
            assert set(await asked) == {'{"kind": "summary"}'}

    asyncio.run(run())
    with Loopback() as other:
        asyncio.run(run(other))


@pytest.mark.slow
def test_twenty_real_seconds_without_the_server(server):
    async def run():
        async with opened(server, clock=FastClock(1.0), client={"concurrency": 16, "outage": 60.0}) as model:
            await model.complete(ask(0))
            await switch(server, on=False)
            asked = asyncio.create_task(answers(model, 50))
            await asyncio.sleep(20)  # the outage itself
            await switch(server, on=True)
            assert set(await asked) == {'{"kind": "summary"}'}

    asyncio.run(run())
