"""The Python API: what the commands do, as functions over Python objects that return a `Run`.

Each function has an async twin with the same arguments (`agenerate` for `generate`). All of them work while an event
loop is running, as in a notebook: the work then happens in a thread of its own.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import html
import json
import shutil
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from synth import forecast, pipeline
from synth.document import Document
from synth.errors import JobError, Stopped
from synth.job import build_job
from synth.pipeline import Control, RunArgs, Target
from synth.progress import Display
from synth.report import make
from synth.report.compare import Comparison, Side, compare
from synth.report.parts import Report
from synth.results import export as exporting
from synth.results.keep import Kept, apply
from synth.results.render import row_view
from synth.results.rows import rows as stored_rows
from synth.results.rows import view_folder
from synth.results.summary import Summary, files_of, rejected_files, scan, scores_in, summarise
from synth.results.sweep import Sweep, SweepArgs, sweep
from synth.rules import Rules
from synth.runners.local import StopRequest
from synth.runners.progress import Counters
from synth.runs.history import History
from synth.runs.run import OpenRun
from synth.shards import OutputFolder, disk
from synth.shards.shard import decode
from synth.steps import keep as keep_step
from synth.steps import score as score_step
from synth.tables import REJECTED_ITEMS, REJECTED_ROWS
from synth.terminal import show as show_on_screen
from synth.terminal import tell, words

if TYPE_CHECKING:
    import datasets

P = ParamSpec("P")
T = TypeVar("T")
Rows = Any
"""A list of str or dict, a table of polars, pandas, Arrow or `datasets`, or the path of a file or folder."""
Options = Mapping[str, Any] | str
"""A stage as in a job file, `{"use": "vllm_server", "model": ...}`; a string is short for `{"use": ...}`."""


class Run:
    """The folder of a run, finished or not. Nothing here generates anything again.

    Rows come as polars data frames with the columns of docs/contract.md.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folder = OutputFolder.open(self.path)
        self._workspace: _Workspace | None = None

    def kept(self, view: str = "kept") -> pl.DataFrame:
        """Pairs that passed the rules, with their scores. Raises JobError for an unknown view."""
        return self._read(view_folder(self._folder, view))

    def scan_kept(self, view: str = "kept") -> pl.LazyFrame:
        """`kept` as a lazy frame: filter and select before you collect."""
        return self._scan(view_folder(self._folder, view))

    def generated(self) -> pl.DataFrame:
        """Every usable pair, before scores and rules."""
        return self._read("generated")

    def passages(self) -> pl.DataFrame:
        """The passages as they were read; empty for a run over existing pairs."""
        return self._read("passages")

    def relabelled(self) -> pl.DataFrame:
        """Kept pairs with all their positives; empty before `relabel`."""
        return self._read("relabelled")

    def mined(self) -> pl.DataFrame:
        """Kept pairs with their hard negatives; empty before `mine`."""
        return self._read("mined")

    def rejected(self, step: str = "generated") -> pl.DataFrame:
        """What `step` (passages, generated, kept) did not use: the reason, and every attempt."""
        if found := [decode(disk.read_whole(path), path) for path in rejected_files(self._folder, step)]:
            return _frame(found)
        schemas = {"passages": REJECTED_ROWS, "generated": REJECTED_ITEMS}
        if step in schemas:
            return pl.DataFrame(schemas[step].empty_table())
        return self.kept().with_columns(pl.lit(None, pl.String).alias("reason")).clear()

    def to_dataset(self, view: str = "kept") -> datasets.Dataset:
        """The kept pairs as a `datasets.Dataset`."""
        import datasets  # noqa: PLC0415 - takes half a second, and few need it

        return datasets.Dataset(self.kept(view).to_arrow())

    @property
    def summary(self) -> Summary:
        """Counts, shares and mixes, as `synth run` prints them."""
        opened = OpenRun.recorded(self._folder)
        opened = replace(opened, job=keep_step.under_the_rules_of_kept(opened.job, self._folder))
        return summarise(opened, keep_step.default_view(opened, score_step.steps_of(opened)))

    def sweep(self, score: str = "cosine", **options: Any) -> Sweep:
        """What each threshold of `score` keeps. Options: `by`, `at`, `label`, `goal=("precision", 0.95)`."""
        return sweep(self._folder, SweepArgs(score, **options))

    def report(self, view: str = "kept", *, queries: str | Path | None = None) -> Report:
        """What `synth report` gives; `queries` is a file of people's queries. `.save("x.html")` writes the page."""
        return _outside_loop(make)(self._folder, view, None if queries is None else Path(queries), _silent)

    def compare(self, other: Run, *, view: str = "kept", other_view: str = "kept") -> Comparison:
        """Every figure of the report beside that of another run or view, and the rows that only one keeps."""
        return _outside_loop(compare)(Side(self._folder, view), Side(other._folder, other_view), _silent)

    def keep(self, view: str | None = None, /, **rules: Any) -> Kept:
        """Apply other rules to the stored scores: `run.keep(cosine={"above": 0.6})`. No model is called.

        Fills the view of this name, or replaces the default one. Raises JobError for a rule that does not fit.
        """
        history = History.read(self._folder)
        parsed = Rules.of(Document("keep", rules, {}, ()), history.job(history.last).scores)
        return apply(OutputFolder.open(self.path, write=True), parsed, view)

    def show(self, count: int = 5, *, rejected: bool = False, where: str | None = None) -> None:
        """Print a few rows, spread over the run."""
        scores = scores_in(self._folder, "kept")
        for source, row in stored_rows(self._folder, count=count, rejected=rejected, where=where):
            show_on_screen(*row_view(row, source, scores), words())

    def _scan(self, step: str) -> pl.LazyFrame:
        frame = scan(files_of(self._folder.step(step)))
        return pl.LazyFrame() if frame is None else frame

    def _read(self, step: str) -> pl.DataFrame:
        shards = self._folder.step(step)
        return _frame([shards.read(index).table for index in sorted(shards.done())])

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        summary = self.summary
        parts = {
            "passages": summary.passages,
            "items": summary.items,
            "pairs": summary.pairs,
            "unusable": sum(summary.unusable.values()),
            "kept": summary.kept,
        }
        counts = ", ".join(f"{value:,} {name}" for name, value in parts.items() if value or name == "kept")
        columns = ["query", "passage", *summary.scores]
        frame = self.scan_kept().head(5)
        rows = frame.select([name for name in columns if name in frame.collect_schema().names()]).collect()
        return f"<p><b>{html.escape(str(self.path))}</b>: {counts}</p>{rows._repr_html_()}"


