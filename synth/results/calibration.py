"""Proposed thresholds: for a share of pairs, or by labels, with 95 % intervals; and rules made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from synth.errors import JobError
from synth.rules import Mask, Rules

if TYPE_CHECKING:
    from synth.results.sweep import Scored

Numbers = NDArray[np.float64]
_Z = 1.959964
"""Two-sided 95 % of a normal distribution."""
_RESAMPLES = 1000
_TOGETHER = 2_000_000
"""Weights of resamples that are in memory at once."""


_FEWEST = 50
"""Fewer scores than this say little of a group; it takes the threshold of all."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What the labels say of a threshold.

    `labelled` rows have a label; `precision` and `recall` are of those, their intervals by Wilson. The intervals of
    `threshold` and `f1` are percentiles of 1,000 bootstrap resamples, each with a threshold chosen anew; `reached` is
    the share of the resamples in which the goal can be reached.
    """

    labelled: int
    threshold: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    reached: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """A proposed threshold: strictly beyond it lie `share` of the `rows` pairs and `shuffled_share` of shuffled ones.

    `group` is empty for all pairs together; `own` is False where a group is too small to have one of its own, `fit`
    what the labels say where it was chosen by them.
    """

    group: tuple[str, ...]
    rows: int
    threshold: float
    own: bool
    share: float | None
    shuffled_share: float | None
    fit: Fit | None = None


def at_most(values: Numbers, share: float, *, lower: bool) -> float | None:
    """The loosest of the values strictly beyond which lie at most `share` of them; None when there is none.

    Exact with ties: of n known values at most floor(share * n) lie beyond it.
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None
    beyond = min(math.floor(share * len(known)), len(known) - 1)
    return float(known[beyond] if lower else known[len(known) - 1 - beyond])


def propose(scored: Scored, wish: tuple[str, float]) -> list[Threshold]:
    """The threshold of all pairs first, then one for each group. Raises JobError when nothing can be calibrated on."""
    (kind, share), lower, shuffled = wish, scored.lower, scored.shuffled
    by_labels = kind in LABELLED
    values = scored.labels if by_labels else scored.score if kind == "keep" else shuffled
    everything = scored.of(None)
    overall, fitted = (None, None) if values is None else _found(scored, values, everything, wish)
    if values is None or overall is None:
        raise _nothing(wish, scored)
    fewest = _FEWEST if by_labels else max(_FEWEST, math.ceil(1 / share))
    found = []
    for number, name in [(None, ()), *((n, name) for n, name in enumerate(scored.names) if name)]:
        rows = scored.of(number)
        # A null (an empty name) can have no threshold of its own: rules name groups by their values.
        enough = np.count_nonzero(~np.isnan(values[rows])) >= fewest and all(name) and "default" not in name
        own, its = (overall, fitted) if number is None else (None, None)
        if number is not None and enough:
            own, its = _found(scored, values, rows, wish)
        threshold = overall if own is None else own
        found.append(
            Threshold(
                group=name,
                rows=int(rows.sum()),
                threshold=threshold,
                own=own is not None,
                share=beyond_share(scored.score[rows], threshold, lower=lower),
                shuffled_share=None if shuffled is None else beyond_share(shuffled[rows], threshold, lower=lower),
                fit=its,
            )
        )
    return found


LABELLED = ("precision", "f1")
"""Goals that need labels."""


def _found(scored: Scored, values: Numbers, rows: Mask, wish: tuple[str, float]) -> tuple[float | None, Fit | None]:
    if wish[0] not in LABELLED:
        return at_most(values[rows], wish[1], lower=scored.lower), None
    found = fit(scored.score[rows], values[rows], wish, lower=scored.lower)
    return (found.threshold.value, found) if found else (None, None)


def _nothing(wish: tuple[str, float], scored: Scored) -> JobError:
    kind, share = wish
    if kind in LABELLED:
        if scored.labels is None:
            flag = "--best f1" if kind == "f1" else f"--target {kind}={share:g}"
            return JobError(f"{flag}: needs labels.", "Name their column: --label-column label")
        what = "no scored pair is labelled relevant" if kind == "f1" else f"no threshold reaches a {kind} of {share:g}"
        return JobError(f"{what}.", "See what each gives: the same command without --target and --best.")
    return JobError(
        "--calibrate random-pairs: this score has no column for shuffled pairs."
        if kind == "random-pairs"
        else "--calibrate keep: this score is null everywhere.",
        "The cosine scorer makes one, `cosine_shuffled`; or calibrate with keep=0.5.",
    )


def as_keep(
    proposed: Sequence[Threshold], current: Rules, score: str, by: Sequence[str], *, lower: bool
) -> dict[str, Any]:
    """The current rules with the proposed thresholds in place of their own on this score, as a `keep:` mapping."""
    operator = "below" if lower else "above"
    overall = proposed[0].threshold
    value: Any = overall
    if by:
        value = {"by": by[0] if len(by) == 1 else list(by)}
        for each in (one for one in proposed[1:] if one.own):
            here = value
            for name in each.group[:-1]:
                here = here.setdefault(name, {})
            here[each.group[-1]] = each.threshold
        value["default"] = overall
    keep = current.canonical()
    replaced = {name: rule for name, rule in keep.get(score, {}).items() if name == "missing"}
    return {score: {operator: value} | replaced} | {name: rule for name, rule in keep.items() if name != score}


