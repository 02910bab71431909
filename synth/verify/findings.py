"""What verification finds: damage, which ends in exit 4, and notes, which do not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one file; its path is relative to the run's folder if the file is in it."""

    file: str
    what: str


@dataclass(slots=True)
class StepTotals:
    """One step over all its shards. `of` is None until the number of shards is known.

    `unit` is what `rows_in` counts, `made` is what those in `rows_out` became.
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
    """How many of the rejected items were retried as new items."""
    open: int | None = None
    """Items without an outcome yet; None for steps where they are not counted."""

    @property
    def complete(self) -> bool:
        """Whether all expected shards exist."""
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
        """Whether every step has all its shards."""
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
        """Whether this file is known to be damaged, so that its consequences need not be reported."""
        shown = self._shown(file)
        return any(each.file == shown for each in self._damage)

    def withdraw(self, folder: str) -> None:
        """Forget the damage of a folder that was replaced while it was being read."""
        self._damage = {each: None for each in self._damage if not each.file.startswith(f"{folder}/")}

    def report(self, *, deep: bool) -> Report:
        """The findings so far."""
        return Report(deep, tuple(self.facts), tuple(self.steps), tuple(self._damage), tuple(self._notes))

    def _shown(self, file: Path | str) -> str:
        path = Path(file)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(file)