def _frame(tables: Sequence[pa.Table]) -> pl.DataFrame:
    """The rows of shards whose pages were checked."""
    whole = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
    return pl.DataFrame(whole.replace_schema_metadata(None))


_stop: ContextVar[_Stop | None] = ContextVar("_stop", default=None)


class _Stop:
    """Lets a cancelled `await` end the run that works in another thread."""

    asked = False
    drain: Callable[[], object] | None = None
    """While the event loop of a run works: finishes the requests in flight and starts no others."""

    def ask(self) -> None:
        self.asked = True
        if self.drain is not None:
            self.drain()


class _Caller(Control):
    """A run that Python code started: progress if wanted, no signal handlers."""

    def __init__(self, *, progress: bool) -> None:
        self._progress, self._stop = progress, _stop.get() or _Stop()

    def notify(self, text: str) -> None:
        if self._progress:
            tell(text)

    report = notify

    def check(self) -> None:
        if self._stop.asked:
            raise Stopped("stopped; everything finished is saved.")

    def display(self, counters: Counters) -> AbstractContextManager[object]:
        if not self._progress:
            counters.notice = _silent
            return nullcontext()
        return Display(counters.snapshot)

    @contextmanager
    def drains(self, stop: StopRequest, counters: Counters) -> Iterator[None]:
        del counters
        self._stop.drain = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, stop.ask)
        if self._stop.asked:
            stop.ask()
        try:
            yield
        finally:
            self._stop.drain = None


