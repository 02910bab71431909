"""What the data holds: rows, rejections, languages and lengths, from all rows or from a sample spread over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

from synth import sources
from synth.check import Findings
from synth.document import Problem
from synth.errors import SynthError
from synth.job import Job
from synth.sources import Corpus, InputFile, PairRow, PassageRow, ReadLimits, RejectedRow
from synth.steps import ingest

MOST_ROWS = 20_000
"""Rows read at most; a larger corpus is sampled."""
KEPT_PASSAGES = 50
"""Passages kept for rendering prompts at least, and up to twice as many."""


@dataclass(slots=True)
class Counts:
    """Counts over the rows that were read; `rows` is None where nobody knows it (a data set on the hub)."""

    rows: int | None = 0
    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    @property
    def sampled(self) -> bool:
        """Whether there are rows that were not read."""
        return self.rows is None or self.read < self.rows

    @property
    def reasons(self) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in self.rejected.most_common())

    def in_all(self, found: int) -> int:
        """How many there will be over all rows, by those found in the rows read."""
        return found if not self.read or self.rows is None else round(found * self.rows / self.read)

    def as_json(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # `asdict` spoils a Counter


@dataclass(slots=True)
class DataReport(Counts):
    """What the corpora of a job hold."""

    files: Sequence[dict[str, Any]] = ()
    passages: int = 0
    chunked: int = 0
    """Rows cut into more than one passage."""
    cut: int = 0
    """Passages that were truncated to the limit."""
    characters: int = 0
    bytes: int = 0
    """UTF-8 bytes of all these passages."""
    longest: int = 0
    sample: list[PassageRow] = field(default_factory=list)
    """Each `spacing`-th passage."""
    spacing: int = 1

    @property
    def expected(self) -> int:
        """Passages that a run will have."""
        return self.in_all(self.passages)

    def as_json(self) -> dict[str, Any]:
        found = Counts.as_json(self) | {"sampled": self.sampled, "expected_passages": self.expected}
        return {name: value for name, value in found.items() if name not in {"sample", "spacing"}}

    def add(self, outcome: PassageRow | RejectedRow, corpora: Sequence[Corpus]) -> None:
        """Count one passage or rejected row."""
        if isinstance(outcome, RejectedRow):
            self.read += 1
            self.rejected[outcome.reason] += 1
            return
        self.read += outcome.chunk == 0
        self.chunked += outcome.chunk == 1
        self.passages += 1
        self.languages[outcome.language] += 1
        self.characters += len(outcome.text)
        self.bytes += len(outcome.text.encode())
        self.longest = max(self.longest, len(outcome.text))
        corpus = next((each for each in corpora if each.source == outcome.source), None)
        if corpus is not None and corpus.on_long == "truncate":
            self.cut += len(outcome.text) >= corpus.max_chars
        if self.passages % self.spacing == 0:
            self.sample.append(outcome)
            if len(self.sample) == 2 * KEPT_PASSAGES:
                self.sample, self.spacing = self.sample[1::2], 2 * self.spacing

    def few(self, count: int) -> list[PassageRow]:
        """At most so many of the sample, spread evenly."""
        return [self.sample[n] for n in sorted(sources.sample_rows(len(self.sample), count))]


def look(job: Job, files: Sequence[InputFile], limits: ReadLimits, findings: Findings) -> DataReport:
    """Read up to 20,000 rows, spread evenly; what stops the reading becomes a finding."""
    report = DataReport(files=[{"path": each.path, "rows": each.rows, "bytes": each.size} for each in files])
    if not files:
        return report
    for each in files:
        if each.rows == 0:
            findings.warn(f"{each.path}: holds no row.")
    only: Container[int] | None = job.part
    report.rows = None if any(file.rows is None for file in files) else sources.wanted_rows(files, job.part)[1]
    if report.rows is not None and all(file.kind != "hub" for file in files):
        only, _ = sources.wanted_rows(files, job.part, MOST_ROWS)
    blocks = sources.read_passages(job.corpora, files, limits, only=only, notify=findings.warn)
    try:
        for outcome in islice((outcome for block in blocks for outcome in block.outcomes), MOST_ROWS):
            report.add(outcome, job.corpora)
    except SynthError as exc:
        findings.error(exc)
    if not report.passages and not findings.mistakes:
        what = f"no row of the corpus becomes a passage ({report.reasons})."
        findings.add(f"{what} Look at corpus.text and min_chars.", 3)
    return report


@dataclass(slots=True)
class PairsReport(Counts):
    """What existing data holds."""

    layouts: Sequence[str] = ()
    pairs: int = 0
    carried: Mapping[str, str] = field(default_factory=dict)
    """The data's own columns, with their types."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Those of them that cannot keep their names."""

    @property
    def expected(self) -> int:
        """Pairs that a run will have."""
        return self.in_all(self.pairs)


def look_at_pairs(job: Job, findings: Findings) -> PairsReport:
    """Read as a run would, up to 20,000 rows; what would end a run becomes a finding."""
    report = PairsReport()
    limits = ReadLimits(max_line_bytes=job.limits.max_line_bytes, strict=False)
    try:
        sets = sources.inspect_pairs(job.data, job.base, limits, notify=findings.warn)
        own = sources.pairs_schema(sets, limits)
        report.layouts = [each.describe() for each in sets]
        report.rows = rows = sources.count_rows(sources.pair_files(sets))
        columns = ingest.pair_columns(sets, own)
        report.carried = {each.name: str(each.type) for each in list(columns)[len(columns) - len(own) :]}
        report.renamed = ingest.renamed(sets, own)
        blocks = sources.read_pairs(sets, own, limits, only=sources.sample_rows(rows, MOST_ROWS), notify=findings.warn)
        for outcome in (outcome for block in blocks for outcome in block.outcomes):
            if isinstance(outcome, PairRow):
                report.pairs += 1
                report.read += not outcome.positive
                report.languages[f"{outcome.query_language} > {outcome.passage_language}"] += 1
            else:
                report.read += 1
                report.rejected[outcome.reason] += 1
    except SynthError as exc:
        findings.error(exc)
        return report
    if not report.pairs:
        what = f"no row of the data becomes a pair ({report.reasons})."
        findings.add(f"{what} Look at data.query and data.passage.", 3)
    made = {name for scorer in job.scores for name, _ in scorer.named_outputs()}
    for problem in job.rules.absent({*columns.names, *made}):
        findings.problem(Problem(("keep", *problem.path), problem.message, problem.cure))
    return report
