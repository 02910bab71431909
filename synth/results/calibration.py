"""Thresholds that reach a wished share, overall and per group, and the rules that say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import yaml

from synth.errors import JobError
from synth.results.sweep import Numbers, Scored, beyond_share
from synth.rules import Rules

Goal = Literal["keep", "random-pairs"]

_FEWEST = 50
"""Fewer scores than this say little of a group; it takes the threshold of all."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A proposed threshold: strictly beyond it lie `share` of the `rows` pairs and `shuffled_share` of shuffled ones.

    `group` is empty for all pairs together; `own` is False where a group is too small to have one of its own.
    """

    group: tuple[str, ...]
    rows: int
    threshold: float
    own: bool
    share: float | None
    shuffled_share: float | None


def goal(text: str) -> tuple[Goal, float]:
    """`keep=0.5` or `random-pairs=0.01` as a pair. Raises JobError."""
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if name == "keep" and 0 < share < 1:
        return "keep", share
    if name == "random-pairs" and 0 < share < 1:
        return "random-pairs", share
    raise JobError(f"--calibrate {text}: expects a goal and a share between 0 and 1.", "keep=0.5, random-pairs=0.01")


def at_most(values: Numbers, share: float, *, lower: bool) -> float | None:
    """The loosest of the values strictly beyond which lie at most `share` of them; None when there is none.

    Exact with ties: of n known values at most floor(share * n) lie beyond it.
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None
    beyond = min(math.floor(share * len(known)), len(known) - 1)
    return float(known[beyond] if lower else known[len(known) - 1 - beyond])


def propose(scored: Scored, wish: tuple[Goal, float], *, lower: bool) -> list[Threshold]:
    """The threshold of all pairs first, then one for each group. Raises JobError when nothing can be calibrated on."""
    kind, share = wish
    values = scored.score if kind == "keep" else scored.shuffled
    overall = None if values is None else at_most(values, share, lower=lower)
    if values is None or overall is None:
        raise JobError(
            "--calibrate random-pairs: this score has no column for shuffled pairs."
            if kind == "random-pairs"
            else "--calibrate keep: this score is null everywhere.",
            "The cosine scorer makes one, `cosine_shuffled`; or calibrate with keep=0.5.",
        )
    fewest = max(_FEWEST, math.ceil(1 / share))
    found = [_threshold(scored, None, (), overall, lower=lower)]
    for number, name in enumerate(scored.names):
        if not name:
            continue
        here = values[scored.of(number)]
        # A null (an empty name) can have no threshold of its own: rules name groups by their values.
        enough = int((~np.isnan(here)).sum()) >= fewest and all(name) and "default" not in name
        own = at_most(here, share, lower=lower) if enough else None
        found.append(
            _threshold(scored, number, name, overall if own is None else own, lower=lower, own=own is not None)
        )
    return found


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


def _threshold(
    scored: Scored, number: int | None, name: tuple[str, ...], threshold: float, *, lower: bool, own: bool = True
) -> Threshold:
    rows = scored.of(number)
    shuffled = scored.shuffled
    return Threshold(
        group=name,
        rows=int(rows.sum()),
        threshold=threshold,
        own=own,
        share=beyond_share(scored.score[rows], threshold, lower=lower),
        shuffled_share=None if shuffled is None else beyond_share(shuffled[rows], threshold, lower=lower),
    )
