"""Training on runs: their pairs with negatives and teacher scores, several in given shares, one model for each seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from synth.document import Document, load_document
from synth.errors import JobError
from synth.exports import Shape, Source
from synth.presets import preset_part
from synth.progress import Display
from synth.results.export import pairs_of
from synth.results.rows import view_folder
from synth.results.summary import RANK
from synth.rules.conditions import LOWER, Condition
from synth.runners.progress import Phase, Snapshot
from synth.runs.run import job_of
from synth.shards import OutputFolder
from synth.steps.keep import record_of
from synth.terminal import tell
from synth.training.fit import TrainSettings, fit
from synth.types import Notify
from synth.validation import plain, validate

_SCHEMA: dict[str, pl.DataType] = {
    "query": pl.String(),
    "passage": pl.String(),
    "negatives": pl.List(pl.String()),
    "scores": pl.List(pl.Float64()),
}
_MILD = 0.3
"""A rule on a cosine up to here drops nonsense only."""


@dataclass(frozen=True, slots=True)
class TrainArgs:
    """What to train on, and how; `options` are keys of TrainSettings, on top of a preset's and a file's."""

    out: Path
    view: str | None = None
    shares: Sequence[float] = ()
    seeds: int = 1
    preset: str | None = None
    file: Path | None = None
    options: Mapping[str, Any] | None = None


class Steps:
    """How far a training is: `fit` calls it after every step, a display calls `look`."""

    def __init__(self) -> None:
        self._now, self._began, self._before = Snapshot(), 0.0, 0

    def __call__(self, done: int, total: int, loss: float | None) -> None:
        if done <= self._before or not self._now.phases:  # the first step of a model, perhaps after a checkpoint
            self._began, self._before = time.monotonic(), done
        seconds = time.monotonic() - self._began
        phase = Phase("training", "steps", done, total, self._before, seconds)
        self._now = Snapshot((phase,), () if loss is None else (f"loss {loss:.4f}",))

    def look(self) -> Snapshot:
        return self._now


def train(runs: Any, *, out: str | Path, progress: bool = True, **options: Any) -> list[Path]:
    """Fine-tune an embedding model on the kept pairs of a `Run`, or of several; returns a folder for each seed.

    `options` are those of `synth train`: `view`, `shares`, `seeds`, `preset`, `model`, `loss` and so on. The same call
    resumes. Raises JobError, OutputError where `out` holds something else, SystemFault.
    """
    own = {name: options.pop(name) for name in ("view", "shares", "seeds", "preset") if name in options}
    paths = [Path(each.path) for each in (runs if isinstance(runs, Sequence) else [runs])]
    steps = Steps()
    with Display(steps.look, quiet=not progress):
        notify = tell if progress else lambda _: None
        return train_runs(paths, TrainArgs(Path(out), **own, options=options), notify=notify, on_step=steps)


def train_runs(
    runs: Sequence[Path],
    args: TrainArgs,
    *,
    notify: Notify,
    on_step: Callable[[int, int, float | None], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Train a model on the pairs of runs, or one for each of several seeds in `out/seed-N`; returns their folders.

    Raises JobError and what `fit` raises.
    """
    settings = settings_of(args.preset, args.file, args.options)
    shares = list(args.shares) or [1.0] * len(runs)
    if len(shares) != len(runs) or min(shares) <= 0:
        raise JobError(f"{len(shares)} shares for {len(runs)} runs.", "Give one positive number for each run, as 3,1.")
    for run in runs:
        _warn_of_own_filter(run, args.view, settings.model, notify)
    frames = [read_pairs(run, args.view, notify, settings.negatives) for run in runs]
    pairs = mixed(frames, shares, settings.seed) if args.shares else pl.concat(frames)
    origin = {
        "runs": [str(run) for run in runs],
        "view": args.view or "kept",
        "shares": list(args.shares),
        "preset": args.preset,
    }
    made = []
    for n in range(args.seeds):
        one = settings.model_copy(update={"seed": settings.seed + n})
        out = args.out if args.seeds == 1 else args.out / f"seed-{one.seed}"
        made.append(fit(pairs, one, out, notify=notify, on_step=on_step, stopping=stopping, origin=origin))
    return made


def settings_of(
    preset: str | None = None, file: Path | None = None, options: Mapping[str, Any] | None = None
) -> TrainSettings:
    """The settings that a preset, a file and options name, each on top of the one before. Raises JobError."""
    document = load_document(file) if file else Document("training", {}, {}, ())
    data = preset_part(preset, "train") | dict(plain(document.data or {})) | dict(plain(options or {}))
    settings, problems = validate(TrainSettings, data)
    if settings is None or document.problems:
        raise JobError("\n  ".join(document.describe(each) for each in (*document.problems, *problems)))
    return settings


def read_pairs(run: Path, view: str | None, notify: Notify, negatives: int | None = None) -> pl.DataFrame:
    """The pairs of a view: query, passage, negatives (none before `synth mine`), teacher scores. Raises OutputError.

    `scores` has the reranker's probability of the passage, then of each negative; null where it gave none. A pair with
    extra positives has a row for each of its passages. Pairs with a label of 0 or less are left out. With 0 `negatives`
    nothing that `synth mine` found is looked at.
    """
    folder = OutputFolder.open(run, notify=notify)
    _, step, _ = pairs_of(folder, view, negatives, notify)
    layout = job_of(run)[0].layout
    source = Source(folder, step, tuple(sorted(step.done())), 0, layout, mined=step.name == "mined")
    rows = [
        (
            row.query,
            passage,
            [each.passage for each in row.negatives],
            [score, *(each.reranker for each in row.negatives)],
        )
        for batch in source.batches(Shape())
        for row in batch.rows
        for passage, score in row.taught
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def mixed(frames: Sequence[pl.DataFrame], shares: Sequence[float], seed: int) -> pl.DataFrame:
    """As many rows as there are in these shares, none twice; where a frame has more, those are a random draw."""
    whole = min(len(frame) / share for frame, share in zip(frames, shares, strict=True))
    drawn = [frame.sample(round(whole * share), seed=seed) for frame, share in zip(frames, shares, strict=True)]
    return pl.concat(drawn)


def _warn_of_own_filter(run: Path, view: str | None, model: str, notify: Notify) -> None:
    """Say so where a rule on the cosine or rank by the very model chose the pairs that it is trained on."""
    folder = OutputFolder.open(run)
    record = record_of(folder, view_folder(folder, view or "kept")) if view != "generated" else None
    embed = job_of(run)[0].embed
    if record is None or embed is None or not any(map(_is_strict, record.rules.conditions)):
        return
    if embed.model.removeprefix("sentence-transformers/") == model.removeprefix("sentence-transformers/"):
        notify(
            f"{run}: pairs were kept by cosine or rank in {model}, the model that is trained: such a rule keeps what "
            "it knows already, and can cost more than it gains. Compare with --view generated, or keep by answerable."
        )


def _is_strict(condition: Condition) -> bool:
    """Whether the condition drops more than nonsense."""
    mild = isinstance(condition.value, int | float) and condition.value <= _MILD
    return condition.column == RANK or (condition.column == "cosine" and condition.operator in LOWER and not mild)
