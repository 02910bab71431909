"""Everything that can be known of a job before it runs, in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synth.check.data import DataReport, PairsReport, look, look_at_pairs
from synth.check.findings import Findings
from synth.check.job import Costs, check_fit, check_languages, check_scorers, expect, read_material
from synth.check.servers import Asked, ask_all, named_models
from synth.job import Draft
from synth.sources import ReadLimits
from synth.types import Notify


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found; parts that mistakes elsewhere made impossible are None or empty."""

    data: DataReport | PairsReport | None
    servers: Sequence[Asked]
    costs: Costs | None
    findings: Findings

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ok": self.findings.code == 0,
            "mistakes": self.findings.mistakes,
            "warnings": self.findings.warnings,
            "data": self.data.as_json() if self.data else None,
            "servers": [each.as_json() for each in self.servers],
            "expected": asdict(self.costs) if self.costs else None,
        }


def examine(draft: Draft, base: Path, *, offline: bool, notify: Notify = lambda _: None) -> Report:
    """Look at everything that is possible despite the draft's own mistakes."""
    findings = Findings.of(draft.document, draft.problems)
    notify(f"{draft.document.name}: looking at the job and its files")
    material = read_material(draft, base, findings)
    check_scorers(draft, base, findings)
    job = draft.job(base)
    data: DataReport | PairsReport | None = None
    costs = None
    if job is not None and job.data:
        data = look_at_pairs(job, draft.document, findings)
    elif job is not None:
        limits = ReadLimits(max_line_bytes=job.limits.max_line_bytes, strict=False)
        data = look(job.corpora, material.files, limits, findings)
        check_languages(job, list(data.languages), draft.document, findings)
        job.run.in_flight(findings.warn)
    if not offline:
        notify("asking the models")
    instruction = job.instruction if job is not None else str(getattr(draft.stages.get("task"), "instruction", ""))
    servers = ask_all(named_models(draft.stages, instruction), findings, offline=offline)
    if job is not None and isinstance(data, DataReport):
        out = Path(job.file.out) if job.file.out else Path("outputs")
        costs = expect(job, material, data, base / out)
        room = [r.max_model_len for a in servers if a.section == "llm" for r in a.results if r.max_model_len]
        check_fit(job, costs, min(room, default=None), findings)
    return Report(data, servers, costs, findings)
