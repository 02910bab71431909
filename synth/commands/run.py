"""`synth run`: read, generate, score, keep; or go on with what is left of that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from synth.commands.stopping import Stopping, leave_busy_threads
from synth.commands.target import Target
from synth.display import Display
from synth.errors import InputError, JobError, Stopped, SynthError, TooManyUnusable
from synth.process import for_tables, give_back
from synth.results.card import card
from synth.results.render import summary_lines
from synth.results.summary import Summary, summarise
from synth.run import history
from synth.run import run as runs
from synth.run.run import Run
from synth.runners import local, workers
from synth.runners.progress import Counters, Share
from synth.runners.ray_cluster import Cluster
from synth.shards.journal import turn
from synth.steps import ingest, keep, score
from synth.terminal import say, tell


@dataclass(frozen=True, slots=True)
class How:
    """How to carry a job through, beside what the job says."""

    workers: int | None = None
    """Processes; None: as the job's `run.workers` says, on every node."""
    index: int = 0
    of: int = 1
    """Of `of` runs of this command in one folder this is number `index`."""
    deadline: float | None = None
    """Seconds from now at which whoever started this ends it."""
    go_on: bool = False
    """Go on under changed settings, as a new revision."""
    retry: bool = False
    """Ask rejected items again."""
    cluster: Cluster | None = None
    """Whose nodes do the work; None: this machine."""


def parse_share(text: str) -> tuple[int, int]:
    """`--shard i/n` as two numbers. Raises JobError."""
    index, slash, of = text.partition("/")
    if slash and index.isdecimal() and of.isdecimal() and 0 < int(of) >= int(index):
        return int(index) % int(of), int(of)
    raise JobError(f"--shard {text}: is no share of the shards.", "Write i/n, such as 0/4 to 3/4 for four runs.")


@dataclass(slots=True)
class _Reading:
    """Shows how far step 0 is, and ends it at the deadline."""

    quiet: bool
    stopping: Stopping
    told: int = 0

    def __call__(self, read: int, rejected: int) -> None:
        self.stopping.check()
        if not self.quiet and read - self.told >= 50_000:  # noqa: PLR2004 - about every few seconds
            self.told = read
            tell(f"reading  {read:,} rows, {rejected:,} rejected")


def run(target: Target, *, as_json: bool, how: How | None = None) -> None:
    """Carry a job through and print its summary. Raises SynthError for every way it can end but well."""
    how = how or How()
    if not as_json:
        tell(f"{target.job.source} → {target.out}")
    with Stopping(how.deadline) as stopping, how.cluster or nullcontext():
        try:
            opened, counters = _carry_through(target, how, stopping, quiet=as_json)
        except SynthError as exc:
            exc.hint = _with_next(exc, target)
            raise
        _report(opened, counters, as_json=as_json)


_RESUMABLE = (5, 7, 75, 130)


def _with_next(exc: SynthError, target: Target) -> str:
    told = exc.exit_code in _RESUMABLE and (target.out / "job.json").exists()
    return f"{exc.hint} Go on with: synth run {target.out}".strip() if told else exc.hint


def _carry_through(target: Target, how: How, stopping: Stopping, *, quiet: bool) -> tuple[Run, Counters]:
    """All passes over the run: what is left of it, then the items to be asked again."""
    for scorer in target.job.scores:
        scorer.require()
    opened = runs.start(target.job, target.out, sample=target.sample, notify=tell, go_on=how.go_on)
    keep.remember(opened)
    if opened.pairs:
        for_tables()
    again = how.retry and not opened.pairs and not _retrying(opened)
    counters = _pass(opened, how, stopping, quiet=quiet)
    if again and (retried := _retried(opened)) is not None:
        opened = retried
        counters = _pass(opened, how, stopping, quiet=quiet)
    return opened, counters


