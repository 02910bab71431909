"""Sections of a job file that name no stage: personas, limits, and how a run is carried out."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from synth.stage import Stage
from synth.units import Duration, Size

SPARE_DESCRIPTORS = 64
"""For files, pipes and what libraries keep open."""


class PersonaOptions(Stage):
    """The persona library and how many personas each passage is offered."""

    path: str = "personas/general.jsonl"
    """JSONL, Parquet or plain text, one persona a row."""
    field: str = "persona"
    """The column that holds the sentence."""
    top_k: Annotated[int, Field(ge=1, le=50)] = 5
    """Candidates per passage."""
    pool: Annotated[int, Field(ge=1, le=1000)] = 5
    """Draw the candidates from this many nearest personas, with the item's seed."""


class Limits(Stage):
    """When to wait, when to stop, when to call a run failed."""

    unusable: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Exit 6 when a larger share of items ends without a usable pair."""
    outage: Duration = 1800.0
    """How long servers may stay away before the run stops, resumable, with exit 75."""
    startup: Duration = 900.0
    """How long to wait for servers that are still loading at the start."""
    stall: Duration = 900.0
    """How long nothing may complete before the run names what is in flight and stops."""
    line: Size = 64_000_000
    """Longest line of a JSONL or CSV file, and most bytes of one batch of rows."""
    strict: bool = False
    """Stop with exit 3 at the first rejected input row."""


class RunOptions(Stage):
    """How a run is carried out; free to change between runs, but for `shard_size`."""

    shard_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Passages per shard."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes."""
    concurrency: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = "auto"
    """Requests in flight."""
    request_timeout: Duration = 600.0
    """Seconds one request may take, all in all."""
    keep_replies: Literal["none", "rejected", "all"] = "rejected"
    """Which items keep the model's raw replies."""

    def in_flight(self, notify: Callable[[str], None]) -> int | None:
        """`concurrency` as far as the file descriptors of a process allow, which `notify` is told; None for auto."""
        if self.concurrency == "auto":
            return None
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(1, allowed - SPARE_DESCRIPTORS)
        if allowed == resource.RLIM_INFINITY or self.concurrency <= room:
            return self.concurrency
        notify(
            f"run.concurrency is {self.concurrency:,}, but a process here has {allowed:,} file descriptors: going on "
            f"with {room:,}. For more run `ulimit -n {self.concurrency + SPARE_DESCRIPTORS}` first."
        )
        return room
