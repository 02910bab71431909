"""Other rules over stored scores, as a view of their own or as the default one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from synth.errors import JobError, OutputError
from synth.results.card import card
from synth.results.summary import reasons, summarise, totals
from synth.rules import Rules
from synth.runs.history import read_rules, write_rules
from synth.runs.run import OpenRun
from synth.shards import OutputFolder
from synth.shards.journal import locked
from synth.steps import keep as keep_step
from synth.steps.keep import DEFAULT, View, built_aside, carry_out

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKEN = frozenset(
    {DEFAULT, "generated", "passages", "scores", "views", "rejected", "relabelled", "mined"}
    | {"default", "train", "test"}
)
"""Names of steps, and of configurations and splits in the dataset card."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What `synth keep` did: `made` shards were written by this call, of `shards` that the view has."""

    view: str
    rules: dict[str, Any]
    shards: int
    made: int
    rows: int
    kept: int
    rejected: int
    dropped_by: dict[str, int]
    swapped: bool


def apply(folder: OutputFolder, rules: Rules, name: str | None, workers: int | None = None) -> Kept:
    """Bring a view (`name` None: the default one) to hold these rules over all scored shards; no model is called.

    The default view is filled in a hidden folder and exchanged in one rename. Killed anywhere, the same call goes on
    where it was. Raises JobError for a name that clashes, a column that is not stored, groups without a threshold, or
    when nothing is scored yet; OutputError while a run is at work and the default view would be swapped under it.
    """
    reported = OpenRun.recorded(folder)
    if (before := keep_step.record_of(folder, DEFAULT)) is not None:
        rules = before.rules.defaults(rules)
    if name is not None and (not _NAME.fullmatch(name) or name in _TAKEN):
        what = f"--as {name}: cannot be the name of a view."
        raise JobError(what, "Use letters, digits, '_' and '-', such as strict.")
    scores = keep_step.stored_scores(folder, rules.columns())
    shards = keep_step.ready(folder, scores)
    if not shards:
        raise JobError(f"{folder.path}: holds no scored pairs yet.", f"Run it first: synth run {folder.path}")
    rules.require(keep_step.column_types(folder, scores, shards[0]))
    rules.require_groups(keep_step.selected(folder, scores, index, rules.grouping) for index in shards)
    view = View(f"views/{name}" if name else DEFAULT, rules, scores, competing=tuple(shards) if rules.unique else ())
    if name is None:
        view = _in_place_of_default(folder, view, shards)
    elif not view.holds(folder):
        raise _clash(folder, view, name)
    if name is None and (used := read_rules(folder)) is not None and used["keep"] is not None:
        write_rules(folder, {"scores": used["scores"], "keep": None})  # from now on `kept/` records them
    made = carry_out(folder, view, shards, workers)
    if made or view.hidden:  # the card describes the default view and names the others
        record = keep_step.record_of(folder, DEFAULT)
        job = replace(reported.job, rules=record.rules if record else rules)
        run, default = replace(reported, job=job), View(DEFAULT, job.rules, record.scores if record else view.scores)
        folder.replace_atomically("README.md", card(run, summarise(run, default)).encode())
    final = folder.step(view.name)
    rows, kept, rejected = totals(final)
    return Kept(
        view=view.name,
        rules=rules.canonical(),
        shards=len(final.done()),
        made=made,
        rows=rows,
        kept=kept,
        rejected=rejected,
        dropped_by=reasons(folder, view.name),
        swapped=bool(view.hidden),
    )


def _in_place_of_default(folder: OutputFolder, view: View, shards: Sequence[int]) -> View:
    view = built_aside(folder, view)
    if not view.hidden:
        return view
    if any(locked(journal) for journal in (folder.path / "wip").glob("*.jnl")):
        raise OutputError(
            f"{folder.path}: a run is at work here, and its next shard would go under the old rules into the new view.",
            "Wait for it or stop it, then run this command again; or make a view beside the default one: --as NAME.",
        )
    if lost := sorted(folder.step(DEFAULT).done() - set(shards)):
        raise JobError(
            f"{folder.path}: {len(lost)} shards of {DEFAULT}/ lack a score that these rules read, as {lost[0]:08d}.",
            "Run the job that has this scorer to its end first.",
        )
    return view


def _clash(folder: OutputFolder, view: View, name: str) -> JobError:
    record = keep_step.record_of(folder, view.name)
    cure = f"Choose another name, or remove that view first: synth gc {folder.path} --view {name} --age 0s"
    if record and record.rules == view.rules and record.scores == view.scores:
        what = f"compared the rows of {record.shards} shards, and there are {len(view.competing)} now"
    elif record and record.rules == view.rules:
        what = "was made from other scores"
    else:
        what = f"holds other rules: {record.rules.describe()}" if record else "holds shards that other rules made"
    return JobError(f"{folder.path}: the view {name} {what}.", cure)
