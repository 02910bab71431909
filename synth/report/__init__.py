"""What a run gave, as figures, tables, histograms and samples: for a screen, for scripts, and as one HTML page.

`make` measures a run; `page.html` draws what it found, `compare` holds two of them against each other.
"""

from __future__ import annotations

from pathlib import Path

from synth.report import record, sections
from synth.report.material import Texts, embed, read
from synth.report.measures import Vectors
from synth.report.parts import Report
from synth.report.sections import ON_MAP
from synth.shards import OutputFolder
from synth.sources.queries import described, rows
from synth.terminal import tell
from synth.types import Notify


def make(folder: OutputFolder, view: str, queries: Path | None = None, notify: Notify = tell) -> Report:
    """Measure a view of a run; `queries` is a file of people's queries to compare with. Asks no model but the embedder.

    Raises JobError for an unknown or empty view, InputError for a file of queries that cannot be read, OutputError for
    a damaged shard.
    """
    files = described([str(queries)], "--queries") if queries else []
    known = [text for each in files for _, text in rows(each, None, "--queries")]
    m = read(folder, view)
    kept, dropped = (m.sampled(kept=kept)["query"].to_list() for kept in (True, False))
    texts: Texts = {
        "passage": ("document", m.passages["text"].to_list()),
        "kept query": ("query", kept),
        "dropped query": ("query", dropped[:ON_MAP]),
    }
    found = embed(m.run, texts, (kept, known), notify)
    vectors = found if isinstance(found, str) else found.vectors
    near = m.summary.real_queries if isinstance(found, str) or not known else found.near

    def of(kind: str) -> Vectors | str:
        return vectors if isinstance(vectors, str) else vectors[kind]

    measured = [
        sections.funnel(m),
        sections.coverage(m, of("passage")),
        *([record.target(m)] if m.run.job.file.target is not None else []),
        sections.requested(m),
        sections.redundancy(m, of("kept query")),
        sections.content(m),
        sections.ranks(m),
        sections.scores(m),
        sections.copied(m),
        sections.positives(m),
        sections.negatives(m),
        sections.leakage(m),
        sections.atlas(m, vectors),
        sections.real(near),
        record.provenance(m),
    ]
    return Report(folder.path, view, m.view.rules.describe(), measured)
