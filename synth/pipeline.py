"""A job from its inputs to kept pairs: what `synth run` and `synth filter` do, for any caller.

Nothing here prints, handles signals or ends the process: a caller that wants that passes a `Control`.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from synth.document import load_document
from synth.errors import InputError, JobError, OutputError, Stopped, SynthError, TooManyUnusable
from synth.job import Job, load_job, mistaken
from synth.mixture import entries, runs_in
from synth.process import for_tables, give_back
from synth.results.card import card
from synth.results.summary import Summary, summarise
from synth.runners import local, workers
from synth.runners.budget import budgeted
from synth.runners.local import StopRequest
from synth.runners.progress import Counters, Share
from synth.runners.ray_cluster import Cluster
from synth.runs.history import History, read_rules
from synth.runs.run import OpenRun, job_of
from synth.shards.journal import turn
from synth.steps import ingest, keep, rounds, score
from synth.target import FEWER

EMBEDDER = {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"}
"""The embedder where none is named: on this machine, an English model."""


@dataclass(frozen=True, slots=True)
class Target:
    """A job, the folder it writes to, and the sample it is cut to (None: all passages)."""

    job: Job
    out: Path
    sample: int | None = None
    history: History | None = None
    """What was read of the folder already."""
    whole: Path | None = None
    """The folder of all runs of a job with `tasks`, of which this is one; None for any other job."""


@dataclass(frozen=True, slots=True)
class RunArgs:
    """How to run a job, apart from what the job file says."""

    workers: int | None = None
    """Processes; None: the job's `run.workers`, on every node."""
    index: int = 0
    of: int = 1
    """This is run number `index` of `of` runs in one folder."""
    continue_edited: bool = False
    """Continue under changed settings, as a new revision."""
    retry: bool = False
    cluster: Cluster | None = None


class Control:
    """What a caller adds to a run: messages, progress, and a way to stop it. This class adds nothing."""

    def notify(self, text: str) -> None:
        """A warning, or something else worth a line."""

    def report(self, text: str) -> None:
        """A line on how far the run is."""

    def check(self) -> None:
        """Called while the inputs are read. Raises Stopped when it is time to stop."""

    def display(self, counters: Counters) -> AbstractContextManager[object]:
        del counters
        return nullcontext()

    @contextmanager
    def drains(self, stop: StopRequest, counters: Counters) -> Iterator[None]:
        """Entered inside the event loop: from here on a stop is asked for through `stop`."""
        del stop, counters
        yield

    async def leave(self, exc: Stopped) -> None:
        """Called in the event loop when the run was stopped, before `exc` is raised."""
        del exc


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to its end, and what this process counted."""

    run: OpenRun
    summary: Summary
    counters: Counters

    def require_usable(self) -> None:
        """Raises TooManyUnusable when more items are unusable than the job allows; `exhausted` ones do not count."""
        limit = self.run.job.limits.max_unusable_share
        unusable = sum(count for reason, count in self.summary.unusable.items() if reason != "exhausted")
        if self.summary.items and unusable / self.summary.items > limit:
            top = ", ".join(f"{reason} {count}" for reason, count in list(self.summary.unusable.items())[:3])
            what = f"{unusable:,} of {self.summary.items:,} items are unusable ({top})"
            hint = f"Look at them: synth show {self.run.folder.path} --rejected"
            raise TooManyUnusable(f"{what}, more than limits.max_unusable_share = {limit:g}.", hint)


def resolve(path: Path, out: Path | None, settings: Sequence[str], sample: int | None) -> Target:
    """A job file or a run's folder as a Target. Raises JobError when it is neither."""
    if path.is_dir():
        if sample is not None or out is not None:
            raise JobError(f"{path} is the folder of a run; -o and --sample go with a job file.")
        job, history = job_of(path, settings)
        sets_rules = any(setting.partition("=")[0].strip().partition(".")[0] == "keep" for setting in settings)
        if not sets_rules and (read_rules(history.folder) or {"keep": None})["keep"] is None:
            job = keep.under_the_rules_of_kept(job, history.folder)
        return Target(job, path, history.last.sample, history)
    job = load_job(path, settings)
    folder = out or (Path(job.file.out) if job.file.out else Path("outputs") / path.stem)
    return Target(job, sample_folder(folder, sample), sample)


