"""The scorers of a run and the models they need: shard by shard as shards come in, and once over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from synth.run_folder import Run
from synth.runners.counters import Counters
from synth.stage import ClientSettings, Services
from synth.steps import passes, score
from synth.steps.score import ScoreStep


class Scoring:
    """The score steps of one run; `open` comes before the first shard."""

    def __init__(self, run: Run, steps: Sequence[ScoreStep]) -> None:
        self._run = run
        self._steps = steps
        self._services: dict[str, Services] = {}

    @property
    def whole(self) -> bool:
        """Whether a scorer has to wait until all shards are generated."""
        return any(step.scorer.scope == "pass" for step in self._steps)

    @property
    def asks(self) -> bool:
        """Whether a scorer asks a model whose answers are remembered."""
        return any(step.remembers for step in self._steps)

    @property
    def ready(self) -> bool:
        """Whether `open` was called."""
        return len(self._services) == len(self._steps)

    def wants(self, service: str) -> bool:
        """Whether a scorer needs this one of the job's own models."""
        return any(service in step.scorer.needs - step.scorer.brings for step in self._steps)

    async def open(self, stack: AsyncExitStack, services: Services, client: ClientSettings) -> None:
        """Open the models that scorers bring; `stack` closes them."""
        for step in self._steps:
            models: dict[str, Any] = dict(step.scorer.open(client, self._run.job.instruction))
            for model in models.values():
                stack.push_async_callback(model.close)
            self._services[step.name] = replace(services, **models)

    async def shard(self, index: int) -> bool:
        """Score one generated shard by every scorer that needs no other; False when another process is at it."""
        for step in self._steps:
            if step.scorer.scope == "shard" and not await score.score(
                self._run, step, index, self._services[step.name]
            ):
                return False
        return True

    def lacks(self, shards: Sequence[int]) -> bool:
        """Whether a scorer that looks at the whole pass has not scored all of these shards."""
        whole = [step for step in self._steps if step.scorer.scope == "pass"]
        return any(not step.folder(self._run.folder).done().issuperset(shards) for step in whole)

    async def all_shards(self, shards: Sequence[int], stop: Callable[[], bool], counters: Counters) -> None:
        """Score all shards by the scorers that look at the whole pass; returns early when asked to stop."""
        for step in self._steps:
            if step.scorer.scope == "shard" or stop():
                continue
            counters.phase = f"scoring by {step.scorer.name}"
            services = self._services[step.name]
            found = await passes.build(self._run, step.scorer, step.fingerprint, services)
            for index in shards:
                if stop():
                    return
                await score.score(self._run, step, index, services, found)
