"""A sweep over the thresholds of a score: what each would keep, overall and by group, and proposed rules.

Reads columns only: yields, precision, recall, AUC, histograms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth import marks
from synth.errors import JobError
from synth.results.calibration import Threshold, as_keep, beyond, beyond_share, propose, share_of
from synth.results.summary import rows_at, spearman
from synth.rules import Mask, Rules, known_columns
from synth.runs.run import job_of
from synth.scores import ScoreColumn
from synth.shards import OutputFolder
from synth.sources.columns import JUDGEMENT_NAMES
from synth.steps import keep

Numbers = NDArray[np.float64]

_STEPS = 20
"""About as many thresholds, and bins, as fit a screen."""
_TWO = 2


@dataclass(frozen=True, slots=True)
class Cut:
    """One threshold and what it keeps; precision and recall over the rows with a label, None without."""

    threshold: float
    kept: int
    share: float
    shuffled_share: float | None
    precision: float | None
    recall: float | None


Samples = dict[float, tuple[list[dict[str, Any]], list[dict[str, Any]]]]


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
    """Propose thresholds for a share of `keep` or `random-pairs`, or by labels for a `precision` or the best `f1`."""
    label: str | None = None
    """A column of labels, above 0: relevant; or `marks`, those that people gave: good 1, bad 0."""
    lower: bool = False
    """Whether lower scores are the better ones; scorers state it of their own."""
    examples: int = 0
    """Pairs on either side of each threshold."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything a sweep found; `groups` are cuts and histogram by name, `auc` by score, with whether low is good."""

    args: SweepArgs
    rows: int
    missing: int
    rules: str
    overall: Sequence[Cut]
    groups: dict[tuple[str, ...], tuple[Sequence[Cut], Sequence[int]]]
    edges: Sequence[float]
    histogram: Sequence[int]
    auc: dict[str, tuple[float | None, bool]]
    spearman: dict[str, float | None]
    """Spearman's rank correlation of each score with labels of more than two values; empty for others."""
    samples: Samples
    proposed: Sequence[Threshold]
    keep: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        groups = [
            {"group": list(name), "cuts": [asdict(cut) for cut in found], "histogram": counts}
            for name, (found, counts) in self.groups.items()
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
            "spearman": self.spearman,
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
    own = {each.label for each in job.data} - {None}
    if "auto" in own and args.label is not None and args.label.casefold() in JUDGEMENT_NAMES:
        first = folder.step("generated").first()
        own |= {args.label} - {*(folder.step("generated").schema(first).names if first is not None else ())}
    label = "label" if args.label in own else args.label
    args = replace(args, lower=lower, label=label)
    record = keep.record_of(folder, keep.DEFAULT)
    rules = record.rules if record else Rules()
    stored = keep.stored_scores(folder, {args.score, *args.by, *([label] if label else [])})
    scored = read(folder, stored, args.score, by=args.by, label=label, lower=lower)
    thresholds = sorted(args.at or _informative(scored, args.score, rules))
    edges = even_steps(scored.score)
    groups = {name: scored.of(n) for n, name in enumerate(scored.names) if name}
    proposed = propose(scored, args.goal) if args.goal else []
    aucs, correlations = _against_labels(folder, stored, args, columns)
    return Sweep(
        args=args,
        rows=len(scored.score),
        missing=int(np.isnan(scored.score).sum()),
        rules=rules.describe(),
        overall=cuts_at(scored, scored.of(None), thresholds),
        groups={
            name: (cuts_at(scored, rows, thresholds), histogram(scored.score[rows], edges))
            for name, rows in groups.items()
        },
        edges=edges,
        histogram=histogram(scored.score, edges),
        auc=aucs,
        spearman=correlations,
        samples=samples(folder, scored, thresholds, args.examples),
        proposed=proposed,
        keep=as_keep(proposed, rules, args.score, args.by, lower=lower) if proposed else None,
    )


def _informative(scored: Scored, score: str, rules: Rules) -> list[float]:
    """Round thresholds that keep something and drop something, and the one in force."""
    even = even_steps(scored.score)
    found = cuts_at(scored, scored.of(None), even)
    # Of several thresholds with nothing between them, the last is enough.
    distinct = set({(cut.kept, cut.shuffled_share): cut.threshold for cut in found if 0 < cut.share < 1}.values())
    in_force = [each.value for each in rules.conditions if each.column == score]
    return list(distinct | {each for each in in_force if isinstance(each, float)}) or even


def _against_labels(
    folder: OutputFolder, stored: Sequence[str], args: SweepArgs, columns: Mapping[str, ScoreColumn]
) -> tuple[dict[str, tuple[float | None, bool]], dict[str, float | None]]:
    """The AUC of the score and of all others that are better high or low; against grades the rank correlation too."""
    lower = {name: each.better == "low" for name, each in columns.items()} | {args.score: args.lower}
    neutral = {name for name, each in columns.items() if each.better is None} - {args.score}
    found, correlations = {}, {}
    shards = keep.ready(folder, stored)[:1] if args.label else []
    fields = [field for name in stored for index in shards for field in folder.step(name).schema(index)]
    names = [args.score, *(each.name for each in fields if _is_number(each.type))]
    for name in dict.fromkeys(names) if args.label else ():
        if name not in neutral:
            scored = read(folder, stored, name, by=(), label=args.label, lower=lower.get(name, False))
            assert scored.labels is not None  # noqa: S101 - asked for with a label
            found[name] = auc(scored.score, scored.labels, lower=scored.lower), scored.lower
            known = ~np.isnan(scored.score) & ~np.isnan(scored.labels)
            if len(np.unique(scored.labels[known])) > _TWO:
                correlations[name] = spearman(scored.score[known], scored.labels[known])
    return found, correlations


@dataclass(frozen=True, slots=True)
class Scored:
    """Columns of all scored pairs, in the order of the shards: float64 (n,), NaN for null.

    `groups` holds for each pair the number of its group in `names`, or nothing but zeros without groups. `shuffled` is
    the score of shuffled pairs where the scorer makes one, `labels` what is known of relevance (above 0: relevant).
    `shards` are those that the rows lie in.
    """

    score: Numbers
    lower: bool
    """Whether lower scores are the better ones."""
    shuffled: Numbers | None
    labels: Numbers | None
    groups: NDArray[np.int64]
    names: Sequence[tuple[str, ...]]
    shards: Sequence[int]

    def of(self, group: int | None) -> Mask:
        """The rows of a group, all rows for None."""
        return np.ones(len(self.score), np.bool_) if group is None else self.groups == group


def read(
    folder: OutputFolder, scores: Sequence[str], score: str, *, by: Sequence[str], label: str | None, lower: bool
) -> Scored:
    """The columns that a sweep needs, shard by shard. Raises JobError for one that is absent or holds no numbers."""
    shards = keep.ready(folder, scores)
    if not shards:
        raise JobError(f"{folder.path}: holds no scored pairs yet.", f"Run it first: synth run {folder.path}")
    shuffled = f"{score}_shuffled"
    types = keep.column_types(folder, scores, shards[0])
    by_hand = label == marks.NAME and label not in types
    wanted = {score, *by, *([label] if label and not by_hand else [])}
    if absent := sorted(wanted - types.keys()):
        raise JobError(f"{folder.path}: has no column {absent[0]}.", f"There are: {', '.join(sorted(types))}.")
    wanted |= {shuffled} & types.keys() | ({"id"} if by_hand else set())
    parts = []
    for index in shards:
        table = keep.selected(folder, scores, index, wanted)
        for name in by:
            text = pc.fill_null(table[name].cast(pa.string()), "")
            table = table.set_column(table.column_names.index(name), name, text.dictionary_encode())
        parts.append(table)
    table = pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()
    groups, names = _grouped(table, by)
    return Scored(
        score=_numbers(table[score], score),
        lower=lower,
        shuffled=_numbers(table[shuffled], shuffled) if shuffled in types else None,
        labels=_given(folder, table["id"]) if by_hand else _labels(table[label], label) if label else None,
        groups=groups,
        names=names,
        shards=shards,
    )


def cuts_at(scored: Scored, rows: Mask, thresholds: Sequence[float]) -> list[Cut]:
    """What each threshold keeps of `rows`: strictly above it, or below. A null score is never kept."""
    score, lower = scored.score[rows], scored.lower
    labels = scored.labels[rows] if scored.labels is not None else None
    shuffled = scored.shuffled[rows] if scored.shuffled is not None else None
    found = []
    for threshold in thresholds:
        kept = beyond(score, threshold, lower=lower)
        precision = recall = None
        if labels is not None:
            relevant = labels > 0
            right = int((kept & relevant).sum())
            precision = share_of(right, int((kept & ~np.isnan(labels)).sum()))
            recall = share_of(right, int(relevant.sum()))
        found.append(
            Cut(
                threshold=threshold,
                kept=int(kept.sum()),
                share=float(kept.mean()) if len(kept) else 0.0,
                shuffled_share=None if shuffled is None else beyond_share(shuffled, threshold, lower=lower),
                precision=precision,
                recall=recall,
            )
        )
    return found


def auc(score: Numbers, labels: Numbers, *, lower: bool = False) -> float | None:
    """The chance that a relevant pair scores better than an irrelevant one, ties counted half; None without both.

    Exact, by ranks (Mann–Whitney U over its largest value). Rows without a score or a label are left out.
    """
    known = ~np.isnan(score) & ~np.isnan(labels)
    values, relevant = score[known], labels[known] > 0
    positive, negative = int(relevant.sum()), int((~relevant).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(-values if lower else values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank, from 1, of each run of equal values
    return float((ranks[inverse][relevant].sum() - positive * (positive + 1) / 2) / (positive * negative))


def histogram(values: Numbers, edges: Sequence[float]) -> list[int]:
    """Rows per bin between `edges`, the last one closed; nulls are in none."""
    return [int(count) for count in np.histogram(values[~np.isnan(values)], edges)[0]]


def even_steps(values: Numbers) -> list[float]:
    """About twenty round numbers over all known values: thresholds, or the edges of bins."""
    known = values[~np.isnan(values)]
    if not len(known):
        return [0.0, 1.0]
    low, high = float(known.min()), float(known.max())
    if low == high:
        return [math.ceil(high) - 1.0, float(math.ceil(high))]
    rough = max((high - low) / _STEPS, 1e-9)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [round(n * step, 10) for n in range(first, last + 1)]


def samples(folder: OutputFolder, scored: Scored, thresholds: Sequence[float], count: int) -> Samples:
    """For each threshold id, query, passage and score of `count` pairs on its kept side and of as many on the other.

    They are those nearest to it, the nearest first.
    """
    if not count:
        return {at: ([], []) for at in thresholds}
    order = np.argsort(scored.score, kind="stable")
    values = scored.score[order][: np.count_nonzero(~np.isnan(scored.score))]  # nulls are sorted last
    sides: dict[float, tuple[list[int], list[int]]] = {}
    for threshold in thresholds:
        at = int(np.searchsorted(values, threshold, "left" if scored.lower else "right"))
        under = order[max(0, at - count) : at][::-1].tolist()
        over = order[at : min(at + count, len(values))].tolist()
        sides[threshold] = (under, over) if scored.lower else (over, under)
    rows = sorted({row for pair in sides.values() for side in pair for row in side})
    texts = rows_at([folder.step("generated").file(n) for n in scored.shards], rows, ["id", "query", "passage"])
    found = {n: row | {"score": float(scored.score[n])} for n, row in zip(rows, texts, strict=True)}
    return {at: ([found[n] for n in kept], [found[n] for n in rest]) for at, (kept, rest) in sides.items()}


def _grouped(table: pa.Table, by: Sequence[str]) -> tuple[NDArray[np.int64], list[tuple[str, ...]]]:
    """A group number for each row and what the numbers stand for; the empty group without `by`."""
    codes = np.zeros(table.num_rows, np.int64)
    choices: list[list[str]] = []
    for name in by:
        column = table[name].combine_chunks()
        choices.append(column.dictionary.to_pylist())
        codes = codes * len(choices[-1]) + column.indices.to_numpy()
    found, groups = np.unique(codes, return_inverse=True)
    sizes = [len(each) for each in choices]
    keys = np.unravel_index(found, sizes) if sizes else ()
    names = [tuple(choice[int(key[n])] for choice, key in zip(choices, keys, strict=True)) for n in range(len(found))]
    return groups.astype(np.int64), names


def _numbers(column: pa.ChunkedArray, name: str) -> Numbers:
    kind = column.type
    if not _is_number(kind):
        raise JobError(f"column {name} holds {kind}, not numbers.", "Name a column of numbers, or of true and false.")
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy(), np.float64)


def _labels(column: pa.ChunkedArray, name: str) -> Numbers:
    """Labels as numbers, also those that a text file wrote as words: 1, 0.5, true, false."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return _numbers(column, name)
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    for word, number in (("true", "1"), ("false", "0"), ("", None)):
        words = pc.if_else(pc.equal(words, word), pa.scalar(number, words.type), words)
    try:
        return _numbers(words.cast(pa.float64()), name)
    except pa.ArrowInvalid as exc:
        what = f"column {name} contains text that is not a label ({exc})."
        raise JobError(what, "Labels are numbers, true and false.") from exc


def _given(folder: OutputFolder, ids: pa.ChunkedArray) -> Numbers:
    """The marks of these rows as labels, NaN without one. Raises JobError where no row is marked."""
    given = {name: float(each.mark == "good") for name, each in marks.read(folder).items() if each.mark}
    labels = np.array([given.get(name, math.nan) for name in ids.to_pylist()], np.float64)
    if np.isnan(labels).all():
        raise JobError(f"{folder.path}: no scored pair is marked.", f"Mark some: synth view {folder.path}")
    return labels


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
