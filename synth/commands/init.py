"""`synth init`: a commented job file to start from."""

from __future__ import annotations

from pathlib import Path

import yaml

from synth.errors import JobError, SystemFault
from synth.shipped import shipped
from synth.terminal import say

_HERE = "@CORPUS@"


def init(job: Path, corpus: str) -> None:
    """Write `job` from the shipped template. Raises JobError when it exists, SystemFault when it cannot be written."""
    text = shipped("configs", "template.yaml").read_text(encoding="utf-8")
    quoted = yaml.safe_dump(corpus, default_style='"', width=10_000).strip()
    try:
        with job.open("x", encoding="utf-8") as file:
            file.write(text.replace(_HERE, quoted))
    except FileExistsError as exc:
        raise JobError(f"{job}: exists already.", "Name another file, or remove it first.") from exc
    except OSError as exc:
        raise SystemFault(f"{job}: cannot be written: {exc.strerror}.") from exc
    say(f"wrote {job}; next: synth check {job}")
