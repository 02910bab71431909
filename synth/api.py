"""The Python API: what the commands do, as functions over Python objects that return a `Run`.

Each function has an async twin with the same arguments (`agenerate` for `generate`). All of them work while an event
loop is running, as in a notebook: the work then happens in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import html
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from synth import job as jobs
from synth import pipeline
from synth.document import Document
from synth.errors import JobError, Stopped
from synth.pipeline import Control, RunArgs, Target
from synth.shards import OutputFolder

if TYPE_CHECKING:
    import datasets
    import polars as pl
    import pyarrow as pa

    from synth.results.keep import Kept
    from synth.results.summary import Summary
    from synth.results.sweep import Sweep
    from synth.runners.local import StopRequest
    from synth.runners.progress import Counters

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

    def kept(self, view: str = "kept") -> pl.DataFrame:
        """Pairs that passed the rules, with their scores. Raises JobError for an unknown view."""
        return self.scan_kept(view).collect()

    def scan_kept(self, view: str = "kept") -> pl.LazyFrame:
        """`kept` as a lazy frame: filter and select before you collect."""
        from synth.results.rows import view_folder

        return self._scan(view_folder(self._folder, view))

    def generated(self) -> pl.DataFrame:
        """Every usable pair, before scores and rules."""
        return self._scan("generated").collect()

    def passages(self) -> pl.DataFrame:
        """The passages as they were read; empty for a run over existing pairs."""
        return self._scan("passages").collect()

    def mined(self) -> pl.DataFrame:
        """Kept pairs with their hard negatives; empty before `mine`."""
        return self._scan("mined").collect()

    def rejected(self, step: str = "generated") -> pl.DataFrame:
        """What `step` (passages, generated, kept) did not use: the reason, and every attempt."""
        import polars as pl

        from synth.results.summary import scan_rejects

        frame = scan_rejects(self._folder, step)
        return pl.DataFrame() if frame is None else frame.collect()

    def to_dataset(self, view: str = "kept") -> datasets.Dataset:
        """The kept pairs as a `datasets.Dataset`."""
        import datasets

        return datasets.Dataset(self.kept(view).to_arrow())

    @property
    def summary(self) -> Summary:
        """Counts, shares and mixes, as `synth run` prints them."""
        from synth.results.summary import summarise
        from synth.run import run as runs
        from synth.steps import keep, score

        job = keep.under_the_rules_of_kept(runs.recorded_job(self._folder), self._folder)
        opened = runs.reopen(self._folder, job.rules)
        return summarise(opened, keep.default_view(opened, score.steps_of(opened)))

    def sweep(self, score: str = "cosine", **options: Any) -> Sweep:
        """What each threshold of `score` keeps. Options: `by`, `at` and `label`, as `synth sweep` has them."""
        from synth.results.sweep import SweepArgs, sweep

        found, _ = sweep(self._folder, SweepArgs(score, **options))
        return found

    def keep(self, view: str | None = None, /, **rules: Any) -> Kept:
        """Apply other rules to the stored scores: `run.keep(cosine={"above": 0.6})`. No model is called.

        Fills the view of this name, or replaces the default one. Raises JobError for a rule that does not fit.
        """
        from synth.results.keep import apply
        from synth.rules import Rules

        parsed, problems = Rules.parse(rules, runs_scorers(self._folder))
        if parsed is None or problems:
            document = Document("keep", rules, {}, ())
            raise JobError("\n  ".join(document.describe(each) for each in problems))
        return apply(OutputFolder.open(self.path, write=True), parsed, view)

    def show(self, count: int = 5, *, rejected: bool = False, where: str | None = None) -> None:
        """Print a few rows, spread over the run."""
        from synth.cli.show import print_rows

        print_rows(self._folder, count=count, rejected=rejected, where=where)

    def _scan(self, step: str) -> pl.LazyFrame:
        import polars as pl

        from synth.results.summary import scan

        frame = scan(self._folder.step(step))
        return pl.LazyFrame() if frame is None else frame

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


def open_run(path: str | Path) -> Run:
    """The run in a folder. Raises OutputError when there is none."""
    return Run(path)