def targets(path: Path, out: Path | None, settings: Sequence[str], sample: int | None) -> dict[str, Target]:
    """The runs of a job with `tasks`, or of its output folder, by name; empty for any other job or folder.

    Raises JobError with all mistakes, OutputError where a run is missing in the folder.
    """
    if path.is_dir():
        runs = runs_in(path) if out is None and sample is None else []
        return {each.name: replace(resolve(each, None, settings, None), whole=path) for each in runs}
    document, made = load_document(path), {}
    drafts = entries(document, settings)
    if problems := [problem for draft in drafts.values() for problem in draft.problems]:
        raise mistaken(document, problems)
    for name, draft in drafts.items():
        job = draft.job(Path.cwd())
        assert job is not None and job.part is not None and job.file.out is not None  # noqa: S101, PT018 - no problems
        whole = sample_folder(out or Path(job.file.out).parent, sample)
        if (whole / "job.json").exists():
            raise OutputError(f"{whole}: is the folder of a run.", "Choose another one with -o.")
        rows = None if sample is None else max(1, round(sample * (job.part.end - job.part.start)))
        made[name] = Target(job, whole / name, rows, whole=whole)
    return made


def run_all(
    found: Mapping[str, Target], args: RunArgs, control: Control, done: Callable[[str, Finished], None]
) -> None:
    """Run these one after the other; `done` is called with each that came to its end.

    All are opened first, so what is wrong with the last is told before the first. One with too many unusable items, or
    whose last shards other processes work on, keeps none from running: its error is raised at the end.
    """
    for target in found.values() if len(found) > 1 else ():
        if not (target.out / "job.json").exists():
            OpenRun.open(target.job, target.out, sample=target.sample, notify=lambda _: None)  # told when it runs
    errors: list[SynthError] = []
    for name, target in found.items():
        control.report(f"{name or target.job.source} → {target.out}")
        try:
            done(name, finished := run(target, args, control))
            finished.require_usable()
        except SynthError as exc:
            exc.message = f"{name}: {exc.message}" if name else exc.message
            if not (isinstance(exc, TooManyUnusable) or (isinstance(exc, Stopped) and exc.elsewhere)):
                raise
            errors.append(exc)
    if errors:
        raise errors[0]


def sample_folder(out: Path, sample: int | None) -> Path:
    """A sample has a folder of its own, `OUT.sample-N`."""
    return out if sample is None else out.with_name(f"{out.name}.sample-{sample}")


def run(target: Target, args: RunArgs | None = None, control: Control | None = None) -> Finished:
    """Run a job to its end, or do what is left of it, and write the dataset card.

    Raises SynthError for every way it can end otherwise; too many unusable items are the caller's to judge.
    """
    args, control = args or RunArgs(), control or Control()
    try:
        with args.cluster or nullcontext():
            return _Pipeline(target, args, control).run()
    except SynthError as exc:
        _add_resume_hint(exc, target)
        raise


def _add_resume_hint(exc: SynthError, target: Target) -> None:
    command = f"synth run {target.whole or target.out}"
    told = any(words in exc.hint for words in (command, "same command", "--continue"))
    if exc.exit_code in {5, 7, 75, 130} and not told and (target.out / "job.json").exists():
        exc.hint = f"{exc.hint} Resume with: {command}".strip()


