"""`python -m synth`, and the `synth` script."""

from __future__ import annotations

import gc
import os
import sys


def entry() -> None:
    """Run the command line and leave with its exit code."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would take its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r", encoding="utf-8"))
    os.environ.setdefault("TERM", "dumb")
    gc.set_threshold(50_000, 20, 20)  # imports leave no garbage, and to look for it takes a tenth of the start
    from synth.cli import main  # noqa: PLC0415 - what `python -m` imports first stays small

    sys.exit(main())


if __name__ == "__main__":
    entry()
