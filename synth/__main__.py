"""`python -m synth`, and the `synth` script."""

from __future__ import annotations

import gc
import sys


def entry() -> None:
    """Run the command line and leave with its exit code."""
    gc.set_threshold(50_000, 20, 20)  # imports leave no garbage, and to look for it takes a tenth of the start
    from synth.cli import main  # noqa: PLC0415 - what `python -m` imports first stays small

    sys.exit(main())


if __name__ == "__main__":
    entry()
