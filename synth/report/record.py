"""The sections of a report on the run itself: its target, and its provenance."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from synth.generators import Generators
from synth.report.material import Material
from synth.report.parts import Figure, Kind, Section, Table, Value
from synth.stage import Stage, name_of
from synth.steps.keep import DEFAULT


def target(m: Material) -> Section:
    """What was to be kept and what was, by cell and by round, and why the run ended."""
    section, now = Section("target", "Target"), m.summary.target
    if now is None:
        section.missing = "the job has no target" if m.view.name == DEFAULT else "a target is on the pairs of kept/"
        return section
    section.about = f"The run ended: {now.ended}." if now.ended else "The run goes on."
    section.figures = [
        Figure("wanted", "pairs to keep", now.wanted),
        Figure("kept", "kept pairs", now.kept),
        Figure("rounds", "rounds", len(now.rounds), note=f"at most {now.most}"),
        Figure("clusters", "clusters of passages", now.clusters),
        Figure("clusters_covered", "clusters with a kept pair", now.covered),
    ]
    cells = [(c.name, c.wanted, c.kept, c.short, c.asked, c.kept / c.asked if c.asked else None) for c in now.cells]
    head = ("", "wanted", "kept", "short", "items", "yield")
    kinds: list[Kind] = ["count", "count", "count", "count", "share"]
    section.tables.append(Table("cells", "by cell", head, kinds, cells))
    done = [(str(r.round), r.revision, r.passages, r.items, r.pairs, r.kept) for r in now.rounds]
    head = ("round", "revision", "passages", "items", "pairs", "kept")
    section.tables.append(Table("rounds", "by round", head, ["count"] * 5, done, ("items", "kept")))
    return section


def provenance(m: Material) -> Section:
    """Where the data comes from: models, licences, prompts, inputs, seed and versions."""
    record, job = m.run.record, m.run.job
    section = Section("provenance", "Provenance", "Licences are those that a model's folder or package states.")
    writers = job.llm.members if isinstance(job.llm, Generators) else [("language model", job.llm)]
    models: dict[str, Stage | None] = {
        **dict(writers),
        "embedder": job.embed,
        "embedder of personas": job.persona_embed,
    }
    models |= {f"{scorer.name}: {name}": model for scorer in job.scores for name, model in scorer.models.items()}
    named = {what: (name_of(each), getattr(each, "model", "")) for what, each in models.items() if each is not None}
    rows = [(what, use, model, _licence(model)) for what, (use, model) in named.items()]
    head = ("", "use", "model", "licence")
    section.tables.append(Table("models", "models", head, ["text"] * 3, rows))
    inputs = [(each.path, each.rows, each.sha256) for each in record.inputs]
    section.tables.append(Table("inputs", "inputs", ("file", "rows", "sha256"), ("count", "text"), inputs))
    prompts = sorted((record.identity.get("templates") or {}).items())
    if prompts:
        section.tables.append(Table("prompts", "prompts", ("file", "sha256"), ("text",), prompts))
    facts: dict[str, Value] = {
        "seed": m.seed,
        "revision": record.number,
        "identity": record.sha256,
        "rules": m.view.rules.describe(),
    }
    facts |= {"synth": metadata.version("synth"), "task": name_of(job.task) if job.task else "filter"}
    facts |= {"personas": json.dumps(record.identity["personas"])} if record.identity.get("personas") else {}
    section.tables.append(Table("run", "run", ("", "value"), ("text",), [*facts.items()]))
    return section


def _licence(model: str) -> str:
    """What the card in a model's own folder says; nothing is looked up."""
    card = Path(model) / "README.md"
    if not model or not card.is_file():
        return "not recorded"
    lines = (line for line in card.read_text("utf-8", "replace").splitlines()[:60] if line.startswith("license:"))
    return next((line.partition(":")[2].strip() for line in lines), "not recorded")
