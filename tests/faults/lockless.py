"""`synth` with locks off: every process keeps journals of its own, so several make the same shards (T5)."""

from __future__ import annotations

import sys

from synth.__main__ import entry
from synth.shards import Journal, StepFolder


def main() -> None:
    """Arguments: the writer's name, then those of synth."""
    writer = sys.argv.pop(1)
    claim = StepFolder.claim

    def own(step: StepFolder, index: int) -> Journal | None:
        return claim(step, index, writer=writer)

    StepFolder.claim = own  # type: ignore[assignment,method-assign] # the product takes locks wherever there are any
    entry()
