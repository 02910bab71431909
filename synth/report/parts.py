"""What a report is made of. A screen, the HTML page, JSON and `synth compare` all read the same parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from synth.errors import SystemFault

Kind = Literal["count", "share", "number", "text"]
"""How a value is written: an integer, a percentage of 0..1, a number, or as it is."""
_HALF = 44
"""Characters of text in half of the page, with numbers beside it."""
Value = float | int | str | None


def written(value: Value, kind: Kind) -> str:
    """A value as people read it; – for one that is not known."""
    if value is None:
        return "–"
    if isinstance(value, str) or kind == "text":
        return str(value)
    if kind == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if kind == "count" or abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name; `note` says how to read it."""

    key: str
    label: str
    value: Value
    kind: Kind = "count"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under `head`; the first cell names the row, `kinds` are those of the other columns.

    `bars` are columns of counts to draw as bars.
    """

    key: str
    title: str
    head: Sequence[str]
    kinds: Sequence[Kind]
    rows: Sequence[Sequence[Value]]
    bars: Sequence[str] = ()

    @property
    def long(self) -> bool:
        """Whether it needs the width of the page."""
        most = _HALF / max(1, self.kinds.count("text"))
        return any(isinstance(cell, str) and len(cell) > most for row in self.rows for cell in row)

    def as_json(self) -> list[dict[str, Value]]:
        return [dict(zip(self.head, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows per bin between `edges` (the last bin closed), by series, and the thresholds in force."""

    key: str
    title: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]
    marks: Sequence[float] = ()

    def as_json(self) -> dict[str, Any]:
        return {"edges": list(self.edges), "counts": {name: list(each) for name, each in self.counts.items()}}


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows to read: what each is, and its texts and numbers by name."""

    key: str
    title: str
    rows: Sequence[Mapping[str, Value]]


@dataclass(frozen=True, slots=True)
class Map:
    """Points in the plane: float coordinates, hover text, and for each field a value of every point."""

    x: Sequence[float]
    y: Sequence[float]
    kinds: Sequence[str]
    """What each point is: a passage, or a kept or dropped query."""
    texts: Sequence[str]
    fields: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class Section:
    """A part of the report; `missing` says in one line why it is empty."""

    key: str
    title: str
    about: str = ""
    missing: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    map: Map | None = None

    def as_json(self) -> dict[str, Any]:
        """Figures by key, tables as lists of rows, histograms, and samples."""
        parts: dict[str, Any] = {"title": self.title, "missing": self.missing or None}
        parts["figures"] = {each.key: each.value for each in self.figures}
        parts["tables"] = {each.key: each.as_json() for each in self.tables}
        parts["histograms"] = {each.key: each.as_json() for each in self.histograms}
        parts["samples"] = {each.key: [dict(row) for row in each.rows] for each in self.samples}
        return parts


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured of one view of a run, in the order of the page."""

    path: Path
    view: str
    rules: str
    sections: Sequence[Section]

    def as_json(self) -> dict[str, Any]:
        """For scripts: figures, tables, histograms and samples by section; shares are 0..1."""
        sections = {each.key: each.as_json() for each in self.sections}
        return {"out": str(self.path), "view": self.view, "rules": self.rules, "sections": sections}

    def html(self) -> str:
        """One HTML page that needs no network. Raises JobError without the packages of `synth[report]`."""
        from synth.report.page import html  # noqa: PLC0415 - which reads these parts

        return html(self)

    def save(self, path: str | Path) -> Path:
        """Write the page; returns its path. Raises SystemFault where that fails, JobError as `html`."""
        content, path = self.html(), Path(path)
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as exc:
            raise SystemFault(f"{path}: cannot be written: {exc.strerror}.") from exc
        return path

    def _repr_html_(self) -> str:
        page = escape(self.html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 800px; border: 0" title="report"></iframe>'
