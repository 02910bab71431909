"""What verification finds: damage, which ends in exit 4, and notes, which do not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one file, whose path is relative to the run's folder where it lies in it."""

    file: str
    what: str


@dataclass(slots=True)
class StepTotals:
    """One step over all its shards. `of` is None while the number of shards is not known yet.

    `unit` is what `rows_in` counts, `made` what became of those in `rows_out`.
    """

    step: str
    of: int | None
    unit: str = "pairs"
    made: str = "kept"
    shards: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejected: int = 0
    retried: int = 0
    """Of the rejected ones those that came back as new items."""
    open: int | None = None
    """Items of step 0's passages that have no outcome yet; None where that is not counted."""

    @property
    def complete(self) -> bool:
        """Whether all shards that are known to come are there."""
        return self.of is not None and self.shards >= self.of

    def add(self, rows_in: int, rows_out: int, rejected: int) -> None:
        """Count one more shard."""
        self.shards += 1
        self.rows_in += rows_in
        self.rows_out += rows_out
        self.rejected += rejected


@dataclass(frozen=True, slots=True)
class Report:
    """The whole result; `facts` are the lines about files that belong to no step."""

    deep: bool
    facts: tuple[tuple[str, str], ...]
    steps: tuple[StepTotals, ...]
    damage: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether no file is damaged."""
        return not self.damage

    @property
    def complete(self) -> bool:
        """Whether every step that a run goes through has all its shards."""
        return all(step.complete for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Everything but the facts, for scripts."""
        steps = [asdict(step) | {"complete": step.complete} for step in self.steps]
        found = {name: [asdict(each) for each in getattr(self, name)] for name in ("damage", "notes")}
        return {"sound": self.sound, "complete": self.complete, "deep": self.deep, "steps": steps, **found}


@dataclass(slots=True)
class Book:
    """Collects findings while the files are read."""

    root: Path
    facts: list[tuple[str, str]] = field(default_factory=list)
    steps: list[StepTotals] = field(default_factory=list)
    _damage: dict[Finding, None] = field(default_factory=dict)
    _notes: dict[Finding, None] = field(default_factory=dict)

    def damage(self, file: Path | str, what: str) -> None:
        """A file broke a promise."""
        self._damage[Finding(self._shown(file), what)] = None

    def note(self, file: Path | str, what: str) -> None:
        """Something is unfinished or left over."""
        self._notes[Finding(self._shown(file), what)] = None

    def blames(self, file: Path | str) -> bool:
        """Whether damage of this file was found already, so that what follows from it need not be said."""
        shown = self._shown(file)
        return any(each.file == shown for each in self._damage)

    def withdraw(self, folder: str) -> None:
        """Forget the damage of a folder that was exchanged while it was being read."""
        self._damage = {each: None for each in self._damage if not each.file.startswith(f"{folder}/")}

    def report(self, *, deep: bool) -> Report:
        """All that was collected."""
        return Report(deep, tuple(self.facts), tuple(self.steps), tuple(self._damage), tuple(self._notes))

    def _shown(self, file: Path | str) -> str:
        path = Path(file)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(file)