def _pass(opened: Run, how: How, stopping: Stopping, *, quiet: bool) -> Counters:
    """Step 0, then all that follows. Raises InputError when there is nothing to do."""
    counts, made = _read(opened, stopping, quiet=quiet), "pairs" if opened.pairs else "passages"
    if not counts[made]:
        reasons = f"; {counts['rejected']:,} rows were rejected" if counts["rejected"] else ""
        where = opened.folder.path / "rejected" / ("generated" if opened.pairs else "passages")
        raise InputError(
            f"{opened.job.source}: the inputs hold no usable {made[:-1]}{reasons}.", f"See {where}." if reasons else ""
        )
    if not quiet:
        again = f", {counts['retried']:,} items asked again" if counts.get("retried") else ""
        tell(f"{counts[made]:,} {made} of {counts['rows_in']:,} rows, {counts['rejected']:,} rows rejected{again}")
    give_back()
    counters = Counters()
    asyncio.run(_work(opened, counts["shards"], counters, how, stopping, quiet=quiet))
    return counters


def _read(opened: Run, stopping: Stopping, *, quiet: bool) -> Mapping[str, int]:
    """Step 0, by one process at a time: the others find it done."""
    told = (lambda: None) if quiet else (lambda: tell("waiting for another process that reads the inputs"))
    with turn(opened.folder.path / "job.json", told):
        return ingest.make(opened, _Reading(quiet, stopping), tell)


async def _work(opened: Run, shards: int, counters: Counters, how: How, stopping: Stopping, *, quiet: bool) -> None:
    stop = local.StopRequest()
    cluster = how.cluster
    count = min(how.workers or opened.job.run.workers * (cluster.nodes if cluster else 1), shards)
    share = Share(how.index, how.of, workers=count)
    with stopping.drains(stop, counters):
        try:
            async with Display(counters, quiet=quiet):
                if cluster is not None:
                    await workers.work(opened, shards, counters, stop, share, cluster.launch)
                else:
                    await (workers if count > 1 else local).work(opened, shards, counters, stop, share)
        except Stopped as exc:
            exc.hint = exc.hint or f"Go on with: synth run {opened.folder.path}"
            if stop():
                await leave_busy_threads(exc)
            raise


def _retrying(opened: Run) -> bool:
    """Whether the last revision asks items again and is not through with that: then this run goes on with it."""
    done = runs.totals(opened.folder)
    complete = done is not None and len(opened.folder.step("generated").done()) >= done["shards"]
    return bool(opened.retry) and not complete


def _retried(opened: Run) -> Run | None:
    """The run with a new revision that asks all rejected items again, None when there are none."""
    items = ingest.rejected_items(opened.folder)
    if not items:
        tell("no rejected item is left to ask again")
        return None
    before = history.last(opened.folder)
    new = history.following(before, opened.job, before.settings, opened.inputs, items)
    runs.append(opened, new)
    tell(f"{len(items):,} rejected items are asked again, as revision {new.number}")
    return runs.under(opened, history.last(opened.folder))


def _report(opened: Run, counters: Counters, *, as_json: bool) -> None:
    view = keep.default_view(opened, score.steps_of(opened))
    summary = summarise(opened, view)
    opened.folder.replace_atomically("README.md", card(opened, summary).encode())
    if as_json:
        say(json.dumps(summary.as_json() | {"out": str(opened.folder.path)}, ensure_ascii=False, default=str))
    else:
        made = counters.pairs + counters.unusable
        for line in summary_lines(summary, embedder=_embedder(opened), seconds=counters.seconds, made=made):
            say(line)
        say("")
        say(f"pairs that passed the rules: {opened.folder.path / 'kept'}")
        say(f"look at more of them: synth show {opened.folder.path} -n 5")
    _check_unusable(opened, summary)


def _embedder(opened: Run) -> str:
    options: Any = opened.job.embed
    return str(getattr(options, "model", "")) if options is not None else ""


def _check_unusable(opened: Run, summary: Summary) -> None:
    limit = opened.job.limits.unusable
    unusable = sum(summary.unusable.values())
    if summary.items and unusable / summary.items > limit:
        top = ", ".join(f"{reason} {count}" for reason, count in list(summary.unusable.items())[:3])
        raise TooManyUnusable(
            f"{unusable:,} of {summary.items:,} items are unusable, more than limits.unusable = {limit:g} ({top}).",
            f"Look at them: synth show {opened.folder.path} --rejected",
        )
