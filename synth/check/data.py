"""What the corpora hold: rows, rejections, languages and lengths, from all rows or from a sample spread over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

import pyarrow as pa

from synth.check import Finding, Findings
from synth.document import Document, Problem
from synth.errors import SynthError
from synth.job import Job
from synth.sources import (
    Corpus,
    InputFile,
    PairRow,
    PairSet,
    PassageRow,
    ReadLimits,
    RejectedRow,
    count_rows,
    inspect_pairs,
    pair_files,
    pairs_schema,
    read_pairs,
    read_passages,
    sample_rows,
)
from synth.steps import ingest

MOST_ROWS = 20_000
"""Rows read at most; a larger corpus is sampled."""
KEPT_PASSAGES = 50
"""Passages kept for rendering prompts."""


@dataclass(slots=True)
class DataReport:
    """Counts over the rows that were read; `rows` is None where nobody knows it (a data set on the hub)."""

    files: Sequence[dict[str, Any]] = ()
    rows: int | None = 0
    read: int = 0
    passages: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    chunked: int = 0
    """Rows cut into more than one passage."""
    cut: int = 0
    """Passages that were truncated to the limit."""
    characters: int = 0
    bytes: int = 0
    longest: int = 0
    sample: list[PassageRow] = field(default_factory=list)

    @property
    def sampled(self) -> bool:
        """Whether there are rows that were not read."""
        return self.rows is None or self.read < self.rows

    @property
    def expected(self) -> int:
        """Passages that a run will have, as far as the rows read tell."""
        if not self.read or self.rows is None:
            return self.passages
        return round(self.passages * self.rows / self.read)

    @property
    def expected_bytes(self) -> int:
        """UTF-8 bytes of all these passages."""
        return round(self.bytes * self.expected / self.passages) if self.passages else 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`, without the texts."""
        plain: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "sample"}
        return plain | {"sampled": self.sampled, "expected_passages": self.expected}


def look(corpora: Sequence[Corpus], files: Sequence[InputFile], limits: ReadLimits, findings: Findings) -> DataReport:
    """Read up to 20,000 rows, spread evenly; what stops the reading becomes a finding."""
    listed = [{"path": each.path, "rows": each.rows, "bytes": each.size} for each in files]
    report = DataReport(files=listed)
    if not files:
        return report
    for each in files:
        if each.rows == 0:
            findings.warn(f"{each.path}: holds no row.")
    hub = any(file.kind == "hub" for file in files)
    unknown = any(file.rows is None for file in files)
    report.rows = None if unknown else count_rows(files)
    only = None if hub or report.rows is None else sample_rows(report.rows, MOST_ROWS)
    blocks = read_passages(corpora, files, limits, only=only, notify=findings.warn)
    outcomes = (outcome for block in blocks for outcome in block.outcomes)
    try:
        for outcome in islice(outcomes, MOST_ROWS):
            _count(report, corpora, outcome)
    except SynthError as exc:
        findings.add(Finding.of(exc))
    if not report.passages and not findings.mistakes:
        reasons = ", ".join(f"{name} {count:,}" for name, count in report.rejected.most_common())
        findings.add(
            Finding(f"no row of the corpus becomes a passage ({reasons}). Look at corpus.text and min_chars.", 3)
        )
    return report


def _count(report: DataReport, corpora: Sequence[Corpus], outcome: PassageRow | RejectedRow) -> None:
    if isinstance(outcome, RejectedRow):
        report.read += 1
        report.rejected[outcome.reason] += 1
        return
    report.read += outcome.chunk == 0
    report.chunked += outcome.chunk == 1
    report.passages += 1
    report.languages[outcome.language] += 1
    report.characters += len(outcome.text)
    report.bytes += len(outcome.text.encode())
    report.longest = max(report.longest, len(outcome.text))
    corpus = next((each for each in corpora if each.source == outcome.source), None)
    if corpus is not None and corpus.on_long == "truncate":
        report.cut += len(outcome.text) >= corpus.max_chars
    spacing = max(1, min(report.rows or MOST_ROWS, MOST_ROWS) // KEPT_PASSAGES)
    if report.passages % spacing == 0 and len(report.sample) < KEPT_PASSAGES:
        report.sample.append(outcome)


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

    def facts(self) -> Iterator[tuple[str, str]]:
        """For people."""
        for layout in self.layouts:
            yield "data", f"{layout}"
        how = f"{self.read:,} looked at, spread evenly" if self.read < self.rows else "all looked at"
        yield "rows", f"{self.rows:,}, {how}: {self.pairs:,} pairs"
        if self.renamed:
            yield "renamed", f"{ingest.describe_renamed(self.renamed)}"
        if self.rejected:
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.rejected.most_common())
            yield "rejected", f"{self.rejected.total():,} ({reasons})"
        shown = ", ".join(f"{code} {count / self.pairs:.0%}" for code, count in self.languages.most_common(12))
        yield "languages", f"{shown} (query > passage)"


def look_at_pairs(job: Job, document: Document, findings: Findings) -> PairsReport:
    """Read as a run would, up to 20,000 rows; what would end a run becomes a finding."""
    report = PairsReport()
    limits = ReadLimits(max_line_bytes=job.limits.max_line_bytes, strict=False)
    try:
        sets = inspect_pairs(job.data, job.base, limits)
        own = pairs_schema(sets, limits)
        report.layouts = [each.layout.describe() for each in sets]
        report.rows = count_rows(pair_files(sets))
        columns = ingest.pair_columns(sets, own)
        report.carried = {each.name: str(each.type) for each in list(columns)[len(columns) - len(own) :]}
        report.renamed = ingest.renamed(sets, own)
        _count_pairs(report, sets, own, limits)
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


def _count_pairs(report: PairsReport, sets: Sequence[PairSet], own: pa.Schema, limits: ReadLimits) -> None:
    for block in read_pairs(sets, own, limits, only=sample_rows(report.rows, MOST_ROWS)):
        for outcome in block.outcomes:
            if isinstance(outcome, PairRow):
                report.pairs += 1
                report.read += not outcome.positive
                report.languages[f"{outcome.query_language} > {outcome.passage_language}"] += 1
            else:
                report.read += 1
                report.rejected[outcome.reason] += 1
