"""What to try after a run: where it kept nothing, and where the cosine drops what the rank of the own passage keeps."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth.results.calibration import at_most
from synth.results.summary import (
    FEW_PASSAGES,
    RANK,
    files_of,
    numbers,
    reasons,
    rejected_files,
    searched,
    tables_of,
    totals,
)
from synth.rules import Rules
from synth.rules.conditions import LOWER, UPPER, Condition
from synth.shards import OutputFolder
from synth.steps.keep import DEFAULT, Record, record_of

_SHARE = 0.25
"""So many of the pairs that no other rule drops are enough to look at."""
_FEWEST, _MANY = 20, 0.25
"""Cosine and rank disagree where so many pairs, and such a share of those found first, are dropped."""
_CALIBRATED = 0.95
"""The share of them that the proposed threshold keeps."""


def advice(folder: OutputFolder, view: str = DEFAULT) -> list[str]:
    """Lines on a view that is empty or drops what its ranks call good; often none.

    Raises OutputError for a damaged shard.
    """
    out = shlex.quote(str(folder.path))
    rows, kept, _ = totals(folder.step(view))
    record = record_of(folder, view)
    if record is None:
        return []
    if kept:
        return _too_strict(folder, record) if view == DEFAULT else []
    if not rows:
        (reason, count), *_ = [*reasons(folder, "generated").items(), ("", 0)]
        why = f": {count:,} items ended as {reason!r}" if count else ""
        return [f"no pair was made{why}", f"  read the replies: synth show {out} --rejected"]
    rules = record.rules
    table = pa.concat_tables(tables_of(rejected_files(folder, view), rules.columns()), promote_options="permissive")
    verdict = rules.apply(table)
    worst = int(verdict.failures.sum(axis=1).argmax())
    label, left = verdict.labels[worst], ~np.delete(verdict.failures, worst, axis=0).any(axis=0)
    lines = [f"no pair was kept: the rule {label!r} drops {verdict.failures[worst].sum():,} of {rows:,}"]
    condition = next((each for each in rules.conditions if each.label() == label), None)
    if not left.any():
        others = [name for name in verdict.labels if name != label]
        lines.append(f"  and all that it leaves are dropped by others: {', '.join(others)}")
    elif condition is not None:
        looser = _looser(condition, table.filter(pa.array(left)))
        tried = replace(
            rules, conditions=tuple(filter(None, (looser if one is condition else one for one in rules.conditions)))
        )
        if flags := _flags(tried):
            lines.append(f"  {tried.apply(table).kept.sum():,} would be kept by: synth keep {out} {flags}")
    if condition is not None and condition.operator in (*LOWER, *UPPER):
        lines.append(f"  what each threshold keeps: synth sweep {out} --score {shlex.quote(condition.column)}")
    return [*lines, f"  what was dropped: synth show {out} --rejected"]


def _too_strict(folder: OutputFolder, record: Record) -> list[str]:
    """Where the rule on the cosine drops many pairs whose query finds its own passage first: that, and a threshold."""
    cosine = record.rules.only({"cosine"})
    strict = tuple(each for each in cosine.conditions if each.operator in LOWER)
    if not strict or searched(folder, record.scores).get("passages", 0) < FEW_PASSAGES:
        return []
    files = [*files_of(folder.step(DEFAULT)), *rejected_files(folder, DEFAULT)]
    table = pa.concat_tables(tables_of(files, {RANK, *cosine.columns()}), promote_options="permissive")
    first = table.filter(pc.and_(pc.equal(table[RANK], 1), pc.is_valid(table["cosine"])))
    dropped = int((~replace(cosine, conditions=strict).apply(first).kept).sum())
    exact = at_most(numbers(first, "cosine"), _CALIBRATED, lower=False)
    if exact is None or dropped < max(_FEWEST, _MANY * first.num_rows):
        return []
    looser = Condition("cosine", "above", math.floor(exact * 100) / 100)
    rules = replace(record.rules, conditions=(looser, *(one for one in record.rules.conditions if one not in strict)))
    flags = _flags(rules)
    command = f": synth keep {shlex.quote(str(folder.path))} {flags}" if flags else ""
    found, label = first.num_rows, " and ".join(each.label() for each in strict)
    return [
        f"cosine and rank disagree: {label!r} drops {dropped:,} of {found:,} queries that find their passage first",
        f"  {looser.label()} keeps {_CALIBRATED:.0%} of them{command}",
    ]


def _looser(condition: Condition, table: pa.Table) -> Condition | None:
    """The condition with a threshold that about a quarter of the rows pass; None where it has no threshold."""
    if condition.operator not in (*LOWER, *UPPER):
        return None
    sign, operator = (-1, "min") if condition.operator in LOWER else (1, "max")
    values = np.sort(sign * numbers(table, condition.column))  # the best first
    if not len(values):
        return None
    exact = float(values[math.ceil(len(values) * _SHARE) - 1])
    rounded = math.ceil(exact * 100) / 100
    few = np.count_nonzero(values <= rounded) <= max(1, len(values) / 2)
    return Condition(condition.column, operator, sign * (rounded if few else exact))


def _flags(rules: Rules) -> str:
    """The rules as options of `synth keep`; nothing for those that only a file can hold."""
    if rules.unique or not all(isinstance(each.value, str | bool | int | float) for each in rules.conditions):
        return ""
    values = (
        (each, each.value if isinstance(each.value, str) else json.dumps(each.value).removesuffix(".0"))
        for each in rules.conditions
    )
    return " ".join(f"--{each.operator} {shlex.quote(f'{each.column}={value}')}" for each, value in values)
