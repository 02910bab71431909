"""A sweep over the thresholds of a score: what each would keep, overall and by group, and proposed rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from synth.results import cuts
from synth.results.cuts import Cut, Scored, Threshold
from synth.rules import Rules, known_columns
from synth.runs.run import job_of
from synth.scores import ScoreColumn
from synth.shards import OutputFolder
from synth.steps import keep


@dataclass(frozen=True, slots=True)
class SweepArgs:
    """What to sweep."""

    score: str
    """The column."""
    by: tuple[str, ...] = ()
    """Also by the groups of these columns."""
    at: tuple[float, ...] = ()
    """Thresholds; none: evenly spaced ones."""
    goal: tuple[cuts.Goal, float] | None = None
    """Propose thresholds for this share."""
    label: str | None = None
    """A column of labels, above 0: relevant."""
    falling: frozenset[str] = frozenset()
    """Columns with low values for good pairs; scorers state it of their own."""
    neutral: frozenset[str] = frozenset()
    """Columns whose values are neither good nor bad; scorers state it of their own."""
    examples: int = 0
    """Pairs on either side of each threshold."""

    @property
    def lower(self) -> bool:
        """Whether lower scores are the better ones."""
        return self.score in self.falling

    def with_columns(self, columns: Mapping[str, ScoreColumn]) -> SweepArgs:
        """The same, with what the scorers state about their columns."""
        low, neither = (frozenset(n for n, each in columns.items() if each.better == way) for way in ("low", None))
        return replace(self, falling=self.falling | low, neutral=neither)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything a sweep found; `groups` are by name, `auc` by score column."""

    score: str
    lower: bool
    rows: int
    missing: int
    rules: str
    overall: Sequence[Cut]
    groups: dict[tuple[str, ...], Sequence[Cut]]
    edges: Sequence[float]
    histogram: Sequence[int]
    histograms: dict[tuple[str, ...], Sequence[int]]
    auc: dict[str, float | None]
    samples: dict[float, tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]]
    proposed: Sequence[Threshold]
    keep: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        groups = [
            {"group": list(name), "cuts": [asdict(cut) for cut in found], "histogram": self.histograms[name]}
            for name, found in self.groups.items()
        ]
        samples = [{"threshold": at, "kept": kept, "dropped": rest} for at, (kept, rest) in self.samples.items()]
        return {
            "score": self.score,
            "lower_is_better": self.lower,
            "rows": self.rows,
            "missing": self.missing,
            "cuts": [asdict(cut) for cut in self.overall],
            "groups": groups,
            "histogram": {"edges": self.edges, "counts": self.histogram},
            "auc": self.auc,
            "samples": samples,
            "proposed": [asdict(each) for each in self.proposed],
            "keep": self.keep,
        }


def sweep(folder: OutputFolder, args: SweepArgs) -> tuple[Sweep, SweepArgs]:
    """What each threshold keeps, and the arguments with what the run's job adds to them.

    Raises JobError for a column that is absent or a goal that has no data.
    """
    job, _ = job_of(folder.path)
    if args.label in {each.label for each in job.data} - {None}:
        args = replace(args, label="label")  # the pass has given it this name
    args = args.with_columns(known_columns(job.scores))
    return _measure(folder, args), args


def _measure(folder: OutputFolder, args: SweepArgs) -> Sweep:
    record = keep.record_of(folder, keep.DEFAULT)
    wanted = {args.score, *args.by, *([args.label] if args.label else [])}
    stored = keep.stored_scores(folder, wanted)
    scored = cuts.read(folder, stored, args.score, by=args.by, label=args.label)
    rules = record.rules if record else Rules()
    thresholds = sorted(args.at or _telling(scored, args, rules))
    everything = scored.of(None)
    edges = cuts.even_edges(scored.score)
    groups = {name: scored.of(n) for n, name in enumerate(scored.names) if name}
    proposed = cuts.propose(scored, args.goal, lower=args.lower) if args.goal else []
    return Sweep(
        score=args.score,
        lower=args.lower,
        rows=len(scored.score),
        missing=int(np.isnan(scored.score).sum()),
        rules=rules.describe(),
        overall=cuts.cuts(scored, everything, thresholds, lower=args.lower),
        groups={name: cuts.cuts(scored, rows, thresholds, lower=args.lower) for name, rows in groups.items()},
        edges=[float(each) for each in edges],
        histogram=cuts.histogram(scored.score, edges),
        histograms={name: cuts.histogram(scored.score[rows], edges) for name, rows in groups.items()},
        auc=_aucs(folder, stored, args) if args.label else {},
        samples=_samples(folder, scored, thresholds, args),
        proposed=proposed,
        keep=cuts.as_keep(proposed, rules, args.score, args.by, lower=args.lower) if proposed else None,
    )


def _telling(scored: Scored, args: SweepArgs, rules: Rules) -> list[float]:
    """Round thresholds that keep something and drop something, and the one in force."""
    even = cuts.even_thresholds(scored.score)
    found = cuts.cuts(scored, scored.of(None), even, lower=args.lower)
    # Of cuts between which nothing lies the last says it all.
    telling = set({(cut.kept, cut.shuffled_share): cut.threshold for cut in found if 0 < cut.share < 1}.values())
    in_force = [each.value for each in rules.conditions if each.column == args.score]
    return list(telling | {each for each in in_force if isinstance(each, float)}) or even


def _aucs(folder: OutputFolder, stored: Sequence[str], args: SweepArgs) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in dict.fromkeys([args.score, *cuts.numeric_scores(folder, stored)]):
        if name in args.neutral and name != args.score:
            continue
        scored = cuts.read(folder, stored, name, by=(), label=args.label)
        if scored.labels is not None:
            found[name] = cuts.auc(scored.score, scored.labels, lower=name in args.falling)
    return found


def _samples(
    folder: OutputFolder, scored: Scored, thresholds: Sequence[float], args: SweepArgs
) -> dict[float, tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]]:
    sides = {each: cuts.nearest(scored, each, args.examples, lower=args.lower) for each in thresholds}
    rows = cuts.texts(folder, scored, [row for pair in sides.values() for side in pair for row in side])
    return {each: ([rows[n] for n in kept], [rows[n] for n in rest]) for each, (kept, rest) in sides.items()}
