"""When nothing comes back: the run names what it waits for and stops, resumable."""

import asyncio
import itertools
import json
from types import SimpleNamespace

import pytest
from asking import ask, opened
from loopback import Fault
from running import completion, job_dict, run, write_corpus, write_job

from synth.cli import main
from synth.errors import Stopped
from synth.runners import generation
from synth.runners.progress import Counters
from synth.stage import ChatReply

STALL = 0.04
"""Seconds; the watch looks every quarter of it, and on `ticks` exactly that much time goes by between two looks."""


class Patient:
    """A chat model that knows of trouble for the first looks of the watch, and answers some looks later."""

    slots = 1

    def __init__(self, troubled, looks):
        self._left = troubled
        self._looks = looks
        self.looked = 0
        self._answer = asyncio.Event()

    @property
    def troubled(self):
        self.looked += 1
        if self.looked >= self._looks:
            self._answer.set()
        return self.looked <= self._left

    async def complete(self, _):
        await self._answer.wait()
        return ChatReply("{}", "stop", "tiny", 1, 1)


@pytest.fixture
def ticks(monkeypatch):
    """A clock that goes on by a quarter of `STALL` whenever it is read, whatever the machine is busy with."""
    steps = itertools.count()
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: next(steps) * STALL / 4))


def watch(troubled, looks):
    async def held():
        chat = generation.MeteredChat(Patient(troubled, looks), Counters())
        task = asyncio.create_task(chat.complete(ask()))
        await asyncio.sleep(0)
        try:
            await chat.watch([task], STALL)
        finally:
            task.cancel()
        return await task

    return asyncio.run(held())


@pytest.mark.usefixtures("ticks")
def test_a_server_that_is_known_to_be_away_has_limits_of_its_own():
    """An outage longer than `stall` is waited for."""
    assert watch(troubled=40, looks=40).text == "{}"


@pytest.mark.usefixtures("ticks")
def test_what_was_in_flight_over_an_outage_gets_its_time_afterwards():
    assert watch(troubled=40, looks=42).text == "{}"


@pytest.mark.usefixtures("ticks")
def test_nothing_is_waited_for_without_end():
    with pytest.raises(Stopped, match=r"limits\.stall\); in flight: passage 0 slot 0 \(config, attempt 1\)"):
        watch(troubled=40, looks=100)


def test_a_model_knows_of_trouble_until_a_server_answers(server):
    async def held():
        async with opened(server) as model:
            await model.complete(ask())
            assert not model.troubled
            server.rule = lambda seen: Fault(503) if seen.method == "POST" else None
            task = asyncio.create_task(model.complete(ask(1)))
            while len(server.posts) < 6:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)
            assert model.troubled
            server.rule = lambda _: None
            await task
            assert not model.troubled

    asyncio.run(held())


@pytest.mark.slow
def test_a_server_that_falls_silent_is_named_with_what_is_in_flight(tmp_path, server, capsys):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 6)
    asked = 0

    def rule(seen):
        nonlocal asked
        asked += "messages" in (seen.body or {})
        return Fault(delay=60) if asked > 5 else None

    server.rule = rule
    job = write_job(tmp_path, job_dict(server.url, tmp_path, limits={"stall": 0.5, "max_unusable_share": 1}))
    assert main(["run", str(job), "-o", str(tmp_path / "out")]) == 75
    said = capsys.readouterr().err
    assert "no model call has ended for 0.5 s (limits.stall)" in said
    assert "in flight: passage" in said
    assert "and 1 more" not in said
    assert f"synth run {tmp_path / 'out'}" in said
    server.rule = lambda _: None
    run(job, tmp_path / "out", "limits.stall=60")
    totals = json.loads((tmp_path / "out" / "index" / "passages.json").read_text())
    assert totals["passages"] == 6
