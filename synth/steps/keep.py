"""Rules over stored scores: which pairs of a shard are kept. Reads columns, calls nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth import identity, quality, run_folder
from synth.config import Job
from synth.errors import JobError
from synth.rules import Mask, Verdict
from synth.run_folder import Run
from synth.shards import Origin, OutputFolder
from synth.steps.score import ScoreStep, scorer_name
from synth.steps.views import DEFAULT, View, joined, record_of, selected
from synth.tables import SCHEMA_VERSION

__all__ = ["View", "beaten", "built_aside", "default_view", "keep", "keep_shard", "under_the_rules_of_kept"]


def default_view(run: Run, scores: Sequence[ScoreStep]) -> View:
    """`kept/` under the job's rules; built aside when it holds shards that other rules made."""
    rules = run.job.rules
    competing: tuple[int, ...] = ()
    if rules.unique:
        totals = run_folder.totals(run.folder)
        competing = tuple(range(totals["shards"])) if totals else tuple(sorted(run.folder.step("generated").done()))
    return built_aside(run.folder, View(DEFAULT, rules, tuple(step.name for step in scores), competing=competing))


def built_aside(folder: OutputFolder, view: View) -> View:
    """The view itself while its folder is empty or its own; else the same with a hidden folder to be swapped in."""
    if view.holds(folder):
        return view
    # After a swap the hidden name holds the view of before, so coming back to earlier rules takes another name.
    names = (f".{view.name}-{view.fingerprint[:8]}-{n}" for n in itertools.count())
    return next(hidden for name in names if (hidden := replace(view, hidden=name)).holds(folder))


def under_the_rules_of_kept(job: Job, folder: OutputFolder) -> Job:
    """The job under the rules that `kept/` holds, which `synth keep` or an edited job may have put there since.

    As it is where `kept/` is empty. Raises JobError when `kept/` reads the scores of a scorer that this job lacks:
    going on without it would bring back the job's own rules.
    """
    record = record_of(folder, DEFAULT)
    if record is None:
        return job
    mine = {scorer_name(scorer) for scorer in job.scores}
    lacking = {name.removeprefix("scores/").rpartition("-")[0] for name in record.scores} - mine
    if lacking:
        raise JobError(
            f"{folder.path}: {DEFAULT}/ reads scores that its job.json does not make: {', '.join(sorted(lacking))}.",
            "Go on with the job file that names this scorer, or with rules of your own: -s keep.cosine.above=0.7",
        )
    return replace(job, rules=record.rules)


def remember(run: Run) -> None:
    """Write down the run's scorers and rules, unless whoever goes on with the folder alone would come to the same."""
    used, record = quality.read(run.folder), record_of(run.folder, DEFAULT)
    now, known = quality.of(run.job), used or quality.of(run_folder.recorded_job(run.folder))
    if used is None or used["keep"] is None:
        known = {"scores": known["scores"], "keep": record.rules.canonical() if record else known["keep"]}
    if known != now:
        quality.write(run.folder, now)


def keep(run: Run, view: View, index: int) -> tuple[int, int]:
    """Apply the rules to shard `index` unless that is done; returns (kept, dropped) pairs."""
    return keep_shard(run.folder, view, index)


def keep_shard(folder: OutputFolder, view: View, index: int, losers: Mask | None = None) -> tuple[int, int]:
    """The same without a job: all that it takes is stored. `losers` are the shard's rows that `beaten` found.

    Returns (kept, dropped) pairs. Raises JobError for a column that is not there, SystemFault, OutputError.
    """
    shards = view.folder(folder)
    if shards.file(index).exists():
        meta = shards.meta(index)
        return meta.rows_out, meta.rejected
    view.write_record(folder)
    shard = folder.step("generated").read(index)
    table = joined(folder, view.scores, index, shard.table)
    if view.rules.unique and losers is None:
        losers = beaten(folder, view)[index]
    verdict = view.rules.apply(table, losers)
    passed = pa.array(verdict.kept)
    kept = table.filter(passed)
    rejects = _rejects(table, verdict, view.name) if kept.num_rows < table.num_rows else None
    origin = Origin(
        identity=view.fingerprint,
        input=_inputs(folder, view, index),
        first=shard.meta.first,
        rows_in=table.num_rows,
        rows_out=kept.num_rows,
        schema=SCHEMA_VERSION,
    )
    shards.commit(index, kept, origin, rejects=rejects)
    return kept.num_rows, table.num_rows - kept.num_rows


def beaten(folder: OutputFolder, view: View) -> Mapping[int, Mask]:
    """For each competing shard the rows that the `unique` rule rejects; empty without such a rule.

    Reads the columns that the rules name and nothing else, shard after shard; what stays in memory is the columns of
    the `unique` rule for the rows that passed the other rules. Of equal rows the one of the lower position stays.
    """
    unique = view.rules.unique
    if unique is None:
        return {}
    others = replace(view.rules, unique=None)
    sizes: dict[int, int] = {}
    rows: list[Mask] = []
    parts: list[pa.Table] = []
    for index in view.competing:
        table = selected(folder, view.scores, index, view.rules.columns())
        view.rules.require(table.column_names)
        passed = others.apply(table).kept
        sizes[index] = table.num_rows
        rows.append(passed)
        parts.append(table.select(sorted({*unique.by, unique.best})).filter(pa.array(passed)))
    if not parts:
        return {}
    everything = pa.concat_tables(parts, promote_options="permissive")
    lost = np.concatenate(rows)
    lost[lost] = unique.losers(everything, np.ones(everything.num_rows, np.bool_))
    starts = np.cumsum([0, *sizes.values()])
    return {index: lost[start:end] for index, start, end in zip(sizes, starts, starts[1:], strict=False)}


def _inputs(folder: OutputFolder, view: View, index: int) -> str:
    """Checksum over the checksums of all that a kept shard is made of."""
    parts = [folder.step(name).checksum(index) for name in ("generated", *view.scores)]
    return identity.sha256({"inputs": parts})


def _rejects(table: pa.Table, verdict: Verdict, step: str) -> pa.Table:
    """The rows that broke a rule, with all their columns, the first rule each broke and all of them."""
    dropped = pa.array(~verdict.kept)
    rows = table.filter(dropped)
    failed = verdict.failed.filter(dropped)
    own = {
        "step": pa.repeat(pa.scalar(step, pa.string()), rows.num_rows),
        "reason": verdict.reasons.filter(dropped).cast(pa.string()),
        "detail": pc.binary_join(failed, "; "),
        "failed": failed,
    }
    clashing = {name: f"input_{name}" for name in own if name in rows.column_names}
    rows = rows.rename_columns([clashing.get(name, name) for name in rows.column_names])
    for name, column in own.items():
        rows = rows.append_column(name, column)
    return rows
