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
    by: Sequence[str] = ()
    """Also by the groups of these columns."""
    at: Sequence[float] = ()
    """Thresholds; none: evenly spaced ones."""
    goal: tuple[str, float] | None = None
    """Propose thresholds for this share of `keep` or `random-pairs`."""
    label: str | None = None
    """A column of labels, above 0: relevant."""
    lower: bool = False
    """Whether lower scores are the better ones; scorers state it of their own."""
    examples: int = 0
    """Pairs on either side of each threshold."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything a sweep found; `groups` are by name, `auc` by score column, with whether low values are good."""

    args: SweepArgs
    rows: int
    missing: int
    rules: str
    overall: Sequence[Cut]
    groups: dict[tuple[str, ...], Sequence[Cut]]
    edges: Sequence[float]
    histogram: Sequence[int]
    histograms: dict[tuple[str, ...], Sequence[int]]
    auc: dict[str, tuple[float | None, bool]]
    samples: cuts.Samples
    proposed: Sequence[Threshold]
    keep: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        groups = [
            {"group": list(name), "cuts": [asdict(cut) for cut in found], "histogram": self.histograms[name]}
            for name, found in self.groups.items()
        ]
        return {
            "score": self.args.score,
            "lower_is_better": self.args.lower,
            "rows": self.rows,
            "missing": self.missing,
            "cuts": [asdict(cut) for cut in self.overall],
            "groups": groups,
            "histogram": {"edges": self.edges, "counts": self.histogram},
            "auc": {name: value for name, (value, _) in self.auc.items()},
            "samples": [{"threshold": n, "kept": kept, "dropped": rest} for n, (kept, rest) in self.samples.items()],
            "proposed": [asdict(each) for each in self.proposed],
            "keep": self.keep,
        }


def sweep(folder: OutputFolder, args: SweepArgs) -> Sweep:
    """What each threshold keeps. Raises JobError for a column that is absent or a goal that has no data."""
    job, _ = job_of(folder.path)
    columns = known_columns(job.scores)
    stated = columns.get(args.score)
    lower = args.lower or (stated is not None and stated.better == "low")
    # A pass over existing pairs has given their column of labels this name.
    label = "label" if args.label in {each.label for each in job.data} - {None} else args.label
    args = replace(args, lower=lower, label=label)
    record = keep.record_of(folder, keep.DEFAULT)
    rules = record.rules if record else Rules()
    stored = keep.stored_scores(folder, {args.score, *args.by, *([label] if label else [])})
    scored = cuts.read(folder, stored, args.score, by=args.by, label=label, lower=lower)
    thresholds = sorted(args.at or _informative(scored, args.score, rules))
    edges = cuts.even_steps(scored.score)
    groups = {name: scored.of(n) for n, name in enumerate(scored.names) if name}
    proposed = cuts.propose(scored, args.goal) if args.goal else []
    return Sweep(
        args=args,
        rows=len(scored.score),
        missing=int(np.isnan(scored.score).sum()),
        rules=rules.describe(),
        overall=cuts.cuts(scored, scored.of(None), thresholds),
        groups={name: cuts.cuts(scored, rows, thresholds) for name, rows in groups.items()},
        edges=edges,
        histogram=cuts.histogram(scored.score, edges),
        histograms={name: cuts.histogram(scored.score[rows], edges) for name, rows in groups.items()},
        auc=_aucs(folder, stored, args, columns),
        samples=cuts.samples(folder, scored, thresholds, args.examples),
        proposed=proposed,
        keep=cuts.as_keep(proposed, rules, args.score, args.by, lower=lower) if proposed else None,
    )


def _informative(scored: Scored, score: str, rules: Rules) -> list[float]:
    """Round thresholds that keep something and drop something, and the one in force."""
    even = cuts.even_steps(scored.score)
    found = cuts.cuts(scored, scored.of(None), even)
    # Of several thresholds with nothing between them, the last is enough.
    distinct = set({(cut.kept, cut.shuffled_share): cut.threshold for cut in found if 0 < cut.share < 1}.values())
    in_force = [each.value for each in rules.conditions if each.column == score]
    return list(distinct | {each for each in in_force if isinstance(each, float)}) or even


def _aucs(
    folder: OutputFolder, stored: Sequence[str], args: SweepArgs, columns: Mapping[str, ScoreColumn]
) -> dict[str, tuple[float | None, bool]]:
    """The AUC of the score, and of all others that are better high or low."""
    lower = {name: each.better == "low" for name, each in columns.items()} | {args.score: args.lower}
    neutral = {name for name, each in columns.items() if each.better is None} - {args.score}
    found = {}
    for name in dict.fromkeys([args.score, *cuts.numeric_scores(folder, stored)] if args.label else []):
        if name not in neutral:
            scored = cuts.read(folder, stored, name, by=(), label=args.label, lower=lower.get(name, False))
            assert scored.labels is not None  # noqa: S101 - asked for with a label
            found[name] = cuts.auc(scored.score, scored.labels, lower=scored.lower), scored.lower
    return found
