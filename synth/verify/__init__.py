"""Proof from the files alone that a run lost, tore and doubled nothing; written apart from the code that writes them.

Nothing here imports `synth.shards`, `synth.steps` or `synth.tables`: a mistake of the writer must not be shared by
its auditor. Only promises are: names, key-values and columns as `docs/reliability.md` states them.

In both modes every footer and id column is read with page checksums on, every file is hashed where another one names
its checksum, rejected rows are hashed and counted, and inputs are compared by size and time (hashed where those
differ). Deep mode reads every page of every file, compares each pair with the passage and the scores it is made of,
and hashes all inputs. Memory is bounded by one shard of every step.

One idea a module: `findings` (what was found), `shard_file` (one file), `layout` (which files there are), `records`
(job.json, prompts, inputs), `walk` (shard by shard through the steps), `items` and `views` (the ledgers), `leftovers`.
"""

from __future__ import annotations

from pathlib import Path

from synth.errors import JobError, OutputError
from synth.verify.files import survey
from synth.verify.findings import Book, Finding, Report, StepTotals
from synth.verify.ledgers import check_leftovers
from synth.verify.records import check_inputs, check_prompts, read_records
from synth.verify.walk import Walk

__all__ = ["Finding", "Report", "StepTotals", "verify"]


def verify(out: Path, *, deep: bool = False) -> Report:
    """Check the folder of a run against its promises; it is only read, and runs may go on in it meanwhile.

    Raises JobError when there is no such folder, OutputError when it is not a run's.
    """
    root = out.expanduser().resolve()
    if not root.is_dir():
        raise JobError(f"{out}: there is no such output folder.")
    if not (root / "job.json").exists():
        raise OutputError(f"{out}: has no job.json, so it is not the folder of a run.")
    book = Book(root)
    layout = survey(root, book)
    records = read_records(layout, book)
    check_prompts(layout, records, book)
    check_inputs(records, book, deep=deep)
    walk = Walk(layout, records, book, deep=deep)
    for index in layout.indexes():
        walk.shard(index)
    walk.finish()
    check_leftovers(layout, walk.bodies, book)
    return book.report(deep=deep)
