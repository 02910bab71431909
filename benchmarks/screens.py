"""Renders two screens of a real run as SVG files for the README: `python -m benchmarks.screens [JOB.yaml [SAMPLE]]`.

The run goes into a temporary folder. Of its progress the display is drawn while most bars are between empty and full.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

from rich.console import Console, RenderableType
from rich.text import Text

from synth import api
from synth.progress import Display, bars
from synth.results.render import summary_view
from synth.runners.progress import Snapshot
from synth.runs.run import job_of
from synth.terminal import heading

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = 80


class Watched(Display):
    """A display that keeps every state it could have drawn, and draws none."""

    seen: list[Snapshot] = []  # noqa: RUF012 - one list for the one run of this script

    def __enter__(self) -> Self:
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            self.seen.append(self._look())


def middle(snapshot: Snapshot) -> tuple[int, float]:
    """How much there is to see of a state: phases at work, then figures."""
    at_work = sum(0 < (phase.share or 0) < 1 for phase in snapshot.phases)
    return at_work, len(snapshot.figures) + len(snapshot.phases)


def save(console: Console, name: str, title: str) -> None:
    """Write what the console has recorded, without the fonts that rich would load from the network."""
    path = DOCS / name
    path.write_text(re.sub(r"\s*@font-face \{[^}]*\}", "", console.export_svg(title=title)), encoding="utf-8")
    sys.stderr.write(f"{path}: {path.stat().st_size:,} bytes\n")


def recorder() -> Console:
    """A console that writes nowhere."""
    return Console(record=True, width=COLUMNS, file=Path("/dev/null").open("w"), force_terminal=True, highlight=False)


def main(job: str, sample: int | None) -> None:
    """Run the job, and render its progress and its summary."""
    api.Display = Watched  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        run = api.run(job, out=Path(folder) / "out", sample=sample)
        command = Text.assemble(("$ ", "green"), f"synth run {job}" + (f" --sample {sample}" if sample else ""))
        progress = recorder()
        progress.print(command, bars(max(Watched.seen, key=middle)), sep="\n")
        save(progress, "progress.svg", "progress")
        summary = recorder()
        parts = view(run)
        titles = [part.plain if isinstance(part, Text) else "" for part in parts]
        summary.print(*parts[titles.index(heading("summary").plain) + 1 :], sep="\n")
        save(summary, "summary.svg", "summary")


def view(run: api.Run) -> list[RenderableType]:
    """The summary as `synth run` prints it."""
    embed = job_of(run.path)[0].embed
    return list(summary_view(run.summary, embedder=embed.model if embed else "", seconds=0.0, made=0))


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "configs/quickstart.yaml", int(sys.argv[2]) if len(sys.argv) > 2 else None
    )
