"""A run's folder as a whole: started once, opened again under the same settings, or under new ones when asked.

`job.json` and later revisions record the job of a run; `prompts/` (`prompts.2/` …) contain the templates, examples and
definitions that it uses, so that an upgrade of the package changes nothing in the middle of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synth.errors import InputError, JobError, OutputError
from synth.job import Job, job_from_json
from synth.personas import Library, load_library
from synth.prompts import PromptFolder
from synth.runs import identity
from synth.runs.history import (
    History,
    Record,
    Round,
    compare,
    file_name,
    in_order,
    prompts_name,
    read_rules,
    refuse,
    require_same_columns,
)
from synth.shards import OutputFolder
from synth.shipped import find
from synth.sources import InputFile, PairSet, inspect, inspect_pairs, pairs_schema, require_apart
from synth.tasks import Observer, Task, TaskSettings, Writer
from synth.types import Notify

PREPARED = "prepared.json"
"""What the task of a run prepared before its first item, with its hash: all processes and resumes read it here."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A job bound to its output folder: all that a step needs to know, none of it open yet."""

    job: Job
    history: History
    record: Record
    """The revision that it works under."""
    inputs: tuple[InputFile, ...]
    prompts: PromptFolder | None = None
    """None in a pass over existing data, as are task and library."""
    library: Library | None = None
    pairs: tuple[PairSet, ...] = ()
    """The existing data that this run works on, in place of corpora."""

    @classmethod
    def open(
        cls,
        job: Job,
        out: Path,
        *,
        sample: int | None,
        notify: Notify,
        go_on: bool = False,
        known: History | None = None,
    ) -> OpenRun:
        """Open the run in `out`, creating it when it is new; with `go_on` changed settings make a new revision of it.

        `known` is its history, where it was read already. Raises JobError where `out` and the inputs are not apart,
        OutputError naming the changed settings when `out` was started as something else, and those that no revision can
        change also with `go_on`.
        """
        for scorer in job.scores:
            scorer.require()
        require_apart(job.file.input_paths, job.base, out)
        folder = OutputFolder.open(out, write=True, notify=notify)
        if known is None and (folder.path / file_name(1)).exists():
            known = History.read(folder)
        history = History(folder, known.records if known else ())
        before = history.last if known else None
        prompts: PromptFolder | None = None
        library: Library | None = None
        pairs: tuple[PairSet, ...] = ()
        if job.task is None:
            pairs = _pair_sets(job, before, notify)
            inputs = in_order(before, [file for each in pairs for file in each.files])
            if any(each.judged for each in pairs):
                job = replace(job, rules=job.rules.judged())
        else:
            prompts, library = prepare(job)
            if before is not None:
                prompts = _frozen_prompts(folder, before, prompts, job, notify)
            inputs = _corpus_files(job, before, library, notify)
        templates = dict(prompts.files) if prompts else {}
        require_apart((each.path for each in inputs if os.path.realpath(each.path) != each.path), job.base, out)
        described = identity.describe(job, inputs, templates, library.sha256 if library else None, sample)
        if pairs and go_on and before is not None and len(inputs) > len(before.inputs):
            require_same_columns(folder, job, pairs, before)
        changes = compare(before, described, inputs) if before else None
        if before is not None and changes:
            refuse(folder, changes, go_on=go_on)
            notify(f"{folder.path}: goes on as revision {before.number + 1}: {'; '.join(changes.lines())}")
        if before is None or changes:
            before = history.append(job, described, inputs, templates)
            refuse(folder, compare(before, described, inputs), go_on=False)
        return cls(job, history, before, tuple(inputs), prompts, library, pairs)

    @classmethod
    def recorded(cls, folder: OutputFolder) -> OpenRun:
        """A run as it was recorded last, to report on and not to work on: its inputs are not looked at.

        Raises JobError, OutputError.
        """
        history = History.read(folder)
        record = history.last
        job = history.job(record)
        prompts = _prompts_of(folder, record, job.task) if job.task is not None and not job.data else None
        return cls(job, history, record, record.inputs, prompts)

    @property
    def folder(self) -> OutputFolder:
        return self.history.folder

    @property
    def identity(self) -> str:
        return self.record.sha256

    @property
    def revision(self) -> int:
        return self.record.number

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
        return f"{Path(self.task.prompts).name}@{digest.hexdigest()[:8]}"

    def writer(self) -> Writer:
        """The task with its prompts rendered as far as this run fixes them."""
        assert self.prompts is not None  # noqa: S101 - there is a task
        return writer_of(self.job, self.prompts, prepared=self.prepared())

    def prepared(self) -> Mapping[str, Any] | None:
        """What the task has prepared; None where it does not prepare, or not yet. Raises OutputError."""
        path = self.folder.path / PREPARED
        if not self.task.prepares_from or not path.exists():
            return None
        try:
            found = json.loads(path.read_bytes())
            content: Mapping[str, Any] = found["prepared"]
            known = found["sha256"] == identity.sha256(content)
        except (OSError, ValueError, LookupError, TypeError) as exc:
            raise OutputError(f"{path}: cannot be read ({exc}).", "Restore it from a backup.") from exc
        if not known:
            raise OutputError(f"{path}: was edited after the run began.", "Restore it, or start another run.")
        return content

    def asking_again(self, items: Sequence[str]) -> OpenRun:
        """The run under a new revision that asks these rejected items again.

        Raises OutputError where another process has just made another revision.
        """
        templates = dict(self.prompts.files) if self.prompts else {}
        record = self.history.append(self.job, self.record.settings, self.inputs, templates, items)
        if record.retry != tuple(items):
            what = f"{self.folder.path}: another process has changed this run."
            raise OutputError(what, "Wait for it, then run the command again.")
        return replace(self, record=record)

    def next_round(self, planned: Round) -> OpenRun:
        """The run under a new revision that carries out a round; another process may have planned it before."""
        templates = dict(self.prompts.files) if self.prompts else {}
        record = self.history.append(self.job, self.record.settings, self.inputs, templates, planned=planned)
        return replace(self, record=record)

    def at(self, number: int) -> OpenRun:
        """The run as it was under an earlier revision, on the servers and with the limits of today.

        Models that are the same in both are those of this run, wherever they are served now. Raises OutputError when
        the persona library of that revision is gone, JobError for a job that this version cannot read.
        """
        old = self.reading_at(number)
        if number == self.revision or old.job.task is None:
            return old
        wanted = old.record.identity.get("personas")
        try:
            library = _library(old.job) if wanted else None
        except (JobError, InputError) as exc:
            raise OutputError(f"revision {number}: its personas cannot be loaded: {exc}") from exc
        if wanted and library and library.sha256 != wanted["sha256"]:
            raise OutputError(f"revision {number}: {library.name} is not the persona library that it used.")
        return replace(old, prompts=_prompts_of(self.folder, old.record, old.task), library=library)

    def reading_at(self, number: int) -> OpenRun:
        """The same without templates and personas, which step 0 does not need. Raises JobError, OutputError."""
        if number == self.revision:
            return self
        record = self.history.record(number)
        old = self.history.job(record)
        file = old.file.model_copy(update={"run": self.job.run, "limits": self.job.limits})
        now = self.job
        models = {name: _as_today(getattr(old, name), getattr(now, name)) for name in ("llm", "embed", "persona_embed")}
        job = replace(old, file=file, **models)
        return OpenRun(job, self.history, record, record.inputs)


