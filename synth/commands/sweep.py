"""`synth sweep`: what each threshold of a score would keep, and rules calibrated to a share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synth.errors import JobError, SystemFault
from synth.results import sweep as results
from synth.results.sweep import Cut, Scored, Threshold
from synth.rules import Rules, known_columns
from synth.run import run as runs
from synth.scores import ScoreColumn
from synth.shards import OutputFolder
from synth.steps import keep
from synth.terminal import say, tell

_BAR = 30
_TEXT = 110


@dataclass(frozen=True, slots=True)
class Options:
    """What to sweep: the column, groups, thresholds (none: evenly spaced), goal, labels, pairs to show.

    `falling` are the columns with low values for good pairs, `neutral` those whose values are neither good nor bad.
    """

    score: str
    by: tuple[str, ...]
    at: tuple[float, ...]
    goal: tuple[results.Goal, float] | None
    label: str | None
    falling: frozenset[str]
    count: int
    neutral: frozenset[str] = frozenset()

    @property
    def lower(self) -> bool:
        """Whether lower scores are the better ones."""
        return self.score in self.falling

    @classmethod
    def read(  # noqa: PLR0913 - one parameter per flag
        cls, score: str, by: str, at: str, calibrate: str | None, label: str | None, *, lower: bool, count: int
    ) -> Options:
        """From the words of a command line. Raises JobError."""
        try:
            thresholds = tuple(float(each) for each in _words(at))
        except ValueError as exc:
            raise JobError(f"--at {at}: expects numbers with commas between them.", "For example --at 0.6,0.7") from exc
        wish = None if calibrate is None else results.goal(calibrate)
        falling = frozenset({score} if lower else ())
        return cls(score, tuple(_words(by)), thresholds, wish, label, falling, count)

    def with_columns(self, columns: Mapping[str, ScoreColumn]) -> Options:
        """The same, with what the scorers state about their columns."""
        low, neither = (frozenset(n for n, each in columns.items() if each.better == way) for way in ("low", None))
        return replace(self, falling=self.falling | low, neutral=neither)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All that a sweep found; `groups` are by name, `auc` by score column."""

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


def sweep(out: Path, options: Options, write: Path | None, *, as_json: bool) -> None:
    """Print a sweep, write its proposal. Raises JobError for a column that is absent or a goal that has no data."""
    if write and options.goal is None:
        raise JobError(
            "--write needs a proposal to write.", "Add --calibrate keep=0.5 or --calibrate random-pairs=0.01"
        )
    folder = OutputFolder.open(out)
    job, _ = runs.job_of(folder.path, ())
    if options.label in {each.label for each in job.data} - {None}:
        options = replace(options, label="label")  # the pass has given it this name
    options = options.with_columns(known_columns(job.scores))
    found = _measure(folder, options)
    if write and options.goal and found.keep is not None:
        comment = f"synth sweep {folder.path.name} --score {options.score}" + "".join(
            (f" --by {','.join(options.by)}" if options.by else "", f" --calibrate {_goal(options)}")
        )
        try:
            write.write_text(results.as_yaml(found.keep, comment), encoding="utf-8")
        except OSError as exc:
            raise SystemFault(f"{write}: cannot be written: {exc.strerror}.") from exc
    if as_json:
        say(json.dumps(_plain(found), ensure_ascii=False))
        return
    for line in _lines(found, options):
        say(line)
    if write:
        tell(f"{write} is written; apply it: synth keep {out} --rules {write} --as calibrated")


def _measure(folder: OutputFolder, options: Options) -> Sweep:
    record = keep.record_of(folder, keep.DEFAULT)
    wanted = {options.score, *options.by, *([options.label] if options.label else [])}
    stored = keep.stored_scores(folder, wanted)
    scored = results.read(folder, stored, options.score, by=options.by, label=options.label)
    rules = record.rules if record else Rules()
    thresholds = sorted(options.at or _telling(scored, options, rules))
    everything = scored.of(None)
    edges = results.even_edges(scored.score)
    groups = {name: scored.of(n) for n, name in enumerate(scored.names) if name}
    proposed = results.propose(scored, options.goal, lower=options.lower) if options.goal else []
    return Sweep(
        score=options.score,
        lower=options.lower,
        rows=len(scored.score),
        missing=int(np.isnan(scored.score).sum()),
        rules=rules.describe(),
        overall=results.cuts(scored, everything, thresholds, lower=options.lower),
        groups={name: results.cuts(scored, rows, thresholds, lower=options.lower) for name, rows in groups.items()},
        edges=[float(each) for each in edges],
        histogram=results.histogram(scored.score, edges),
        histograms={name: results.histogram(scored.score[rows], edges) for name, rows in groups.items()},
        auc=_aucs(folder, stored, options) if options.label else {},
        samples=_samples(folder, scored, thresholds, options),
        proposed=proposed,
        keep=results.as_keep(proposed, rules, options.score, options.by, lower=options.lower) if proposed else None,
    )


def _telling(scored: Scored, options: Options, rules: Rules) -> list[float]:
    """Round thresholds that keep something and drop something, and the one in force."""
    even = results.even_thresholds(scored.score)
    cuts = results.cuts(scored, scored.of(None), even, lower=options.lower)
    # Of cuts between which nothing lies the last says it all.
    telling = set({(cut.kept, cut.shuffled_share): cut.threshold for cut in cuts if 0 < cut.share < 1}.values())
    in_force = [each.value for each in rules.conditions if each.column == options.score]
    return list(telling | {each for each in in_force if isinstance(each, float)}) or even


