"""`python -m synth`, and the `synth` script."""

from __future__ import annotations

import sys


def entry() -> None:
    """Run the command line and leave with its exit code."""
    from synth.cli import main  # noqa: PLC0415 - what `python -m` imports first stays small

    sys.exit(main())


if __name__ == "__main__":
    entry()
