"""What existing data hold: the layout, rows, rejections and languages, and whether the rules find their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from synth.config import Job
from synth.errors import SynthError
from synth.pairs import PairRow, PairSet, inspect_pairs, own_schema, pair_files, read_pairs
from synth.preflight.data import MOST_ROWS
from synth.preflight.findings import Finding, Findings
from synth.sources import ReadLimits, count_rows, sample_rows
from synth.steps import foreign
from synth.yamlfile import Document, Problem


@dataclass(slots=True)
class PairsReport:
    """Counts over the rows that were read, all or 20,000 spread evenly; `carried` are the data's own columns.

    `renamed` are those of them that cannot keep their names.
    """

    layouts: Sequence[str] = ()
    rows: int = 0
    read: int = 0
    pairs: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    carried: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> int:
        """Pairs in all, from the share of the rows that were read."""
        return round(self.pairs * self.rows / self.read) if self.read else 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # `asdict` spoils a Counter

    def lines(self) -> Iterator[str]:
        """For people."""
        for layout in self.layouts:
            yield f"data       {layout}"
        how = f"{self.read:,} looked at, spread evenly" if self.read < self.rows else "all looked at"
        yield f"rows       {self.rows:,}, {how}: {self.pairs:,} pairs"
        if self.renamed:
            yield f"renamed    {foreign.describe_renamed(self.renamed)}"
        if self.rejected:
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.rejected.most_common())
            yield f"rejected   {self.rejected.total():,} ({reasons})"
        shown = ", ".join(f"{code} {count / self.pairs:.0%}" for code, count in self.languages.most_common(12))
        yield f"languages  {shown} (query > passage)"


def look(job: Job, document: Document, findings: Findings) -> PairsReport:
    """Read as a run would, up to 20,000 rows; what would end a run becomes a finding."""
    report = PairsReport()
    limits = ReadLimits(line=job.limits.line, strict=False)
    try:
        sets = inspect_pairs(job.data, job.base, limits)
        own = own_schema(sets, limits)
        report.layouts = [each.layout.describe() for each in sets]
        report.rows = count_rows(pair_files(sets))
        columns = foreign.schema(sets, own)
        report.carried = {each.name: str(each.type) for each in list(columns)[len(columns) - len(own) :]}
        report.renamed = foreign.renamed(sets, own)
        _count(report, sets, own, limits)
    except SynthError as exc:
        findings.add(Finding.of(exc))
        return report
    if not report.pairs:
        reasons = ", ".join(f"{name} {count:,}" for name, count in report.rejected.most_common())
        findings.add(Finding(f"no row of the data becomes a pair ({reasons}). Look at data.query and data.passage.", 3))
    made = {name for scorer in job.scores for name, _ in scorer.named_outputs()}
    for problem in job.rules.absent({*columns.names, *made}):
        findings.problem(document, Problem(("keep", *problem.path), problem.message, problem.cure))
    return report


def _count(report: PairsReport, sets: Sequence[PairSet], own: pa.Schema, limits: ReadLimits) -> None:
    for block in read_pairs(sets, own, limits, only=sample_rows(report.rows, MOST_ROWS)):
        for outcome in block.outcomes:
            if isinstance(outcome, PairRow):
                report.pairs += 1
                report.read += not outcome.positive
                report.languages[f"{outcome.query_language} > {outcome.passage_language}"] += 1
            else:
                report.read += 1
                report.rejected[outcome.reason] += 1
