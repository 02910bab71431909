"""Embeddings as servers send them → float32 rows, and rows → unit vectors."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.servers.faults import Setback

Row = NDArray[np.float32]


def read_rows(answer: Any, count: int) -> list[Row | None]:
    """One row for each of `count` inputs, placed by `index`; None where it is null, not numbers, not finite or zero.

    Base64 is little-endian float32. Raises Setback where the answer is no list of embeddings or the indices are not
    0 to count-1, once each.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise Setback("HTTP 200 with something that is not embeddings")
    rows: list[Row | None] = [None] * count
    seen = [False] * count
    for entry in data:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < count or seen[index]:
            raise Setback(f"HTTP 200 with an embedding for input {index!r} of {count}")
        seen[index] = True
        rows[index] = _row(entry.get("embedding"))
    if not all(seen):
        raise Setback(f"HTTP 200 with {sum(seen)} embeddings for {count} inputs")
    return rows


def _row(value: Any) -> Row | None:
    try:
        if isinstance(value, str):
            row = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32, copy=False)
        else:
            row = np.array(value, np.float32)
    except (TypeError, ValueError, binascii.Error):
        return None
    if row.ndim != 1:
        return None
    squared = float(row.dot(row))  # between zero and infinity for nearly every row, and then no value needs a look
    return row if 0 < squared < math.inf or (np.isfinite(row).all() and row.any()) else None


def unit(rows: Sequence[Row], dimensions: int | None) -> NDArray[np.float32]:
    """Rows cut to `dimensions` and scaled to length 1: float32 (n, width); a row that is zero there stays zero."""
    matrix = np.stack([row[:dimensions] for row in rows]).astype(np.float32, copy=False)
    wide = matrix.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(lengths == 0, 1, lengths)[:, None]
    return wide.astype(np.float32)
