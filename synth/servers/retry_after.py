"""When to come back, in the three forms in which servers say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST = 300.0
"""Seconds; a server that asks for more is asked again after this, and ends as an outage if it stays closed."""


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds to wait, 0 to `LONGEST`, or None where nothing (sensible) is said; `wall` is seconds since 1970.

    Reads `retry-after-ms`, then `retry-after` as seconds, then as HTTP date (RFC 9110, 10.2.3). `headers` must look
    names up without regard to case, or have them in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _clamped(seconds)
    if text is None:
        return None
    try:
        return _clamped(parsedate_to_datetime(text).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST)
