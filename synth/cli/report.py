"""`synth report` and `synth compare`: what a run gave, as tables and as one HTML page, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, RunFolder, command
from synth.terminal import columns, facts, heading, say, show, tell, words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from synth.report.compare import Comparison
    from synth.report.parts import Histogram, Samples, Section, Table

_BAR = 24
_NAME = 44
RunOrView = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder of a run, or of a view: OUT/views/NAME.", show_default=False)
]


@command(
    "synth report out                          tables, and the page out/report.html",
    "synth report out --view strict -o strict.html",
    "synth report out --queries real.jsonl     also how near to people's queries",
    "synth report out --json                   figures for scripts; writes nothing",
)
def report(
    out: RunFolder,
    view: Annotated[str, typer.Option(metavar="NAME", help="A view of `synth keep --as`.")] = "kept",
    page: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.html", help="The page; default: OUT/report.html.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="People's queries to compare with: text, JSON lines, CSV, Parquet."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Yield, coverage, mixes, redundancy, scores and a map of a run: as tables, and as one HTML page to send on.

    Reads the folder; only the run's embedder is asked, for vectors of samples.
    """
    from synth.report import make
    from synth.report.page import require
    from synth.shards import OutputFolder

    folder = OutputFolder.open(out)
    wanted = page or (None if as_json else out / "report.html")
    if wanted:
        require()
    found = make(folder, view, queries, tell)
    if wanted:
        found.save(wanted)
    if as_json:
        say(json.dumps(found.as_json(), ensure_ascii=False))
        return
    for section in found.sections:
        show(*_section(section), words())
    say(f"the same as a page: {wanted}")


@command("synth compare out other", "synth compare out out/views/strict --json")
def compare(first: RunOrView, second: RunOrView, as_json: AsJson = False) -> None:
    """Two runs or views side by side: every figure of the report, and the rows that only one keeps.

    Rows are the same where query and passage are equal, passages where their texts are.
    """
    from synth.report.compare import Side
    from synth.report.compare import compare as work

    found = work(Side.at(first), Side.at(second))
    if as_json:
        say(json.dumps(found.as_json(), ensure_ascii=False))
        return
    say(f"a: {found.a.path}, {found.a.view}: {found.a.rules}")
    say(f"b: {found.b.path}, {found.b.view}: {found.b.rules}")
    show(*_compared(found))


def _section(section: Section) -> Iterator[RenderableType]:
    from synth.report.parts import written

    yield heading(section.title)
    if section.missing:
        yield words(section.missing)
        return
    if section.about:
        yield words(section.about)
    if section.figures:
        notes = ((each, f" ({each.note})" if each.note else "") for each in section.figures)
        yield facts((each.label, written(each.value, each.kind) + note) for each, note in notes)
    for table in section.tables:
        yield from _table(table)
    for each in section.histograms:
        yield from _histogram(each)


def _table(table: Table) -> Iterator[RenderableType]:
    from synth.report.parts import written

    if table.rows:
        rows = [
            (str(row[0]), *(written(cell, kind) for cell, kind in zip(row[1:], table.kinds, strict=True)))
            for row in table.rows
        ]
        yield words(f"\n{table.title}", "bold")
        yield columns(table.head, rows)


def _histogram(each: Histogram) -> Iterator[RenderableType]:
    yield words(f"\n{each.title}", "bold")
    most = max([1, *(sum(some) for some in zip(*each.counts.values(), strict=True))])
    rows = []
    for n, (low, high) in enumerate(zip(each.edges, each.edges[1:], strict=False)):
        counts = [some[n] for some in each.counts.values()]
        rows.append(
            (f"{low:g} – {high:g}", "█" * round(_BAR * sum(counts) / most), *(f"{count:,}" for count in counts))
        )
    yield columns(("", "", *each.counts), rows)


def _samples(some: Samples) -> Iterator[RenderableType]:
    if some.rows:
        yield words(f"\n{some.title}", "bold")
    for row in some.rows:
        yield facts((name, str(value)) for name, value in row.items())


def _compared(found: Comparison) -> Iterator[RenderableType]:
    from synth.report.parts import written
    from synth.terminal import shorten

    section = ""
    rows: list[Sequence[str]] = []
    for each in found.figures:
        if each.section != section:
            if rows:
                yield from (heading(section), columns(("", "a", "b", "difference"), rows))
            section, rows = each.section, []
        sign = "+" if each.gap is not None and each.gap > 0 else ""
        values = (written(value, each.kind) for value in (each.a, each.b, each.gap))
        a, b, gap = values
        rows.append((shorten(each.figure, _NAME), a, b, sign + gap))
    yield from (heading(section), columns(("", "a", "b", "difference"), rows))
    yield heading("kept rows and passages")
    yield facts((name.replace("_", " "), f"{count:,}") for name, count in found.counts.items())
    yield from _table(found.passages)
    for some in found.samples:
        yield from _samples(some)