class _Pipeline:
    def __init__(self, target: Target, args: RunArgs, control: Control) -> None:
        self._target, self._args, self._control = target, args, control

    def run(self) -> Finished:
        """All passes: what is left of the run, then the items to be asked again."""
        target = self._target
        opened = OpenRun.open(
            target.job,
            target.out,
            sample=target.sample,
            notify=self._control.notify,
            go_on=self._args.continue_edited,
            known=target.history,
        )
        keep.remember(opened)
        if opened.pairs:
            for_tables()
        again = self._args.retry and not opened.pairs
        if again and opened.job.file.target is not None:
            raise JobError("--retry-rejected: a run with a target asks for new items instead.", "Leave it out.")
        if again and opened.record.retry:  # a revision that asks items again is finished first
            done = opened.history.totals()
            again = done is not None and len(opened.folder.step("generated").done()) >= done["shards"]
        opened, counters = self._rounds(opened, self._pass(opened))
        if again and (items := ingest.rejected_items(opened)):
            opened = opened.asking_again(items)
            self._control.notify(f"asking {len(items):,} rejected items again, as revision {opened.revision}")
            counters = self._pass(opened)
        elif again:
            self._control.notify("no rejected item is left to ask again")
        summary = summarise(opened, keep.default_view(opened, score.steps_of(opened)))
        opened.folder.replace_atomically("README.md", card(opened, summary).encode())
        return Finished(opened, summary, counters)

    def _rounds(self, opened: OpenRun, counters: Counters) -> tuple[OpenRun, Counters]:
        """With a target, one round after the other: each a revision, planned when the one before it is over."""
        if opened.job.file.target is None:
            return opened, counters
        if rounds.clusters_of(opened) is None:
            self._control.report("finding clusters of passages")
            asyncio.run(self._cluster(opened))
        while (planned := rounds.next_round(opened)) is not None:
            opened = opened.next_round(planned)
            items, passages, now = len(planned.positions), len(planned.passages), rounds.standing(opened)
            self._control.report(
                f"round {planned.number}: {items:,} items for {passages:,} passages; {next(now.lines())}"
            )
            counters = self._pass(opened)
        names = (keep.DEFAULT, *keep.names(opened.folder))
        used = {name for view in names if (record := keep.record_of(opened.folder, view)) for name in record.scores}
        for name in score.superseded(opened) - used:
            shutil.rmtree(opened.folder.locate(name), ignore_errors=True)
        return opened, counters

    async def _cluster(self, opened: OpenRun) -> None:
        stage, job = opened.job.embed, opened.job
        assert stage is not None  # noqa: S101 - a target needs one
        encoder = stage.open(job.client(self._control.notify), job.instruction)
        try:
            await rounds.cluster(opened, encoder, self._control.check)
        finally:
            await encoder.close()

    def _pass(self, opened: OpenRun) -> Counters:
        """Step 0, then everything after it. Raises InputError when there is nothing to do."""
        counters = Counters()
        with self._control.display(counters):
            counts, made = self._read(opened, counters), "pairs" if opened.pairs else "passages"
            if not counts[made]:
                where = opened.folder.path / "rejected" / ("generated" if opened.pairs else "passages")
                what, hint = f"{opened.job.source}: the inputs hold no usable {made[:-1]}", ""
                if counts["rejected"]:
                    what, hint = f"{what}; {counts['rejected']:,} rows were rejected", f"See {where}."
                raise InputError(f"{what}.", hint)
            again = f", {counts['retried']:,} items asked again" if counts.get("retried") else ""
            count, target = counts[made] - counts.get("planned", 0), opened.job.file.target
            if opened.record.round is None:
                self._control.report(
                    f"{count:,} {made} of {counts['rows_in']:,} rows, {counts['rejected']:,} rows rejected{again}"
                )
            if target is not None and (why := target.impossible(count)):
                raise JobError(f"{opened.job.source}: {why}.", FEWER)
            give_back()
            counters.started = time.monotonic()
            if target is not None and opened.revision == 1:
                return counters  # its passages are asked in rounds
            asyncio.run(self._work(opened, counts["shards"], counters))
        return counters

    def _read(self, opened: OpenRun, counters: Counters) -> Mapping[str, int]:
        """Step 0, by one process at a time: the others find it done."""

        def reading(read: int, _rejected: int) -> None:
            self._control.check()
            counters.rows_read, counters.reading = read, True

        waiting = "waiting for another process that reads the inputs"
        with turn(opened.folder.path / "job.json", lambda: self._control.report(waiting)):
            try:
                return ingest.make(opened, reading, self._control.notify)
            finally:
                counters.reading = False

    async def _work(self, opened: OpenRun, shards: int, counters: Counters) -> None:
        stop, cluster = StopRequest(), self._args.cluster
        count = min(self._args.workers or opened.job.run.workers * (cluster.nodes if cluster else 1), shards)
        share = Share(self._args.index, self._args.of, workers=count)
        with self._control.drains(stop, counters):
            try:
                async with budgeted(opened, counters, stop):
                    if cluster is not None:
                        await workers.work(opened, shards, counters, stop, share, cluster.launch)
                    else:
                        await (workers if count > 1 else local).work(opened, shards, counters, stop, share)
            except Stopped as exc:
                _add_resume_hint(exc, self._target)
                if opened.record.round is not None and opened.job.file.target is not None:
                    self._control.report("\n".join(rounds.standing(opened).lines()))
                if stop():
                    await self._control.leave(exc)
                raise
