"""The Python API of what follows the pairs: `relabel` and `mine` search, `evaluate` and `prove` test models.

`synth/api.py` has what comes before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from synth.api import Options, Run, _outside_loop, _silent, _twin
from synth.runners import mining
from synth.steps.neighbours import Plan
from synth.terminal import tell
from synth.training import evaluate as evaluating
from synth.training import prove as proving
from synth.training import report
from synth.training.runs import settings_of
from synth.types import Notify


@_outside_loop
def relabel(
    run: Run, *, view: str | None = None, corpus: Sequence[str] = (), progress: bool = True, **options: Any
) -> Run:
    """Choose the positives of kept pairs anew, in `run.relabelled()`. `options` are those of `synth relabel`."""
    return _searched(mining.relabel_plan_of, run, mining.MineArgs(view, corpus, options=options), progress=progress)


@_outside_loop
def mine(
    run: Run, *, view: str | None = None, corpus: Sequence[str] = (), progress: bool = True, **options: Any
) -> Run:
    """Add hard negatives to the kept pairs of a run, in `run.mined()`. `options` are those of `synth mine`."""
    return _searched(mining.plan_of, run, mining.MineArgs(view, corpus, options=options), progress=progress)


def _searched(
    plan_of: Callable[[Path, mining.MineArgs, Notify], Plan[Any]], run: Run, args: mining.MineArgs, *, progress: bool
) -> Run:
    notify = tell if progress else _silent
    asyncio.run(mining.carry_out(plan_of(run.path, args, notify), notify))
    return run


@_outside_loop
def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    test: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    rerank: Options | None = None,
    top_k: int = 50,
    max_tokens: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> pl.DataFrame:
    """How good models are on tests: a row for each model and test, with its metrics and the change to the first model.

    `test` is a folder, `heldout:RUN` or `mteb:TASK`, as for `synth evaluate`. Raises JobError, InputError, OutputError.
    """
    args = evaluating.EvaluateArgs(evaluating.reranker(rerank), top_k, max_tokens, device)
    names, tests = ([each] if isinstance(each, (str, Path)) else each for each in (models, test))
    folder, notify = None if out is None else Path(out), tell if progress else _silent
    return pl.DataFrame(evaluating.evaluate([*map(str, names)], [*map(str, tests)], args, folder, notify))


@_outside_loop
def prove(
    runs: Run | Sequence[Run],
    *,
    test: str | Path,
    out: str | Path,
    off_domain: Sequence[str | Path] = (),
    arms: Sequence[str] = (),
    views: Sequence[str] = (),
    seeds: int = 3,
    max_tokens: int | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> report.Record:
    """Whether training on the pairs of runs makes a model better: the content of `report.json`, which is in `out`.

    `settings` are those of training, as `{"model": …, "max_steps": …}`. Raises JobError, InputError, OutputError.
    """
    folders = [each.path for each in ([runs] if isinstance(runs, Run) else runs)]
    options = ({} if max_tokens is None else {"max_tokens": max_tokens}) | dict(settings or {})
    chosen = settings_of(options=options)
    args = proving.ProveArgs(str(test), [*map(str, off_domain)], arms, views, seeds, chosen, max_tokens)
    return report.publish(proving.prove(folders, args, Path(out), tell if progress else _silent), Path(out))


aevaluate = _twin(evaluate)
amine = _twin(mine)
aprove = _twin(prove)
arelabel = _twin(relabel)
