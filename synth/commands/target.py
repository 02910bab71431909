"""What the user pointed a command at: a job file or a run's folder, and the folder that output goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synth import job as jobs
from synth.errors import JobError
from synth.job import Job
from synth.run import history
from synth.run import run as runs
from synth.shards import OutputFolder
from synth.steps import keep


@dataclass(frozen=True, slots=True)
class Target:
    """A job, the folder it writes to, and the sample it is cut to (None: all passages)."""

    job: Job
    out: Path
    sample: int | None


def resolve(given: Path, out: Path | None, settings: Sequence[str], sample: int | None) -> Target:
    """A job file or a run's folder as a Target. Raises JobError when it is neither."""
    if given.is_dir():
        if sample is not None or out is not None:
            raise JobError(f"{given} is the folder of a run; -o and --sample go with a job file.")
        job, kept = runs.job_of(given, settings)
        opened = OutputFolder.open(given)
        given_rules = any(setting.partition("=")[0].strip().partition(".")[0] == "keep" for setting in settings)
        if not given_rules and (history.read_rules(opened) or {"keep": None})["keep"] is None:
            job = keep.under_the_rules_of_kept(job, opened)
        return Target(job, given, kept)
    job = jobs.load(given, settings)
    folder = out or (Path(job.file.out) if job.file.out else Path("outputs") / given.stem)
    if sample is not None:
        folder = folder.with_name(f"{folder.name}.sample-{sample}")
    return Target(job, folder, sample)
