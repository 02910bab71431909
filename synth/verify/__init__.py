"""Proof from the files alone that a run lost, damaged and duplicated nothing.

Nothing here imports the code that writes the files (`synth.shards`, `synth.steps`, `synth.tables`), so that a mistake
of the writer is not repeated here. What both share is the contract: names, key-values and columns as
`docs/reliability.md` states them.

Both modes read every footer and id column with page checksums on, hash every file whose checksum another one names,
hash and count rejected rows, and compare inputs by size and time (by hash where those differ). Deep mode reads every
page of every file, compares each pair with the passage and the scores it was made from, and hashes all inputs. Memory
is bounded by one shard of every step.
"""

from __future__ import annotations

from pathlib import Path

from synth.errors import JobError, OutputError
from synth.names import path_of
from synth.verify.files import Finding, Report, StepTotals, survey
from synth.verify.ledgers import check_leftovers
from synth.verify.records import check_inputs, check_marks, check_prompts, read_records
from synth.verify.walk import Walk

__all__ = ["Finding", "Report", "StepTotals", "verify"]


def verify(out: Path, *, deep: bool = False) -> Report:
    """Check the output folder of a run. It is only read, and a run may continue in it meanwhile.

    Raises JobError if the folder does not exist, OutputError if it is not the folder of a run.
    """
    root = path_of(out).resolve()
    if not root.is_dir():
        raise JobError(f"{out}: the output folder does not exist.")
    if not (root / "job.json").exists():
        raise OutputError(f"{out}: has no job.json, so it is not the folder of a run.")
    report = Report(root, deep)
    layout = survey(report)
    records = read_records(layout, report)
    check_prompts(layout, records, report)
    check_inputs(records, report)
    check_marks(root, report)
    walk = Walk(layout, records, report)
    for index in layout.indexes():
        walk.shard(index)
    walk.finish()
    check_leftovers(layout, walk.bodies, report)
    return report