def writer_of(
    job: Job, prompts: PromptFolder, observe: Observer | None = None, *, prepared: Mapping[str, Any] | None = None
) -> Writer:
    """The job's task with its prompts rendered as far as the job, and what the task has prepared, fix them."""
    assert job.llm is not None  # noqa: S101 - a job that generates has one
    settings = TaskSettings(
        seed=job.file.seed,
        max_tokens=job.llm.max_tokens,
        repair=job.llm.repair,
        top_k=job.file.personas.top_k if job.file.personas else 0,
        plain_sources=frozenset(each.source for each in job.corpora if each.control_tokens == "keep"),
        llm=job.llm,
        prepared=prepared,
    )
    return Writer(job.require_task(), prompts, settings, observe)


def prepare(job: Job) -> tuple[PromptFolder, Library | None]:
    """What a job reads apart from its corpora: templates and personas. Raises JobError or InputError."""
    return job.require_task().load_prompts(job.base), _library(job)


def _library(job: Job) -> Library | None:
    options = job.file.personas
    return load_library(find("personas", options.path, job.base), options.field) if options else None


def _as_today(old: Any, now: Any) -> Any:
    """Today's stage where it yields the same, for it knows where things are now."""
    same = type(old) is type(now) and old is not None and old.identity() == now.identity()
    return now if same else old


