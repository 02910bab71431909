"""Durations and sizes as people write them in job files: `30m`, `1.5h`, `64MB`, or plain seconds and bytes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(value: object) -> object:
    """Seconds of `30m`-like text; other values pass through to pydantic. Raises ValueError on another unit."""
    return _parse(value, _DURATION, "a duration such as 90, 30s, 15m, 2h")


def parse_size(value: object) -> object:
    """Bytes of `64MB`-like text; other values pass through to pydantic. Raises ValueError on another unit."""
    parsed = _parse(value, _SIZE, "a size such as 1048576, 64MB, 2GiB")
    return round(parsed) if isinstance(parsed, float) else parsed


def _parse(value: object, units: dict[str, float] | dict[str, int], expected: str) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    if not match or match[2] not in units:
        raise ValueError(f"{value!r} is not {expected}")
    return float(match[1]) * units[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
