"""JSON lines: one object a line, blank lines are no rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from synth.sources.columns import Columns, fetcher
from synth.sources.options import ReadLimits
from synth.sources.records import EXCERPT, Fault, InputFile, RawRow
from synth.sources.streams import Line, lines, opened, tally, undecodable

PEEK = 1000
"""Rows whose keys and values decide which columns a file has and of what type."""


def count(path: Path, limits: ReadLimits) -> int:
    """Number of lines that are not blank. Raises InputError for a damaged file or an over-long line."""
    return tally(_lines(str(path), limits))


def _lines(path: str, limits: ReadLimits) -> Iterator[Line]:
    with opened(path) as stream:
        yield from filter(_not_blank, lines(stream, limits.max_line_bytes, path))


def read(
    file: InputFile, columns: Columns, limits: ReadLimits, wanted: Callable[[int], bool] | None
) -> Iterator[RawRow]:
    """Raw rows; a line that is no JSON object or no UTF-8 has a fault instead of values."""
    fetch = fetcher(columns)
    with opened(file.path) as stream:
        for row, line in enumerate(filter(_not_blank, lines(stream, limits.max_line_bytes, file.path))):
            if wanted is not None and not wanted(row):
                continue
            parsed = _parse(line)
            if isinstance(parsed, Fault):
                yield RawRow(row, fault=parsed)
            else:
                yield fetch(row, parsed)


def objects(path: str, limits: ReadLimits) -> Iterator[dict[str, Any] | Fault]:
    """Every row of a file, whole: its object, or why it is none."""
    with opened(path) as stream:
        yield from map(_parse, filter(_not_blank, lines(stream, limits.max_line_bytes, path)))


def peek(path: str, limits: ReadLimits) -> list[dict[str, Any]]:
    """The objects among the first lines of a file."""
    with opened(path) as stream:
        first = islice(filter(_not_blank, lines(stream, limits.max_line_bytes, path)), PEEK)
        return [parsed for parsed in map(_parse, first) if not isinstance(parsed, Fault)]


def _not_blank(line: Line) -> bool:
    return not line.data.isspace() and bool(line.data)


def _parse(line: Line) -> dict[str, Any] | Fault:
    try:
        parsed = json.loads(line.data.decode())
    except UnicodeDecodeError:
        return Fault("encoding", f"line {line.number}: {undecodable(line.data, line.offset)}", _excerpt(line))
    except (ValueError, RecursionError) as exc:
        return Fault("json", f"line {line.number}: {exc}", _excerpt(line))
    if not isinstance(parsed, dict):
        return Fault("json", f"line {line.number}: not an object but {type(parsed).__name__}", _excerpt(line))
    return parsed


def _excerpt(line: Line) -> str:
    return line.data[: EXCERPT * 4].decode(errors="replace")[:EXCERPT]