def _pair_sets(job: Job, before: Record | None, notify: Notify) -> tuple[PairSet, ...]:
    """The existing data of a job. It says what it recognised before anything is written."""
    found = inspect_pairs(job.data, job.base, job.read_limits(), before.inputs if before else (), notify)
    sets = tuple(replace(each, files=tuple(in_order(before, each.files))) for each in found)
    for each in sets:
        notify(each.describe())
    if before is None:
        pairs_schema(sets, job.read_limits())  # columns that do not fit together end it before it is on record
    return sets


def _corpus_files(job: Job, before: Record | None, library: Library | None, notify: Notify) -> list[InputFile]:
    options = job.file.personas
    if library and options and len(library.sentences) < options.top_k:
        notify(f"{library.name}: {len(library.sentences)} personas, fewer than top_k = {options.top_k}")
    known = before.inputs if before else ()
    inputs = in_order(before, inspect(job.corpora, job.base, job.read_limits(), known, notify))
    for each in inputs:
        if each.rows == 0:
            notify(f"{each.path}: holds no row")
    return inputs


def job_of(out: Path, overrides: Sequence[str] = ()) -> tuple[Job, History]:
    """The job that the folder `out` goes on with, and its history. Raises OutputError when it holds none.

    That is the last revision's, with the scorers and rules that were used last.
    """
    folder = OutputFolder.open(out)
    history = History.read(folder)
    record = history.last
    used: Any = read_rules(folder) or {}
    if used and used["keep"] is None:
        used = {**used, "keep": {}}  # the caller takes those of `kept/`
    name = str(out / file_name(record.number))
    return job_from_json({**record.job, **used}, name, record.base, overrides, record.code), history


def _prompts_of(folder: OutputFolder, record: Record, task: Task) -> PromptFolder:
    """The templates that a revision uses: those files of its copies that its identity names."""
    path = folder.path / prompts_name(record.number)
    try:
        return task.prompts_class(path, {name: (path / name).read_bytes() for name in record.identity["templates"]})
    except OSError as exc:
        raise OutputError(f"{exc.filename}: {exc.strerror}.", "Restore it from a backup.") from exc


def _frozen_prompts(
    folder: OutputFolder, before: Record, current: PromptFolder, job: Job, notify: Notify
) -> PromptFolder:
    """The templates that the run was started with, where the job names none of its own."""
    task = job.require_task()
    was, now = (before.job.get("task") or {}), job.file.task
    if task.own_prompts or any(
        was.get(key) != now.get(key) for key in ("use", "prompts", "examples", *task.prompt_options)
    ):
        return current  # this revision, or the one before, has templates of its own
    frozen = _prompts_of(folder, before, task)
    if frozen.files != current.files:
        notify(f"{frozen.folder}: kept, though this version of synth ships other templates.")
    return frozen
