"""Rules over stored scores: which pairs of a shard are kept. Reads columns, calls nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth.errors import JobError, OutputError
from synth.job import Job
from synth.rules import Mask, Rules, Verdict
from synth.runs import identity
from synth.runs.history import Quality, read_rules, write_rules
from synth.runs.run import OpenRun
from synth.shards import Origin, OutputFolder, StepFolder
from synth.steps.score import ScoredShard, ScoreStep
from synth.tables import append

DEFAULT = "kept"


@dataclass(frozen=True, slots=True)
class View:
    """Rules over a list of score folders (`scores/cosine-1a2b3c4d`), and the folder they fill.

    `hidden` is where the shards lie while the view replaces an older one. `competing` lists the shards whose rows a
    `unique` rule compares: with others the same rules would keep other rows, so it is a part of the fingerprint then.
    """

    name: str
    rules: Rules
    scores: tuple[str, ...]
    hidden: str = ""
    competing: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        what: dict[str, Any] = {"rules": self.rules.canonical(), "scores": list(self.scores)}
        if self.rules.unique:
            what["shards"] = list(self.competing)
        return identity.sha256(what)

    def folder(self, folder: OutputFolder) -> StepFolder:
        return folder.step(self.name, hidden=self.hidden)

    def holds(self, folder: OutputFolder) -> bool:
        """Whether the shards in its folder, if there are any, were made by these rules over these scores."""
        return self.folder(folder).made_by(self.fingerprint)

    def write_record(self, folder: OutputFolder) -> None:
        """Record what the fingerprint means, unless that is done. Raises SystemFault, OutputError."""
        path = _record_path(self.fingerprint)
        if (folder.path / path).exists():
            return
        record = {
            "format": 1,
            "fingerprint": self.fingerprint,
            "rules": self.rules.canonical(),
            "scores": list(self.scores),
            "shards": len(self.competing) if self.rules.unique else None,
        }
        folder.put_if_absent(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Record:
    """The rules that made a view's shards, the score folders they read, and how many shards `unique` compared."""

    rules: Rules
    scores: tuple[str, ...]
    shards: int | None


