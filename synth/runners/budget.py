"""What a run may spend: tokens, money and hours, over all processes that have worked in its folder.

A call is sent when the budget has room for it beside those in flight. Near the end calls wait for one another, and when
the next one alone would be too much, the run stops as it does for a signal: what is in flight ends, nothing is lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pyarrow.compute as pc
import pyarrow.parquet as pq

from synth.errors import Stopped
from synth.job import Budget
from synth.runners.local import StopRequest
from synth.runners.progress import Counters
from synth.runs.run import OpenRun
from synth.shards.folder import readable
from synth.stage import ChatRequest
from synth.types import Usage

_TOKENS = ("prompt_tokens", "completion_tokens")
_BYTES_PER_TOKEN, _REPLY_TOKENS = 4, 25
"""What a call takes while none has ended yet."""
_HOURS = "logs/hours"
"""A file for each process that worked under a budget: the seconds that it took."""
_RECORD_SECONDS = 10.0


def spent(run: OpenRun) -> Usage:
    """Tokens of all calls of generation in the folder: of pairs, of rejected items, and in journals of open shards."""
    step = run.folder.step("generated")
    rejected = (run.folder.path / "rejected" / "generated").glob("????????.parquet")
    found = Usage()
    for path in [*map(step.file, sorted(step.done())), *rejected]:
        with readable(path):
            file = pq.ParquetFile(path, pre_buffer=False)
            if {*_TOKENS} <= {*file.schema_arrow.names}:
                table = file.read(list(_TOKENS), use_threads=False)
                found += Usage(*(pc.sum(table[name]).as_py() or 0 for name in _TOKENS))
    for call in step.journaled():
        found += Usage(*call.get("tokens", (0, 0)))
    return found


@dataclass(eq=False, slots=True)
class Meter:
    """Watches the budget of one process; `before` and `seconds` are what earlier ones spent."""

    budget: Budget
    counters: Counters
    stop: StopRequest
    out: str
    before: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    _in_flight: int = 0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    def used(self, more: Usage | None = None) -> dict[str, tuple[float, float]]:
        """For each limit of the budget what is used, with `more` calls, and the limit."""
        counters = self.counters
        tokens = self.before + Usage(counters.prompt_tokens, counters.completion_tokens) + (more or Usage())
        hours = (self.seconds + counters.seconds) / 3600
        amounts = {
            "tokens": tokens.prompt_tokens + tokens.completion_tokens,
            "cost": self.budget.money(tokens.prompt_tokens, tokens.completion_tokens),
            "hours": hours,
        }
        limits = ((name, getattr(self.budget, name)) for name in amounts)
        return {name: (amounts[name], limit) for name, limit in limits if limit is not None}

    @property
    def share(self) -> float:
        """How much of the budget is used, of the limit that is nearest: 0 to 1 and a little more."""
        return max((amount / limit for amount, limit in self.used().values()), default=0.0)

    @asynccontextmanager
    async def room(self, request: ChatRequest) -> AsyncIterator[None]:
        """Wait until the budget has room for a call. Raises Stopped when it will not have any."""
        call = self._expected(request)
        while self.exceeded(self._in_flight + 1, call):
            if self.stop():
                raise Stopped("stopping: no further requests are sent")
            if not self._in_flight:
                self.end()
            self._freed.clear()
            await self._freed.wait()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._freed.set()

    def exceeded(self, calls: int, call: Usage | None = None) -> bool:
        """Whether the budget is too small for what was spent and so many calls; without `call`, of the mean size."""
        each = call or self._expected(None)
        more = Usage(calls * each.prompt_tokens, calls * each.completion_tokens)
        return any(amount > limit for amount, limit in self.used(more).values())

    def end(self) -> None:
        """Stop the run because its budget is used. Raises Stopped."""
        name, (amount, limit) = max(self.used().items(), key=lambda each: each[1][0] / each[1][1])
        what = f"budget.{name}: {amount:,.6g} of {limit:,.6g} is used"
        stopped = Stopped(
            f"{what}, and more calls could exceed it; every finished call is saved.",
            f"Raise budget.{name} in the job file and run it again, or: synth run {self.out} -s budget.{name}=NUMBER",
        )
        self.counters.phase = "stopping"
        self.stop.ask(why=stopped)
        self._freed.set()
        raise stopped

    def _expected(self, request: ChatRequest | None) -> Usage:
        """Tokens of a call: the mean of this process, and before its first reply an estimate from the prompt."""
        counters = self.counters
        if counters.replies and counters.prompt_tokens:
            return Usage(
                -(-counters.prompt_tokens // counters.replies), -(-counters.completion_tokens // counters.replies)
            )
        if request is None:
            return Usage()
        size = sum(len(content.encode("utf-8", "replace")) for _, content in request.messages)
        return Usage(size // _BYTES_PER_TOKEN, _REPLY_TOKENS)


@asynccontextmanager
async def budgeted(run: OpenRun, counters: Counters, stop: StopRequest) -> AsyncIterator[None]:
    """Hold a process to the budget of its job, if it has one: `counters.budget` is its meter meanwhile."""
    budget = run.job.file.budget
    if budget is None:
        yield
        return
    own = f"{_HOURS}/{time.time_ns()}-{os.getpid()}.json"
    hours = (json.loads(path.read_bytes()) for path in (run.folder.path / _HOURS).glob("*.json"))
    seconds = sum(float(each["seconds"]) for each in hours)
    before = await asyncio.to_thread(spent, run)
    meter = counters.budget = Meter(budget, counters, stop, str(run.folder.path), before, seconds)

    def record() -> None:
        run.folder.replace_atomically(own, (json.dumps({"seconds": round(counters.seconds, 1)}) + "\n").encode())

    async def recording() -> None:
        while True:
            record()
            await asyncio.sleep(_RECORD_SECONDS)

    def over() -> None:
        with suppress(Stopped):
            meter.end()

    task = asyncio.create_task(recording())
    timer = None
    if budget.hours is not None:
        wait = max(0.0, budget.hours * 3600 - seconds - counters.seconds)
        timer = asyncio.get_running_loop().call_later(wait, over)
    try:
        yield
    finally:
        task.cancel()
        if timer is not None:
            timer.cancel()
        record()