def as_yaml(keep: dict[str, Any], comment: str) -> str:
    """A rules file. Raises JobError when a group cannot be named in rules, for instance an unknown language."""
    _, problems = Rules.parse(keep, None)
    if problems:
        first = problems[0]
        raise JobError(f"{'.'.join(first.path)}: {first.message}.", "Sweep by another column.")
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.safe_dump({"keep": keep}, sort_keys=False, allow_unicode=True)


def beyond_share(values: Numbers, threshold: float, *, lower: bool) -> float | None:
    """The share of the known values that lie strictly beyond a threshold; None when none is known."""
    known = values[~np.isnan(values)]
    return share_of(int(beyond(known, threshold, lower=lower).sum()), len(known))


def beyond(values: Numbers, threshold: float, *, lower: bool) -> Mask:
    return np.asarray(values < threshold if lower else values > threshold, np.bool_)


def share_of(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def fit(score: Numbers, labels: Numbers, goal: tuple[str, float], *, lower: bool, seed: int = 0) -> Fit | None:
    """The threshold for `("precision", P)` or `("f1", _)`; None where no threshold reaches it.

    `score` and `labels` (above 0: relevant) are float64 (n,), NaN where unknown. What lies strictly beyond the
    threshold is kept; it is half way between two neighbouring scores. Rows without a label are left out.
    """
    known = ~np.isnan(labels)
    values, relevant = np.where(lower, -1.0, 1.0) * score[known], labels[known] > 0
    values = np.where(np.isnan(values), -np.inf, values)  # a null is never kept
    order = np.argsort(-values, kind="stable")
    values, relevant = values[order], relevant[order]
    ends = np.flatnonzero(np.isfinite(values) & (values > np.append(values[1:], -np.inf)))  # of runs of equal scores
    if not len(ends) or not relevant.any():
        return None
    below = np.append(values[1:], -np.inf)[ends]
    between = np.where(np.isfinite(below), (values[ends] + below) / 2, np.nextafter(values[ends], -np.inf))
    kept, right = np.cumsum(np.ones(len(values)))[ends], np.cumsum(relevant)[ends]
    at = int(_chosen(kept[None], right[None], np.array([relevant.sum()]), goal)[0])
    if at < 0:
        return None
    places, scores = _resampled(relevant, ends, goal, seed)
    reached = places >= 0
    thresholds = np.sort((-1.0 if lower else 1.0) * between[places[reached]])
    middle = float((-1.0 if lower else 1.0) * between[at])
    total = int(relevant.sum())
    return Fit(
        labelled=len(values),
        threshold=_percentiles(middle, thresholds),
        precision=wilson(int(right[at]), int(kept[at])),
        recall=wilson(int(right[at]), total),
        f1=_percentiles(float(2 * right[at] / (kept[at] + total)), scores[reached]),
        reached=float(reached.mean()),
    )


def wilson(part: int, whole: int) -> Estimate:
    """A share with its 95 % score interval (Wilson 1927)."""
    share, spread = part / whole, _Z**2 / whole
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / whole + spread / (4 * whole))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def _chosen(kept: NDArray[Any], right: NDArray[Any], total: NDArray[Any], goal: tuple[str, float]) -> NDArray[np.int64]:
    """For each resample (row) the place of the threshold to take, -1 for none."""
    name, wanted = goal
    if name == "f1":
        return np.asarray((2 * right / np.maximum(kept + total[:, None], 1)).argmax(axis=1), np.int64)
    good = (right >= wanted * kept) & (right > 0)
    return np.where(good.any(axis=1), good.shape[1] - 1 - good[:, ::-1].argmax(axis=1), -1)


def _resampled(
    relevant: NDArray[np.bool_], ends: NDArray[np.int64], goal: tuple[str, float], seed: int
) -> tuple[NDArray[np.int64], Numbers]:
    """The place and the F1 that each bootstrap resample of the labelled rows gives."""
    rng, count = np.random.default_rng(seed), len(relevant)
    places, scores = [], []
    for start in range(0, _RESAMPLES, step := max(1, _TOGETHER // count)):
        size = min(step, _RESAMPLES - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        kept, right = np.cumsum(weights, axis=1)[:, ends], np.cumsum(weights * relevant, axis=1)
        total, right = right[:, -1], right[:, ends]
        at = _chosen(kept, right, total, goal)
        here = np.arange(size), np.maximum(at, 0)
        places.append(at)
        scores.append(2 * right[here] / np.maximum(kept[here] + total, 1))
    return np.concatenate(places), np.concatenate(scores)


def _percentiles(value: float, found: Numbers) -> Estimate:
    low, high = np.quantile(found, [0.025, 0.975], method="nearest") if len(found) else (value, value)
    return Estimate(value, float(low), float(high))
