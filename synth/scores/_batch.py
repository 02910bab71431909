"""What a scorer is given: the pairs of one shard, the distinct passages they may come from, and what is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from synth.answers import Memory
from synth.errors import InputError


@dataclass(frozen=True, slots=True)
class PassShard:
    """One shard of a pass: `first` is how many pairs the shards before it hold, `documents` as in `PairBatch`."""

    index: int
    first: int
    pairs: pa.Table
    documents: tuple[str, ...]


class PassSource(Protocol):
    """All shards of a pass in the order of their index, read one at a time, as often as asked."""

    def shards(self) -> Iterator[PassShard]: ...


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of one shard, and the distinct passage texts of its `passages/` file, a superset of the pairs' own.

    `documents` is what a scorer embeds, in one call and in this order, whatever became a pair: so the vectors of a
    shard do not depend on which of its items failed.
    """

    pairs: pa.Table
    documents: tuple[str, ...]
    index: Path | None = None
    """Where `build` put the index of a scorer of scope `pass`."""
    first: int = 0
    """How many pairs the shards before this one hold: the ordinal of its first pair."""
    remember: Memory | None = None
    """Where to look before a model is asked, and to write what it answered."""

    @classmethod
    def of(cls, pairs: pa.Table) -> PairBatch:
        """A batch of pairs that have no `passages/` file, such as data made elsewhere."""
        return cls(pairs, tuple(pc.unique(pairs["passage"]).to_pylist()))

    def texts(self, name: str) -> list[str]:
        """The column `query` or `passage`, one text a row. Raises InputError at the first null."""
        column = self.pairs[name]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InputError(f"pairs: row {row + 1}: field {name}: is null.", "Leave such rows out, or fill them.")
        texts: list[str] = column.to_pylist()
        return texts

    def values(self, name: str) -> list[Any]:
        """Any other column, one value a row; all None where the data has no such column."""
        if name not in self.pairs.column_names:
            return [None] * self.pairs.num_rows
        values: list[Any] = self.pairs[name].to_pylist()
        return values
