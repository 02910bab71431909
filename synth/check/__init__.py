"""What can be known of a run before it starts: mistakes, data, servers, costs. Writes nothing.

`data` looks at a sample of the corpora, `servers` asks each server once, `job` reads the job and the files it names,
adds up calls, tokens and bytes, and makes the report; `trial` takes a few passages through the whole pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from synth.document import Document, Problem
from synth.errors import SynthError


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong and how to fix it; `code` is the exit code, 0 for a warning."""

    text: str
    code: int = 0

    @classmethod
    def of(cls, error: SynthError, where: str = "") -> Finding:
        """An error that a run would end in, as a finding."""
        return cls(f"{where}{error}", error.exit_code)


@dataclass(slots=True)
class Findings:
    """Everything found, each text once, in the order of being found."""

    found: dict[str, Finding]

    @classmethod
    def of(cls, document: Document, problems: Iterable[Problem]) -> Findings:
        """The mistakes in a job file."""
        findings = cls({})
        for problem in problems:
            findings.problem(document, problem)
        return findings

    def add(self, finding: Finding) -> None:
        self.found.setdefault(finding.text, finding)

    def problem(self, document: Document, problem: Problem) -> None:
        """A mistake in the job file, with its line."""
        self.add(Finding(document.describe(problem), 2))

    def warn(self, text: str) -> None:
        self.add(Finding(text))

    @property
    def mistakes(self) -> list[str]:
        return [each.text for each in self.found.values() if each.code]

    @property
    def warnings(self) -> list[str]:
        return [each.text for each in self.found.values() if not each.code]

    @property
    def code(self) -> int:
        """0 without mistakes; else that of the first thing to fix: 2 (the job) before 3, 4, 5 and 7."""
        return min((each.code for each in self.found.values() if each.code), default=0)
