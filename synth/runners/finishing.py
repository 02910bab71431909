"""What follows generation, shard by shard: scores, then rules. One process at a time does a shard.

A shard of scores or of a view says what it was made from. One that is stale, because somebody removed what came before
it and that was made anew, is removed and made anew too. The order survives a crash at any point: first what lies
furthest down, the view's shard, then the scores, and both before anything that they shall be made from is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from synth.run_folder import Run
from synth.runners.counters import Counters
from synth.runners.scoring import Scoring
from synth.shards import OutputFolder, StepFolder
from synth.steps import keep, views
from synth.steps.keep import View
from synth.steps.score import ScoreStep

AT_ONCE = 2
"""Shards scored and sorted at once; more would only queue at the embedder."""


class Finishing:
    """Scores generated shards and applies the rules of the default view."""

    def __init__(self, run: Run, scores: Sequence[ScoreStep], scoring: Scoring, counters: Counters) -> None:
        self.view: View = keep.default_view(run, scores)
        self._run = run
        self._generated = run.folder.step("generated")
        self._scores = [step.folder(run.folder) for step in scores if step.scorer.scope == "shard"]
        self._scoring = scoring
        self._counters = counters
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def shards(self) -> StepFolder:
        """Where the view's shards are, or will be."""
        return self.view.folder(self._run.folder)

    @property
    def late(self) -> bool:
        """Whether rules have to wait until all shards are scored."""
        return bool(self.view.rules.unique) or self._scoring.whole

    def behind(self, generated: set[int]) -> list[int]:
        """Generated shards that are still to be scored and sorted, in order; from one listing a step."""
        complete = set(generated) if self.late else self.shards.done()
        for step in self._scores:
            complete &= step.done()
        return sorted(generated - complete)

    async def shard(self, index: int, stop: asyncio.Event) -> None:
        """Score a generated shard and apply the rules, unless another process is at it or has done it."""
        async with self._room:
            if stop.is_set() or index in self._counters.avoid:
                return
            self._counters.at(index, True)
            self._clear(index)
            claim = self.shards.claim(index)
            if claim is not None:
                try:
                    if await self._scoring.shard(index) and not self.late:
                        self._counters.shard_done(*await asyncio.to_thread(keep.keep, self._run, self.view, index))
                    if self._run.pairs:
                        self._counters.pairs += self._generated.meta(index).rows_out
                    claim.drop()
                finally:
                    claim.close()
            self._counters.at(index, False)

    def _clear(self, index: int) -> None:
        """Remove what was made from other bytes than those that are there, or will be made of them."""
        checksum = self._generated.checksum(index)
        there = [step for step in self._scores if step.file(index).exists()]
        stale = [step for step in there if step.stale(index, checksum)]
        if (stale or len(there) < len(self._scores)) and self.shards.file(index).exists():
            self.shards.discard(index)
        for step in stale:
            self._counters.notice(f"{step.file(index)}: was made from other pairs than there are now; made anew")
            step.discard(index)


def clear_views(folder: OutputFolder, index: int) -> None:
    """Before shard `index` is generated: views that hold it were made from one that somebody has removed since."""
    if folder.step("generated").file(index).exists():
        return
    for name in (views.DEFAULT, *views.names(folder)):
        step = folder.step(name)
        if step.file(index).exists():
            step.discard(index)
