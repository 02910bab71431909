"""`synth gc`: removes what is provably dead, and says what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from synth.errors import JobError
from synth.gc import Wanted, collect
from synth.terminal import say
from synth.validation import parse_duration


def gc(out: Path, *, dry_run: bool, view: str | None, scores: bool, age: str, as_json: bool) -> None:
    """Print what was removed and its bytes. Raises JobError for a wrong age or view, OutputError, SystemFault."""
    result = collect(out, Wanted(view=view, scores=scores, age=_seconds(age)), dry_run=dry_run)
    if as_json:
        removed = [asdict(each) for each in result.removed]
        say(json.dumps({"removed": removed, "left": result.left, "bytes": result.bytes, "dry_run": dry_run}))
        return
    done = "would remove" if dry_run else "removed"
    for each in result.removed:
        say(f"{done} {each.path} ({each.bytes:,} bytes): {each.why}")
    for line in result.left:
        say(f"left {line}")
    say(f"{done} {len(result.removed)} files and folders, {result.bytes:,} bytes")


def _seconds(age: str) -> float:
    try:
        seconds = parse_duration(age)
        return float(seconds if isinstance(seconds, float) else age)
    except ValueError as exc:
        raise JobError(f"--age {age}: is not a duration.", "Write 30m, 2h or seconds.") from exc