def _outside_loop(function: Callable[P, T]) -> Callable[P, T]:
    """Run the function in a thread of its own where this one has a running event loop, as in a notebook."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function(*args, **kwargs)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, functools.partial(function, *args, **kwargs)).result()

    return call


def _twin(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """The same as a coroutine; cancelling it stops the run as a signal would, and waits for that."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        stop = _Stop()
        token = _stop.set(stop)
        try:
            work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
        finally:
            _stop.reset(token)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.ask()
            await asyncio.wait({work})
            work.exception()
            raise

    call.__name__ = f"a{function.__name__}"
    return call


def open_run(path: str | Path) -> Run:
    """The run in a folder. Raises OutputError when there is none."""
    return Run(path)


@_outside_loop
def generate(
    passages: Rows,
    *,
    llm: Options | Sequence[Mapping[str, Any]],
    embed: Options | None = pipeline.EMBEDDER,
    task: Options | None = None,
    scores: Sequence[Options] | None = None,
    keep: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **sections: Any,
) -> Run:
    """Make pairs from passages: generate, score, keep.

    Dicts and tables need a column with the text (`text`, or another usual name; `corpus={"text": "body"}` names it).
    `sections` are further keys of a job file: `seed`, `personas`, `limits`, `run`, `corpus`. The same call with the
    same `out` resumes; without `out` the run lives in a temporary folder, as long as the returned `Run`.
    Raises JobError naming every mistake, InputError, ServerRefused, ServerUnavailable, Stopped.
    """
    workspace = _Workspace(out)
    sections["corpus"] = {"path": workspace.path_of(passages, "text"), **(sections.get("corpus") or {})}
    sections |= _given(llm=llm, embed=embed, task=task, scores=scores, keep=keep)
    return workspace.run("synth.generate", sections, progress=progress)


@_outside_loop
def filter(  # noqa: A001 - named after the command
    pairs: Rows,
    *,
    scores: Sequence[Options] | None = None,
    keep: Mapping[str, Any] | None = None,
    embed: Options | None = pipeline.EMBEDDER,
    query: str | None = None,
    passage: str | None = None,
    label: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **sections: Any,
) -> Run:
    """Score existing pairs and keep the good ones.

    `query`, `passage` and `label` name columns; by default the usual names are tried. Otherwise as `generate`.
    """
    columns = {key: name for key, name in (("query", query), ("passage", passage), ("label", label)) if name}
    workspace = _Workspace(out)
    sections["data"] = {"path": workspace.path_of(pairs, "query"), **columns}
    sections |= _given(embed=embed, scores=scores, keep=keep)
    return workspace.run("synth.filter", sections, progress=progress)


