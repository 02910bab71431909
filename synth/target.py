"""How many pairs a run is to keep, and of what: the section `target` of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from synth.document import Problem
from synth.stage import Stage, name_of
from synth.tasks import Task

FEWER = "Lower it, raise target.per_passage.max, or add passages."
_SCORER = "round_trip"
"""Says by how much a query's own passage is ahead."""


class PerPassage(Stage):
    """Bounds for each passage."""

    max: Annotated[int, Field(ge=1, le=1000)] = 4
    """Most kept pairs of one passage."""


class Stop(Stage):
    """When a run ends that has not reached its target."""

    rounds: Annotated[int, Field(ge=1, le=100)] = 6
    """Most rounds."""
    gain: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Ends after a round that adds less than this share of `kept`."""


class TargetOptions(Stage):
    """How many pairs to keep, and of what; the run then asks in rounds, each aimed at what is short."""

    kept: Annotated[int, Field(ge=1)]
    """Pairs that pass the rules."""
    by: dict[str, Literal["even"] | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]] = Field(
        default={}
    )
    """Columns with the share of each value, relative to their sum, or `even`: all values that the task may ask for."""
    per_passage: PerPassage = PerPassage()
    """Bounds for each passage: `max` kept pairs."""
    stop: Stop = Stop()
    """Ends the run before that: after so many `rounds`, or a round with less `gain`."""
    hard: bool = False
    """Go on at passages whose kept queries find them by a wide margin; needs the score `round_trip`."""

    def quotas(self, task: Task) -> Mapping[str, Mapping[str, float]]:
        """For each column of `by` the share (0 to 1) of every value."""
        known = task.plannable()
        found = {name: dict.fromkeys(known[name], 1.0) if given == "even" else given for name, given in self.by.items()}
        return {name: {value: part / sum(of.values()) for value, part in of.items()} for name, of in found.items()}

    def impossible(self, passages: int) -> str | None:
        """Why so many passages cannot give the target; None where they can."""
        most = passages * self.per_passage.max
        if self.kept <= most:
            return None
        return f"target.kept is {self.kept:,}, but {passages:,} passages give at most {most:,} pairs"

    def problems(self, stages: Mapping[str, Any]) -> Iterator[Problem]:
        """What does not fit the other sections of the job: a column or a value that the task cannot plan."""
        task, scores = stages.get("task"), stages.get("scores", ())
        if stages.get("embed") is None:
            yield Problem(("target",), "needs an embedder to spread over the corpus", "Add `embed:`.")
        if self.hard and not any(scorer.name == _SCORER for scorer in scores):
            yield Problem(("target", "hard"), f"needs the score {_SCORER}", "Add {use: round_trip} to `scores`.")
        wrong = list(self._wrong(task)) if isinstance(task, Task) else []
        yield from wrong
        if isinstance(task, Task) and not wrong:
            try:
                task.planned(self.quotas(task))
            except ValueError as exc:
                yield Problem(("target", "by"), str(exc), "Values are those of the column.")

    def _wrong(self, task: Task) -> Iterator[Problem]:
        known = task.plannable()
        for name, given in self.by.items():
            values: Sequence[str] = known.get(name, ())
            if name not in known:
                cure = f"It can plan {', '.join(known)}." if known else "Leave `by` out."
                yield Problem(("target", "by", name), f"the task {name_of(task)} cannot plan this column", cure)
            elif given == "even" and not values:
                what = "`even` needs values that the task names"
                yield Problem(("target", "by", name), what, f"Write them: {name}: {{de: 0.5, en: 0.5}}")
            elif given != "even" and values and (unknown := [value for value in given if value not in values]):
                what = f"{unknown[0]!r} is not one of {', '.join(values)}"
                yield Problem(("target", "by", name), what, "The task's own options say what it may ask for.")