def record_of(folder: OutputFolder, name: str) -> Record | None:
    """What made the view `name`; None while it has no shard, or was made before records were kept.

    Raises OutputError when the record is damaged.
    """
    shards = folder.step(name)
    first = shards.first()
    if first is None:
        return None
    path = folder.path / _record_path(shards.meta(first).identity)
    try:
        found = json.loads(path.read_bytes())
        rules, problems = Rules.parse(found["rules"], None)
        record = Record(rules or Rules(), tuple(found["scores"]), found["shards"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it, then run `synth keep` with the rules.") from exc
    if problems:
        raise OutputError(
            f"{path}: has rules that this version of synth cannot read ({problems[0].message}).", "Upgrade synth."
        )
    return record


def names(folder: OutputFolder) -> list[str]:
    return [f"views/{each.name}" for each in sorted((folder.path / "views").glob("[!.]*")) if each.is_dir()]


def stored_scores(folder: OutputFolder, needed: Collection[str]) -> tuple[str, ...]:
    """The score folders for rules that read the columns `needed`.

    Those of `kept/` come first, in its order; others join only where a needed column is in none before them. Raises
    JobError when two of those others hold the same column.
    """
    record = record_of(folder, DEFAULT)
    chosen = list(record.scores) if record else []
    present = {column for name in ("generated", *chosen) for column in _columns(folder.step(name))}
    others = [f"scores/{each.name}" for each in sorted((folder.path / "scores").glob("[!.]*")) if each.is_dir()]
    maker: dict[str, str] = {}
    for name in (each for each in others if each not in chosen):
        fresh = {*_columns(folder.step(name))} - present
        if not (record is None or fresh & {*needed}):
            continue
        if clashing := sorted(fresh & maker.keys()):
            column = clashing[0]
            raise JobError(
                f"{folder.path}: both {maker[column]} and {name} hold the column {column}.",
                "Run the job with the scorer that you want, then this command; or remove the other folder.",
            )
        maker |= dict.fromkeys(fresh, name)
        chosen.append(name)
    return tuple(chosen)


def ready(folder: OutputFolder, scores: Sequence[str]) -> list[int]:
    """The shards that are generated and scored."""
    done = folder.step("generated").done()
    for name in scores:
        done &= folder.step(name).done()
    return sorted(done)


def joined(pairs: pa.Table, scores: Iterable[pa.Table]) -> pa.Table:
    """Pairs and their score columns, side by side; a pair's column named like a score comes as `input_<name>`."""
    for columns in scores:
        for field in columns.schema:
            if field.name != "id":
                pairs = append(pairs, field, columns[field.name])
    return pairs


def selected(folder: OutputFolder, scores: Sequence[str], index: int, wanted: Collection[str]) -> pa.Table:
    """Of what `joined` would give for a shard, the columns `wanted` that exist, read without the others."""
    found: dict[str, pa.ChunkedArray] = {}
    for name in ("generated", *scores):
        step = folder.step(name)
        if here := [column for column in _columns(step, index) if column in wanted]:
            found |= zip(here, step.read_columns(index, here).columns, strict=True)
    return pa.table(found)


def column_types(folder: OutputFolder, scores: Sequence[str], index: int) -> dict[str, pa.DataType]:
    """Every column of a joined shard with its type, from footers alone."""
    types: dict[str, pa.DataType] = {}
    for name in ("generated", *scores):
        types |= {each.name: each.type for each in folder.step(name).schema(index)}
    return types


def _columns(step: StepFolder, index: int | None = None) -> list[str]:
    """The columns of a shard, by default the first; ids of pairs count among those of `generated` only."""
    index = step.first() if index is None else index
    names = [] if index is None else step.schema(index).names
    return [name for name in names if name != "id" or step.name == "generated"]


def _record_path(fingerprint: str) -> str:
    return f"index/rules-{fingerprint[:16]}.json"


def default_view(run: OpenRun, scores: Sequence[ScoreStep]) -> View:
    """`kept/` under the job's rules; built aside when it holds shards that other rules made."""
    rules = run.job.rules
    competing: tuple[int, ...] = ()
    if rules.unique:
        totals = run.history.totals()
        competing = tuple(range(totals["shards"])) if totals else tuple(sorted(run.folder.step("generated").done()))
    return built_aside(run.folder, View(DEFAULT, rules, tuple(step.name for step in scores), competing=competing))


def built_aside(folder: OutputFolder, view: View) -> View:
    """The view itself while its folder is empty or its own; else the same with a hidden folder to be swapped in."""
    return replace(view, hidden=folder.aside(view.name, view.fingerprint))


def under_the_rules_of_kept(job: Job, folder: OutputFolder) -> Job:
    """The job under the rules that `kept/` holds, which `synth keep` or an edited job may have put there since.

    As it is where `kept/` is empty. Raises JobError when `kept/` reads the scores of a scorer that is not in this job:
    going on without it would bring back the job's own rules.
    """
    record = record_of(folder, DEFAULT)
    if record is None:
        return job
    mine = {scorer.name for scorer in job.scores}
    absent = {name.removeprefix("scores/").rpartition("-")[0] for name in record.scores} - mine
    if absent:
        raise JobError(
            f"{folder.path}: {DEFAULT}/ reads scores that its job.json does not make: {', '.join(sorted(absent))}.",
            "Go on with the job file that names this scorer, or with rules of your own: -s keep.cosine.above=0.7",
        )
    return replace(job, rules=record.rules)


def remember(run: OpenRun) -> None:
    """Record the run's scorers and rules, unless the folder alone already implies them."""
    used, record = read_rules(run.folder), record_of(run.folder, DEFAULT)
    now, recorded = (_quality(job) for job in (run.job, run.history.job(run.record)))
    known = used or recorded
    if used is None or used["keep"] is None:
        known = {"scores": known["scores"], "keep": record.rules.canonical() if record else known["keep"]}
    if known != now:
        write_rules(run.folder, now)


def _quality(job: Job) -> Quality:
    return {"scores": job.as_json()["scores"], "keep": job.rules.canonical()}


def keep_shard(
    folder: OutputFolder, view: View, index: int, *, losers: Mask | None = None, opened: ScoredShard | None = None
) -> tuple[int, int]:
    """Apply the rules to shard `index` unless that is done; returns (kept, dropped) pairs.

    `losers` are the shard's rows that `beaten` found; `opened` is the shard, where it was decoded for its scorers.
    Raises JobError for an absent column, SystemFault, OutputError.
    """
    shards = view.folder(folder)
    if shards.file(index).exists():
        meta = shards.meta(index)
        return meta.rows_out, meta.rejected
    view.write_record(folder)
    shard = opened.pairs if opened else folder.step("generated").read(index)
    scores = opened.scores if opened else {}
    table = joined(shard.table, (scores[n] if n in scores else folder.step(n).read(index).table for n in view.scores))
    if view.rules.unique and losers is None:
        losers = beaten(folder, view)[index]
    verdict = view.rules.apply(table, losers)
    passed = pa.array(verdict.kept)
    kept = table.filter(passed)
    rows_in, rows_out = table.num_rows, kept.num_rows
    inputs = identity.sha256({"inputs": [folder.step(name).checksum(index) for name in ("generated", *view.scores)]})
    origin = Origin(identity=view.fingerprint, input=inputs, first=shard.meta.first, rows_in=rows_in, rows_out=rows_out)
    rejects = _rejects(table, verdict, view.name) if rows_out < rows_in else None
    shards.commit(index, kept, origin, rejects=rejects)
    return rows_out, rows_in - rows_out


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


def _rejects(table: pa.Table, verdict: Verdict, step: str) -> pa.Table:
    """The rows that broke a rule, with all their columns, the first rule each broke and all of them."""
    dropped = pa.array(~verdict.kept)
    rows = table.filter(dropped)
    failed = verdict.failed.filter(dropped)
    own = {
        "step": pa.repeat(pa.scalar(step, pa.string()), rows.num_rows),
        "reason": pc.list_element(failed, 0),
        "detail": pc.binary_join(failed, "; "),
        "failed": failed,
    }
    for name, column in own.items():
        rows = append(rows, pa.field(name, column.type), column)
    return rows


_ENOUGH_SHARDS = 3
_MOST_WORKERS = 8
_WAITING = 2
"""Threads for every processor: a shard waits for the disk a third of its time, reading and writing hold no lock."""


def fill(
    folder: OutputFolder,
    view: View,
    shards: Sequence[int],
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _kept, _dropped: None,
) -> int:
    """Apply a view's rules to `shards` unless that is done; returns how many shards that took.

    `progress` is called with each shard's (kept, dropped); `workers` are the processors to use, by default all, at most
    8. Killed at any moment it leaves whole shards, and the same call makes the rest. Raises what `keep_shard` raises.
    """
    done = view.folder(folder).done()
    if todo := [index for index in shards if index not in done]:
        view.write_record(folder)
        losers = beaten(folder, view)
        threads = _WAITING * (workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS))
        threads = min(threads, len(todo)) if len(todo) >= _ENOUGH_SHARDS else 1
        pool = ThreadPoolExecutor(threads, thread_name_prefix="view")
        try:
            for counts in pool.map(lambda index: keep_shard(folder, view, index, losers=losers.get(index)), todo):
                progress(*counts)
        finally:
            pool.shutdown(cancel_futures=True)
    return len(todo)


def carry_out(folder: OutputFolder, view: View, shards: Sequence[int], workers: int | None = None) -> int:
    """Bring the view to hold `shards`, and swap it in where it was built aside; returns how many shards that took.

    Killed anywhere, the same call goes on where it was. Raises what `keep_shard` and `swap_view` raise.
    """
    view.folder(folder).settle()
    made = fill(folder, view, shards, workers)
    if view.hidden:
        folder.swap_view(view.hidden, view.name)
    folder.step(view.name).settle()
    return made


def clear_views(folder: OutputFolder, index: int) -> None:
    """Before shard `index` is generated, remove it from views: they were made from a file that is gone."""
    if folder.step("generated").file(index).exists():
        return
    for name in (DEFAULT, *names(folder)):
        step = folder.step(name)
        if step.file(index).exists():
            step.discard(index)