@_outside_loop
def run(
    job: str | Path,
    *,
    out: str | Path | None = None,
    sample: int | None = None,
    workers: int | None = None,
    continue_edited: bool = False,
    retry_rejected: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Run:
    """Run a job file, or resume the run in a folder, as `synth run` does.

    `overrides` set keys of the job file, `__` for the dot: `run("job.yaml", task__queries_per_passage=2)`.
    """
    args = RunArgs(workers, continue_edited=continue_edited, retry=retry_rejected)
    return _run(_target(job, out, overrides, sample), args, progress=progress)


@_outside_loop
def run_tasks(
    job: str | Path,
    *,
    out: str | Path | None = None,
    sample: int | None = None,
    progress: bool = True,
    **overrides: Any,
) -> dict[str, Run]:
    """Run a job file with `tasks`, or resume the runs in its folder, as `run` does: the runs by name.

    Raises JobError for a job without `tasks`.
    """
    targets = pipeline.targets(Path(job), Path(out) if out is not None else None, _settings(overrides), sample)
    if not targets:
        raise JobError(f"{job}: has no `tasks`.", "Call synth.run.")
    pipeline.run_all(targets, RunArgs(), _Caller(progress=progress), lambda _name, _finished: None)
    return {name: Run(target.out) for name, target in targets.items()}


def _settings(overrides: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in overrides.items()]


def _target(job: str | Path, out: str | Path | None, overrides: Mapping[str, Any], sample: int | None) -> Target:
    return pipeline.resolve(Path(job), Path(out) if out is not None else None, _settings(overrides), sample)


@_outside_loop
def plan(
    job: str | Path,
    *,
    pilot: int | None = None,
    out: str | Path | None = None,
    gpu: str | None = None,
    precision: str = "bf16",
    gpus: int = 1,
    price: tuple[float, float, float] | None = None,
    progress: bool = True,
    **overrides: Any,
) -> forecast.Plan:
    """What a job file will cost, and with a pilot of so many rows what it will keep; options as in `synth plan`."""
    args, target = forecast.PlanArgs(gpu, precision, gpus, price), _target(job, out, overrides, pilot)
    return forecast.plan(target, args, _Caller(progress=progress))


@_outside_loop
def export(run: Run, *, to: str, out: str | Path, view: str | None = None, **options: Any) -> Path:
    """Write files for a trainer; returns their folder. `options` are those of `synth export`: `split`, `negatives`."""
    exporting.export(run.path, exporting.ExportArgs(to, Path(out), view=view, **options), _silent)
    return Path(out)


agenerate = _twin(generate)
afilter = _twin(filter)
arun = _twin(run)
arun_tasks = _twin(run_tasks)
aplan = _twin(plan)
aexport = _twin(export)


class _Workspace:
    """Where a call writes: the caller's folder, or a temporary one that goes away with the returned `Run`."""

    def __init__(self, out: str | Path | None) -> None:
        if out is None:
            temporary = tempfile.mkdtemp(prefix="synth-")
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
            out = Path(temporary) / "out"
        self._out = Path(out)

    def path_of(self, rows: Rows, text: str) -> str:
        """The path of the rows. Those in memory are written beside the output folder, named by their content."""
        if isinstance(rows, (str, Path)):
            return str(rows)
        folder = self._out.with_name(f"{self._out.name}.input")
        folder.mkdir(parents=True, exist_ok=True)
        unnamed = folder / "rows.parquet.tmp"
        try:
            pq.write_table(_table(rows, text), unnamed)
        except pa.ArrowException as exc:
            raise JobError(f"rows cannot be written as Parquet: {exc}.", "Give each column one type.") from exc
        with unnamed.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        path = folder / f"rows-{name}.parquet"
        if path.exists():  # a resumed call: the file keeps the time that its run recorded
            unnamed.unlink()
        else:
            unnamed.rename(path)
        return str(path)

    def run(self, name: str, spec: dict[str, Any], *, progress: bool) -> Run:
        """Run a job made of Python objects."""
        job = build_job(Document(name, spec, {}, ()), (), base=Path.cwd())
        found = _run(Target(job, self._out), RunArgs(), progress=progress)
        found._workspace = self  # noqa: SLF001 - a temporary folder lives as long as its run
        return found


def _run(target: Target, args: RunArgs, *, progress: bool) -> Run:
    pipeline.run(target, args, _Caller(progress=progress)).require_usable()
    return Run(target.out)


def _table(rows: Rows, text: str) -> pa.Table:
    """Rows in memory as an Arrow table. Raises JobError for anything else, and for no rows."""
    if hasattr(rows, "with_format"):  # a datasets.Dataset
        rows = rows.with_format("arrow")[:]
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        items = list(rows)
        if items and all(isinstance(item, str) for item in items):
            return pa.table({text: items})
        if items and all(isinstance(item, Mapping) for item in items):
            return pa.Table.from_pylist(items)
    elif hasattr(rows, "__arrow_c_stream__"):
        return pa.table(rows)
    raise JobError(
        f"rows of type {type(rows).__name__} cannot be used.",
        "Give a list of str or of dict, a polars, pandas or Arrow table, a datasets.Dataset, or a path.",
    )


def _given(**sections: Any) -> dict[str, Any]:
    """The sections that are set; a stage given by its name alone becomes a mapping."""
    found = {name: _spec(value) for name, value in sections.items() if value is not None}
    if "scores" in found:
        found["scores"] = [_spec(each) for each in found["scores"]]
    return found


def _spec(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _silent(text: str) -> None:
    del text
