"""Which scorers and rules a run used last: no part of its identity, but what `synth run OUT` goes on with."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from synth.config import Job
from synth.errors import OutputError
from synth.shards import OutputFolder

_FILE = "index/quality.json"


class Quality(TypedDict):
    """Two sections of a job; `keep` is None where `synth keep` has filled `kept/` since, which tells its own rules."""

    scores: Any
    keep: Any


def of(job: Job) -> Quality:
    """The sections of a job, with every default filled in."""
    return {"scores": job.as_json()["scores"], "keep": job.rules.canonical()}


def read(folder: OutputFolder) -> Quality | None:
    """What was used last, None where nobody has written that down. Raises OutputError when the file is damaged."""
    path = folder.path / _FILE
    try:
        found = json.loads(path.read_bytes())
        return {"scores": found["scores"], "keep": found["keep"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it, then run with the job file.") from exc


def write(folder: OutputFolder, used: Quality) -> None:
    """Write it down. Raises SystemFault, OutputError."""
    folder.replace_atomically(_FILE, (json.dumps(used, indent=2, ensure_ascii=False) + "\n").encode())


def left_to_kept(folder: OutputFolder) -> None:
    """From now on `kept/` tells the rules. Raises SystemFault, OutputError."""
    used = read(folder)
    if used is not None and used["keep"] is not None:
        write(folder, {"scores": used["scores"], "keep": None})
