"""Row numbers over all inputs: how many there are, and an even sample of them."""

from __future__ import annotations

from collections.abc import Sequence

from synth.errors import InputError
from synth.sources.records import InputFile


def count_rows(files: Sequence[InputFile]) -> int:
    """Rows of all files, rejected ones included.

    Raises InputError for a data set on the hub whose card gives no number of rows.
    """
    total = 0
    for file in files:
        if file.rows is None:
            raise InputError(f"{file.path}: nobody says how many rows it has.", "Leave out --sample, or download it.")
        total += file.rows
    return total


def sample_rows(total: int, n: int) -> frozenset[int]:
    """`n` of the row numbers below `total`, spread evenly (the middles of n equal parts); all when there are fewer."""
    if n >= total:
        return frozenset(range(total))
    return frozenset((2 * part + 1) * total // (2 * n) for part in range(n))
