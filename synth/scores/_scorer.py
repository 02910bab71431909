"""What every scorer is: options, the columns it makes, and one method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from synth.batching import Memory
from synth.errors import InputError
from synth.stage import ChatModel, ClientSettings, Encoder, Reranker, Services, Stage


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


Missing = Literal["keep", "reject"]


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """One column of a scorer, and what keep-rules may assume of it.

    No value lies outside `low`..`high` (inclusive), so a threshold out there is a mistake; `missing` is what becomes
    of a row whose value is null when a rule does not say.
    """

    name: str
    type: pa.DataType
    low: float = -inf
    high: float = inf
    missing: Missing = "reject"


class Scorer(Stage):
    """Base of all scorers: measures pairs and never judges them, which is what `keep:` does."""

    scope: ClassVar[Literal["shard", "pass"]] = "shard"
    """`shard`: pure over one shard. `pass`: needs an index over all of them first, which `build` makes."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Services` that must be there, such as `encoder`."""
    outputs: ClassVar[tuple[ScoreColumn, ...]] = ()
    """The columns under their plain names."""
    stem: ClassVar[str | None] = None
    """What `as` replaces in those names; None for the first part of the first name."""

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The columns of the pairs that it looks at, where it is worth leaving the others unread; None for all."""
        return None

    as_: str | None = Field(default=None, alias="as", pattern=r"^[a-z][a-z0-9_]*$")
    """Another name for this scorer's columns, needed where a job has two of a kind."""

    @abstractmethod
    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """One row per pair, in order, with exactly `columns()`."""

    async def build(self, source: PassSource, folder: Path, services: Services) -> None:
        """Make the index of a scorer of scope `pass` in `folder`, which may hold an unfinished one.

        The folder is found as `batch.index` by `score` afterwards. Built again over the same shards, it gets the same
        bytes; what is there is not made again, so a killed build goes on.
        """

    def index_bytes(self, pairs: int, dimensions: int) -> int:  # noqa: ARG002 - for scorers that make an index
        """About how much its index over so many pairs takes on disk, where vectors have `dimensions`; at most."""
        return 0

    def at(self, base: Path) -> Self:  # noqa: ARG002 - for scorers that name files
        """The same scorer with the paths among its options made whole; relative ones start from `base`."""
        return self

    def require(self) -> None:
        """Look whether the files among its options can be used, before any model is asked.

        Raises JobError, InputError, SystemFault.
        """

    @property
    def brings(self) -> frozenset[str]:
        """Those of `needs` that come from options of its own, so that the job need not name them."""
        return frozenset()

    def open(
        self,
        client: ClientSettings,  # noqa: ARG002 - for scorers that bring a model
        instruction: str,  # noqa: ARG002 - as above
    ) -> Mapping[str, ChatModel | Encoder | Reranker]:
        """The models of `brings`, by field of `Services`; whoever opens them closes them."""
        return {}

    @property
    def name(self) -> str:
        """What to call this scorer in file names and messages: its `as`, or the module it lives in."""
        return self.as_ or type(self).__module__.rpartition(".")[2]

    def named_outputs(self) -> tuple[tuple[str, ScoreColumn], ...]:
        """Every column with the name that it has in this job."""
        return tuple((self.column_name(output.name), output) for output in self.outputs)

    def columns(self) -> pa.Schema:
        """Schema of the table that `score` returns."""
        return pa.schema([(name, output.type) for name, output in self.named_outputs()])

    def column_name(self, name: str) -> str:
        """Where a column stands under `as: x`: `cosine` as `x`, `length_error` as `x_error`, others as `x_<name>`."""
        if self.as_ is None:
            return name
        stem = self.stem or self.outputs[0].name.split("_")[0]
        if name == stem:
            return self.as_
        return f"{self.as_}_{name.removeprefix(f'{stem}_')}"

    def table(self, *columns: Sequence[Any] | NDArray[Any]) -> pa.Table:
        """The values of each output, in the order of `outputs`, as the table that `score` returns."""
        arrays = [pa.array(values, output.type) for values, output in zip(columns, self.outputs, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.columns())
