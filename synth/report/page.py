"""A report as one HTML page that asks for nothing: charts are SVG, drawn by Vega-Lite when the page is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synth.errors import JobError
from synth.report.parts import Histogram, Kind, Map, Report, Section, Table, Value, written
from synth.terminal import safe

_WIDTH = 300
"""Pixels of a chart, which fits a phone."""
_SIDE = 420
_COLOURS = {"kept": "#2f7fc1", "got": "#a9b4c0", "dropped": "#d08a4e", "count": "#2f7fc1"}
_SHAPES = {"passage": "square", "kept query": "circle", "dropped query": "triangle-up"}
_CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 130,
        "gridOpacity": 0.5,
    },
    "legend": {"labelFontSize": 11, "title": None, "orient": "bottom", "columns": 3, "labelLimit": 130},
    "scale": {"barBandPaddingInner": 0.15},
}
_MARK = re.compile(r'<path aria-label="([^"]*)"[^>]*?( transform="[^"]*")?( d="[^"]*")( fill="[^"]*")?[^>]*?/>')


def html(report: Report) -> str:
    """The page. Raises JobError where the package that draws the charts is missing."""
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    env.filters |= {"written": _written, "safe_text": safe}
    charts = {each.key: [_drawn(spec) for spec in _specs(each)] for each in report.sections}
    found = next((each.map for each in report.sections if each.map), None)
    colourings = [(name, _drawn(_map(found, name))) for name in found.fields] if found else []
    template = env.get_template("page.html.j2")
    version = metadata.version("synth")
    return template.render(
        report=report, charts=charts, colourings=colourings, figures=report.as_json(), version=version
    )


def require() -> Any:
    """The package that draws. Raises JobError where it is missing."""
    try:
        import vl_convert  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise JobError(f"charts need a package that is missing: {exc}.", "pip install 'synth[report]'") from exc
    return vl_convert


def _drawn(spec: Mapping[str, Any]) -> Markup:
    """A Vega-Lite specification as SVG with hover texts."""
    svg: str = require().vegalite_to_svg({**spec, "config": _CONFIG}, allowed_base_urls=[])
    return Markup(_MARK.sub(_titled, svg))  # noqa: S704 - Vega escapes the texts


def _titled(found: re.Match[str]) -> str:
    return f"<path{found[2] or ''}{found[3]}{found[4] or ''}><title>{found[1]}</title></path>"


def _written(value: Value, kind: Kind) -> str:
    return safe(written(value, kind))


def _specs(section: Section) -> Iterator[dict[str, Any]]:
    yield from (_bars(each) for each in section.tables if each.bars and each.rows)
    yield from (_histogram(each) for each in section.histograms)


def _bars(table: Table) -> dict[str, Any]:
    values = [
        {"row": str(row[0]), "series": name, "count": row[table.head.index(name)]}
        for row in table.rows
        for name in table.bars
    ]
    spec = _stacked(values, table.bars)
    place = {"field": "row", "type": "nominal", "sort": None, "axis": {"title": None}}
    spec["encoding"] |= {
        "y": place,
        "x": {"field": "count", "type": "quantitative", "axis": {"title": None, "tickCount": 4}},
    }
    if len(table.bars) > 1:
        stacked = "got" not in table.bars  # kept rows are among those that came
        spec["encoding"] |= {} if stacked else {"yOffset": {"field": "series", "sort": None}}
    return spec | {"height": {"step": 18 if len(table.bars) == 1 else 11 if "got" in table.bars else 18}}


def _histogram(each: Histogram) -> dict[str, Any]:
    values = [
        {"low": low, "high": high, "series": name, "count": count}
        for name, counts in each.counts.items()
        for low, high, count in zip(each.edges, each.edges[1:], counts, strict=False)
    ]
    bars = _stacked(values, list(each.counts))
    axis = {"title": each.title, "grid": False, "tickCount": 6}
    bars["encoding"] |= {
        "x": {"field": "low", "bin": {"binned": True}, "type": "quantitative", "axis": axis},
        "x2": {"field": "high"},
        "y": {"field": "count", "type": "quantitative", "axis": {"title": None, "tickCount": 4}},
    }
    rule = {
        "mark": {"type": "rule", "strokeDash": [4, 3], "color": "#c0392b"},
        "data": {"values": [{"at": at} for at in each.marks]},
    }
    rule["encoding"] = {"x": {"field": "at", "type": "quantitative"}}
    layers = [{key: bars[key] for key in ("data", "mark", "encoding")}, *([rule] if each.marks else [])]
    return {"width": _WIDTH, "height": 150, "layer": layers}


def _stacked(values: Sequence[Mapping[str, Any]], series: Sequence[str]) -> dict[str, Any]:
    colour: dict[str, Any] = {"field": "series", "type": "nominal", "sort": None}
    colour["scale"] = {"domain": list(series), "range": [_COLOURS.get(name, "#2f7fc1") for name in series]}
    if len(series) == 1:
        colour["legend"] = None
    return {"width": _WIDTH, "data": {"values": values}, "mark": "bar", "encoding": {"color": colour}}


def _map(found: Map, field: str) -> dict[str, Any]:
    xs, ys = _scaled(found.x), _scaled(found.y)
    columns = zip(xs, ys, found.kinds, found.fields[field], found.texts, strict=True)
    values = [{"x": x, "y": y, "kind": kind, "value": value, "text": safe(text)} for x, y, kind, value, text in columns]
    names = sorted(set(found.fields[field]), key=lambda name: (name in ("passage", "other"), name))
    colours = {
        "passage": "#9aa5b1",
        "other": "#c3cad1",
        "kept query": _COLOURS["kept"],
        "dropped query": _COLOURS["dropped"],
    }
    palette = iter(("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#9d755d"))
    kinds = [name for name in _SHAPES if name in found.kinds]
    place = {"type": "quantitative", "axis": None, "scale": {"domain": [0, _SIDE], "nice": False}}
    colour = {
        "field": "value",
        "type": "nominal",
        "scale": {"domain": names, "range": [colours.get(n) or next(palette) for n in names]},
    }
    shape: dict[str, Any] = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds, "range": [_SHAPES[n] for n in kinds]},
    }
    if field == "kind":
        names, colour = (
            kinds,
            {**colour, "field": "kind", "scale": {"domain": kinds, "range": [colours[n] for n in kinds]}},
        )
    else:
        shape["legend"] = {"symbolFillColor": "#888888", "orient": "top"}
    return {
        "width": _SIDE,
        "height": _SIDE,
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 22, "opacity": 1},
        "encoding": {
            "x": {"field": "x", **place},
            "y": {"field": "y", **place},
            "color": colour,
            "shape": shape,
            "description": {"field": "text"},
        },
    }


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [round((value - low) / ((high - low) or 1) * _SIDE, 1) for value in values]