def _aucs(folder: OutputFolder, stored: Sequence[str], options: Options) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in dict.fromkeys([options.score, *results.numeric_scores(folder, stored)]):
        if name in options.neutral and name != options.score:
            continue
        scored = results.read(folder, stored, name, by=(), label=options.label)
        if scored.labels is not None:
            found[name] = results.auc(scored.score, scored.labels, lower=name in options.falling)
    return found


def _samples(
    folder: OutputFolder, scored: Scored, thresholds: Sequence[float], options: Options
) -> dict[float, tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]]:
    sides = {each: results.nearest(scored, each, options.count, lower=options.lower) for each in thresholds}
    rows = results.texts(folder, scored, [row for pair in sides.values() for side in pair for row in side])
    return {each: ([rows[n] for n in kept], [rows[n] for n in rest]) for each, (kept, rest) in sides.items()}


def _lines(found: Sweep, options: Options) -> Iterator[str]:
    null = f", {found.missing:,} without this score" if found.missing else ""
    yield f"{found.score} of {found.rows:,} pairs{null}; the rules in force: {found.rules}"
    yield ""
    most = max([1, *found.histogram])
    for low, high, count in zip(found.edges, found.edges[1:], found.histogram, strict=False):
        yield f"  {low:>7.4g} – {high:<7.4g} {'█' * round(_BAR * count / most):<{_BAR}} {count:,}"
    yield ""
    yield from _table("all pairs", found.overall, found)
    for name, cuts in found.groups.items():
        yield ""
        yield from _table(_group(name), cuts, found)
    if found.auc:
        yield ""
        yield f"AUC against {options.label} (0.5: no better than chance)"
        for column, value in found.auc.items():
            way = "  (lower is better)" if column in options.falling else ""
            yield f"  {column:<24} {'not defined' if value is None else f'{value:.4f}'}{way}"
    yield from _shown(found)
    yield from _proposal(found, options)


def _table(title: str, cuts: Sequence[Cut], found: Sweep) -> Iterator[str]:
    sign = "<" if found.lower else ">"
    width = max(28, len(title) + 2, len(found.score) + 12)
    head = f"{title:<{width}}{'kept':>12}{'share':>9}"
    shuffled = any(cut.shuffled_share is not None for cut in cuts)
    labelled = any(cut.recall is not None for cut in cuts)
    yield head + ("  shuffled" if shuffled else "") + ("  precision  recall" if labelled else "")
    for cut in cuts:
        line = f"{f'  {found.score} {sign} {cut.threshold:g}':<{width}}{cut.kept:>12,}{cut.share:>9.1%}"
        line += f"{_percent(cut.shuffled_share):>10}" if shuffled else ""
        line += f"{_percent(cut.precision):>11}{_percent(cut.recall):>8}" if labelled else ""
        yield line


def _shown(found: Sweep) -> Iterator[str]:
    sign = "<" if found.lower else ">"
    for threshold, sides in found.samples.items():
        for word, rows in zip(("kept", "dropped"), sides, strict=True):
            for row in rows:
                yield ""
                yield f"{word} at {found.score} {sign} {threshold:g}: {row['id']}, {row['score']:.4f}"
                yield f"  query    {_cut(row['query'])}"
                yield f"  passage  {_cut(row['passage'])}"


def _proposal(found: Sweep, options: Options) -> Iterator[str]:
    if not found.proposed:
        return
    sign = "below" if found.lower else "above"
    yield ""
    yield f"proposed for {_goal(options)} (thresholds are exact: at most this share lies beyond them)"
    for each in found.proposed:
        note = "" if each.own else "  (too few pairs: the threshold of all)"
        shuffled = f", {each.shuffled_share:.2%} of shuffled pairs" if each.shuffled_share is not None else ""
        kept = f"keeps {_percent(each.share)} of {each.rows:,}{shuffled}"
        yield f"  {_group(each.group):<26} {sign} {each.threshold:.6g}  {kept}{note}"


def _plain(found: Sweep) -> dict[str, Any]:
    groups = [
        {"group": list(name), "cuts": [asdict(cut) for cut in cuts], "histogram": found.histograms[name]}
        for name, cuts in found.groups.items()
    ]
    samples = [{"threshold": at, "kept": kept, "dropped": rest} for at, (kept, rest) in found.samples.items()]
    return {
        "score": found.score,
        "lower_is_better": found.lower,
        "rows": found.rows,
        "missing": found.missing,
        "cuts": [asdict(cut) for cut in found.overall],
        "groups": groups,
        "histogram": {"edges": found.edges, "counts": found.histogram},
        "auc": found.auc,
        "samples": samples,
        "proposed": [asdict(each) for each in found.proposed],
        "keep": found.keep,
    }


def _goal(options: Options) -> str:
    assert options.goal is not None  # noqa: S101 - asked for only where there is one
    return f"{options.goal[0]}={options.goal[1]:g}"


def _group(name: Sequence[str]) -> str:
    return " → ".join(each or "null" for each in name) or "all pairs"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _cut(text: object) -> str:
    plain = " ".join(str(text).split())
    return plain if len(plain) <= _TEXT else plain[: _TEXT - 1] + "…"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
