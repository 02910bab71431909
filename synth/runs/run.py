"""A run's folder as a whole: started once, opened again under the same settings, or under new ones when asked.

`revisions` record the job that a run was started with; `prompts/` (`prompts.2/` …) contain the templates, examples and
definitions that it uses, so that an upgrade of the package changes nothing in the middle of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synth import job as jobs
from synth.errors import InputError, JobError, OutputError
from synth.job import Job
from synth.personas import Library, load_library
from synth.prompts import PromptFolder
from synth.rules import Rules
from synth.runs import history, identity
from synth.runs.history import Record
from synth.shards import OutputFolder
from synth.shipped import find
from synth.sources import InputFile, PairSet, inspect, inspect_pairs, pairs_schema
from synth.tasks import Observer, Task, TaskSettings, Writer


@dataclass(frozen=True, slots=True)
class Run:
    """A job bound to its output folder: all that a step needs to know, none of it open yet."""

    job: Job
    folder: OutputFolder
    inputs: tuple[InputFile, ...]
    prompts: PromptFolder | None
    """None in a pass over existing data, as are task and library."""
    library: Library | None
    identity: str
    sample: int | None
    revision: int = 1
    pairs: tuple[PairSet, ...] = ()
    """The existing data that this run works on, in place of corpora."""
    seen: int = 0
    """How many of the inputs, from the first, belong to earlier revisions."""
    retry: tuple[str, ...] = ()
    """Ids of the rejected items that this revision asks again."""

    @property
    def task(self) -> Task:
        """The job's task; only for a run that generates."""
        return self.job.require_task()

    @property
    def template(self) -> str:
        """Names the templates in the data: their folder and a hash of all their files."""
        assert self.prompts is not None  # noqa: S101 - there is a task
        files = self.prompts.files
        digest = hashlib.sha256(b"".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
        return f"{Path(self.task.prompts or 'retrieval').name}@{digest.hexdigest()[:8]}"

    def writer(self) -> Writer:
        """The task with its prompts rendered as far as this run fixes them."""
        assert self.prompts is not None  # noqa: S101 - there is a task
        return writer(self.job, self.prompts)


def writer(job: Job, prompts: PromptFolder, observe: Observer | None = None) -> Writer:
    """The job's task with its prompts rendered as far as the job fixes them."""
    assert job.llm is not None  # noqa: S101 - a job that generates has one
    settings = TaskSettings(
        seed=job.file.seed,
        max_tokens=job.llm.max_tokens,
        repair=job.llm.repair,
        top_k=job.file.personas.top_k if job.file.personas else 0,
        plain_sources=frozenset(each.source for each in job.corpora if each.control_tokens == "keep"),
    )
    return Writer.of(job.require_task(), prompts, settings, observe)


def prepare(job: Job) -> tuple[PromptFolder, Library | None]:
    """What a job reads apart from its corpora: templates and personas. Raises JobError or InputError."""
    prompts = job.require_task().load_prompts(job.base)
    options = job.file.personas
    library = load_library(find("personas", options.path, job.base), options.field) if options else None
    return prompts, library


def start(job: Job, out: Path, *, sample: int | None, notify: Any, go_on: bool = False) -> Run:
    """Open the run in `out`, creating it when it is new; with `go_on` changed settings make a new revision of it.

    Raises OutputError naming the changed settings when `out` was started as something else, and those that no
    revision can change also with `go_on`.
    """
    for scorer in job.scores:
        scorer.require()
    folder = OutputFolder.open(out, write=True, notify=notify)
    before = history.last(folder) if (folder.path / "job.json").exists() else None
    if job.task is None:
        return _start_pass(job, folder, before, _Start(sample, notify, go_on))
    prompts, library = prepare(job)
    if before is not None:
        prompts = _frozen_prompts(folder, before, prompts, job, notify)
    known = before.inputs if before else ()
    if library and job.file.personas and len(library.sentences) < job.file.personas.top_k:
        notify(f"{library.name}: {len(library.sentences)} personas, fewer than top_k = {job.file.personas.top_k}")
    inputs = history.in_order(known, inspect(job.corpora, job.base, job.read_limits(), known))
    for each in (empty for empty in inputs if empty.rows == 0):
        notify(f"{each.path}: holds no row")
    described = identity.describe(job, inputs, prompts.files, library.sha256 if library else None, sample)
    opened = Run(job, folder, tuple(inputs), prompts, library, "", sample)
    return _bound(opened, before, described, _Start(sample, notify, go_on))


@dataclass(frozen=True, slots=True)
class _Start:
    """How a run is to be opened."""

    sample: int | None
    notify: Any
    go_on: bool


def _start_pass(job: Job, folder: OutputFolder, before: Record | None, how: _Start) -> Run:
    """A run over existing data: it says what it recognised before anything is written."""
    known = before.inputs if before else ()
    found = inspect_pairs(job.data, job.base, job.read_limits(), known)
    sets = tuple(replace(each, files=tuple(history.in_order(known, each.files))) for each in found)
    for each in sets:
        how.notify(each.layout.describe())
    if before is None:
        pairs_schema(sets, job.read_limits())  # columns that do not fit together end it before it is on record
    inputs = tuple(history.in_order(known, [file for each in sets for file in each.files]))
    described = identity.describe(job, inputs, {}, None, how.sample)
    if how.go_on and before is not None and len(inputs) > len(known):
        history.require_same_columns(folder, job, sets, before)
    opened = Run(job, folder, inputs, None, None, "", how.sample, pairs=sets)
    return _bound(opened, before, described, how)


def _bound(opened: Run, before: Record | None, described: Mapping[str, Any], how: _Start) -> Run:
    """The run under the revision that fits its job: the last one, or a new one. Raises OutputError."""
    folder = opened.folder
    changes = history.compare(before, described, opened.inputs) if before else None
    if before is None or changes:
        if before is not None and changes is not None:
            history.refuse(folder, changes, go_on=how.go_on)
            how.notify(f"{folder.path}: goes on as revision {before.number + 1}: {'; '.join(changes.lines())}")
        new = history.following(before, opened.job, described, opened.inputs)
        append(opened, new)
        before = history.last(folder)
        history.refuse(folder, history.compare(before, described, opened.inputs), go_on=False)
    return under(opened, before)


def append(opened: Run, new: Record) -> None:
    """Write a revision down with its templates, those first: a revision that exists has all that it needs."""
    if opened.prompts is not None:
        for name, content in opened.prompts.files.items():  # some may be left over from a start that died
            opened.folder.replace_atomically(Path(history.prompts_name(new.number)) / name, content)
    history.put(opened.folder, opened.job, new)


def under(opened: Run, record: Record) -> Run:
    """The run bound to one of its folder's revisions."""
    earlier = history.read_revisions(opened.folder)[: record.number - 1]
    return replace(
        opened,
        identity=record.sha256,
        revision=record.number,
        seen=len(earlier[-1].inputs) if earlier else 0,
        retry=record.retry,
    )


def at(run: Run, number: int) -> Run:
    """The run as it was under an earlier revision, on the servers and with the limits of today.

    Models that are the same in both are those of `run`, wherever they are served now. Raises OutputError when the
    persona library of that revision is gone, JobError for a job that this version cannot read.
    """
    if number == run.revision:
        return run
    old = reading_at(run, number)
    if old.job.task is None:
        return old
    record = history.read_revisions(run.folder)[number - 1]
    return replace(old, prompts=_prompts_of(run.folder, record, old.task), library=_library_of(old.job, record))


def reading_at(run: Run, number: int) -> Run:
    """The same without templates and personas, which step 0 does not need. Raises JobError, OutputError."""
    if number == run.revision:
        return run
    record = history.read_revisions(run.folder)[number - 1]
    name = str(run.folder.path / history.file_name(number))
    old = jobs.from_json(record.job, name, record.base, code=record.code)
    stages = {section: _as_today(getattr(old, section), getattr(run.job, section)) for section in ("llm", "embed")}
    file = old.file.model_copy(update={"run": run.job.run, "limits": run.job.limits})
    job = replace(old, file=file, llm=stages["llm"], embed=stages["embed"])
    return under(Run(job, run.folder, record.inputs, None, None, "", record.sample), record)


def _as_today(old: Any, now: Any) -> Any:
    """Today's stage where it yields the same, for it knows where things are now."""
    same = type(old) is type(now) and old is not None and old.identity() == now.identity()
    return now if same else old


def _library_of(job: Job, record: Record) -> Library | None:
    """The persona library of a revision. Raises OutputError when it is not that one any more."""
    options, wanted = job.file.personas, record.identity.get("personas")
    if options is None or wanted is None:
        return None
    try:
        library = load_library(find("personas", options.path, job.base), options.field)
    except (JobError, InputError) as exc:
        raise OutputError(f"revision {record.number}: its personas cannot be loaded: {exc}") from exc
    if library.sha256 != wanted["sha256"]:
        raise OutputError(f"revision {record.number}: {library.name} is not the persona library that it used.")
    return library


def reopen(folder: OutputFolder, rules: Rules) -> Run:
    """A run as it stands, under other rules, to report on and not to work on: its inputs are not looked at.

    Raises JobError, OutputError.
    """
    record, job = history.last(folder), recorded_job(folder)
    prompts = _prompts_of(folder, record, job.task) if job.task is not None and not job.data else None
    opened = Run(replace(job, rules=rules), folder, record.inputs, prompts, None, "", record.sample)
    return under(opened, record)


def recorded_job(folder: OutputFolder) -> Job:
    """The job of the last revision, as it was written down. Raises JobError, OutputError."""
    record = history.last(folder)
    return jobs.from_json(
        record.job, str(folder.path / history.file_name(record.number)), record.base, code=record.code
    )


def job_of(out: Path, overrides: Sequence[str]) -> tuple[Job, int | None]:
    """The job that the folder `out` goes on with, and its sample size. Raises OutputError when it holds none.

    That is the last revision's, with the scorers and rules that were used last.
    """
    folder = OutputFolder.open(out)
    record = history.last(folder)
    used: Any = history.read_rules(folder) or {}
    if used and used["keep"] is None:
        used = {**used, "keep": {}}  # the caller takes those of `kept/`
    name = str(out / history.file_name(record.number))
    return jobs.from_json({**record.job, **used}, name, record.base, overrides, record.code), record.sample


def read_record(folder: OutputFolder) -> dict[str, Any]:
    """`job.json` as it stands. Raises OutputError when it is missing, damaged or of a newer format."""
    return history.raw(folder, 1)


def totals(folder: OutputFolder) -> dict[str, int] | None:
    """Shards, passages (or pairs), rows in and rejected, as step 0 counted them; None while it is unfinished."""
    return history.totals(folder)


def _prompts_of(folder: OutputFolder, record: Record, task: Task) -> PromptFolder:
    """The templates that a revision uses: those files of its copies that its identity names."""
    path = folder.path / history.prompts_name(record.number)
    try:
        return task.prompts_class(path, {name: (path / name).read_bytes() for name in record.identity["templates"]})
    except OSError as exc:
        raise OutputError(f"{exc.filename}: {exc.strerror}.", "Restore it from a backup.") from exc


def _frozen_prompts(folder: OutputFolder, before: Record, current: PromptFolder, job: Job, notify: Any) -> PromptFolder:
    """The templates that the run was started with, where the job names none of its own."""
    task = job.require_task()
    was, now = (before.job.get("task") or {}), job.file.task
    if task.own_prompts or any(was.get(key) != now.get(key) for key in ("use", "prompts", "examples")):
        return current  # this revision, or the one before, has templates of its own
    frozen = _prompts_of(folder, before, task)
    if frozen.files != current.files:
        notify(f"{frozen.folder}: kept, though this version of synth ships other templates.")
    return frozen
