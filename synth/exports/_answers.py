"""Which passages answer which query by any pair of a run, kept or not: what no random negative may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from synth.shards import StepFolder
from synth.sources.checks import digest


class Answers:
    """All pairs as keys, 8 bytes each; texts are compared without case, white space and form.

    That a passage is wrongly taken for an answer happens once in 10^12 looks, over ten million pairs.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._keys = np.unique(np.fromiter((_key(query, passage) for query, passage in pairs), np.uint64))

    @classmethod
    def of(cls, step: StepFolder) -> Answers:
        """The pairs of a step."""
        return cls(_pairs(step))

    def has(self, query: str, passage: str) -> bool:
        """Whether a pair says that the passage answers the query."""
        key = np.uint64(_key(query, passage))
        place = int(np.searchsorted(self._keys, key))
        return place < len(self._keys) and bool(self._keys[place] == key)


def _pairs(step: StepFolder) -> Iterator[tuple[str, str]]:
    for index in sorted(step.done()):
        columns = step.read_columns(index, ["query", "passage"])
        texts: tuple[list[str | None], ...] = tuple(each.to_pylist() for each in columns.columns)
        for query, passage in zip(*texts, strict=True):
            yield query or "", passage or ""


def _key(query: str, passage: str) -> int:
    return int.from_bytes(digest(f"{digest(query).hex()} {digest(passage).hex()}")[:8], "little")
