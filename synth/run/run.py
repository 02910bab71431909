"""A run's folder as a whole: started once, opened again under the same settings, or under new ones when asked.

What a run was started as stands in its `revisions`; `prompts/` (`prompts.2/` …) hold the templates, examples and
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
from synth.prompts import Prompts
from synth.rules import Rules
from synth.run import history, identity
from synth.run.history import Record
from synth.shards import OutputFolder
from synth.shipped import find
from synth.sources import InputFile, PairSet, inspect, inspect_pairs, pairs_schema
from synth.tasks.retrieval import PROMPT_SETS, Generator, GeneratorSettings, Retrieval
from synth.validation import validate


@dataclass(frozen=True, slots=True)
class Run:
    """A job bound to its output folder: all that a step needs to know, none of it open yet."""

    job: Job
    folder: OutputFolder
    inputs: tuple[InputFile, ...]
    prompts: Prompts | None
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
    def task(self) -> Retrieval:
        task = self.job.task
        assert isinstance(task, Retrieval)  # noqa: S101 - checked when the run was opened
        return task

    @property
    def template(self) -> str:
        """Names the templates in the data: their folder and a hash of all their files."""
        assert self.prompts is not None  # noqa: S101 - there is a task
        files = self.prompts.files
        digest = hashlib.sha256(b"".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
        return f"{Path(self.task.prompts or 'retrieval').name}@{digest.hexdigest()[:8]}"

    def generator(self) -> Generator:
        """The task with its prompts rendered as far as this run fixes them."""
        assert self.prompts is not None  # noqa: S101 - there is a task
        return generator(self.job, self.prompts)


def generator(job: Job, prompts: Prompts) -> Generator:
    """The job's task with its prompts rendered as far as the job fixes them."""
    assert isinstance(job.task, Retrieval)  # noqa: S101 - `prepare` has checked it
    settings = GeneratorSettings(
        seed=job.file.seed,
        max_tokens=getattr(job.llm, "max_tokens", 512),
        repair=job.repair,
        top_k=job.file.personas.top_k if job.file.personas else 0,
        plain_sources=frozenset(each.source for each in job.corpora if each.control_tokens == "keep"),
    )
    return job.task.open(prompts, settings)


def prepare(job: Job) -> tuple[Prompts, Library | None]:
    """What a job reads beside its corpora: templates and personas. Raises JobError or InputError."""
    if not isinstance(job.task, Retrieval):
        raise JobError(f"{job.source}: task.use: only `retrieval` and its subclasses can be run.")
    prompts = load_prompts(job.task, job.base)
    options = job.file.personas
    library = load_library(find("personas", options.path, job.base), options.field) if options else None
    return prompts, library


def load_prompts(task: Retrieval, base: Path) -> Prompts:
    """The templates, examples and definitions that a task names. Raises JobError."""
    prompts = Prompts.load(find("prompts", task.prompt_folder, base))
    if task.examples is None:
        return prompts
    path = find("prompts", task.examples, base)
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise JobError(f"{path}: {exc.strerror}.", "task.examples names a JSONL file.") from exc
    return Prompts(prompts.folder, {**prompts.files, "examples.jsonl": content})


def start(job: Job, out: Path, *, sample: int | None, notify: Any, go_on: bool = False) -> Run:
    """Open the run in `out`, creating it when it is new; with `go_on` changed settings make a new revision of it.

    Raises OutputError naming the changed settings when `out` was started as something else, and those that no
    revision can change also with `go_on`.
    """
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
    if not isinstance(old.job.task, Retrieval):
        return old
    record = history.read_revisions(run.folder)[number - 1]
    return replace(old, prompts=_prompts_of(run.folder, record), library=_library_of(old.job, record))


def reading_at(run: Run, number: int) -> Run:
    """The same without templates and personas, which step 0 does not need. Raises JobError, OutputError."""
    if number == run.revision:
        return run
    record = history.read_revisions(run.folder)[number - 1]
    name = str(run.folder.path / history.file_name(number))
    old = jobs.from_json(record.job, name, record.base)
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
        raise OutputError(f"revision {record.number}: its personas cannot be had: {exc}") from exc
    if library.sha256 != wanted["sha256"]:
        raise OutputError(f"revision {record.number}: {library.name} is no longer the persona library that it used.")
    return library


def reopen(folder: OutputFolder, rules: Rules) -> Run:
    """A run as it stands, under other rules, to report on and not to work on: its inputs are not looked at.

    Raises JobError, OutputError.
    """
    record, job = history.last(folder), recorded_job(folder)
    prompts = _prompts_of(folder, record) if isinstance(job.task, Retrieval) and not job.data else None
    opened = Run(replace(job, rules=rules), folder, record.inputs, prompts, None, "", record.sample)
    return under(opened, record)


def recorded_job(folder: OutputFolder) -> Job:
    """The job of the last revision, as it was written down. Raises JobError, OutputError."""
    record = history.last(folder)
    return jobs.from_json(record.job, str(folder.path / history.file_name(record.number)), record.base)


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
    return jobs.from_json({**record.job, **used}, name, record.base, overrides), record.sample


def read_record(folder: OutputFolder) -> dict[str, Any]:
    """`job.json` as it stands. Raises OutputError when it is missing, damaged or of a newer format."""
    return history.raw(folder, 1)


def totals(folder: OutputFolder) -> dict[str, int] | None:
    """Shards, passages (or pairs), rows in and rejected, as step 0 counted them; None while it is unfinished."""
    return history.totals(folder)


def _prompts_of(folder: OutputFolder, record: Record) -> Prompts:
    """The templates that a revision uses: those files of its copies that its identity names."""
    path = folder.path / history.prompts_name(record.number)
    try:
        return Prompts(path, {name: (path / name).read_bytes() for name in record.identity["templates"]})
    except OSError as exc:
        raise OutputError(f"{exc.filename}: {exc.strerror}.", "Restore it from a backup.") from exc


def _frozen_prompts(folder: OutputFolder, before: Record, current: Prompts, job: Job, notify: Any) -> Prompts:
    """The templates that the run was started with, where the job names none of its own."""
    assert isinstance(job.task, Retrieval)  # noqa: S101 - `prepare` has checked it
    was = validate(Retrieval, {key: value for key, value in (before.job.get("task") or {}).items() if key != "use"})[0]
    shipped = job.task.prompts in PROMPT_SETS and job.task.examples is None
    if was is None or not shipped or (was.prompts, was.examples) != (job.task.prompts, job.task.examples):
        return current  # this revision, or the one before, has templates of its own
    frozen = _prompts_of(folder, before)
    if frozen.files != current.files:
        notify(f"{frozen.folder}: kept, though this version of synth ships other templates.")
    return frozen
