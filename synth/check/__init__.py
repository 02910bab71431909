"""What can be known of a run before it starts: mistakes, data, servers, costs. Writes nothing.

`data` looks at a sample of the corpora, `servers` asks each server once, `job` reads the job and the files it names,
adds up calls, tokens and bytes, and makes the report; `trial` takes a few passages through the whole pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from synth.document import Document, Problem
from synth.errors import SynthError


@dataclass(slots=True)
class Findings:
    """What is wrong with a job and how to fix it: each text once, in the order found, with an exit code; 0 warns."""

    document: Document
    found: dict[str, int] = field(default_factory=dict)

    def add(self, text: str, code: int) -> None:
        self.found.setdefault(text, code)

    def warn(self, text: str) -> None:
        self.add(text, 0)

    def problem(self, problem: Problem) -> None:
        """Add a mistake in the job file, with its line."""
        self.add(self.document.describe(problem), 2)

    def error(self, error: SynthError, where: str = "") -> None:
        """Add an error that would end a run."""
        self.add(f"{where}{error}", error.exit_code)

    @property
    def mistakes(self) -> list[str]:
        return [text for text, code in self.found.items() if code]

    @property
    def warnings(self) -> list[str]:
        return [text for text, code in self.found.items() if not code]

    @property
    def code(self) -> int:
        """0 without mistakes; else that of the first thing to fix: 2 (the job) before 3, 4, 5 and 7."""
        return min((code for code in self.found.values() if code), default=0)
