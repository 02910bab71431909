"""The base class of scorers, the columns they make, and the pairs they get."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from synth.batching import AnswerCache
from synth.errors import InputError
from synth.stage import ChatModel, ClientSettings, Encoder, Reranker, Services, Stage, open_models


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one shard. All scorers of a shard share one batch, so a column becomes a list once."""

    pairs: pa.Table
    passages: Sequence[str] | pa.ChunkedArray | None = None
    """Texts of the shard's `passages/` file, whatever became a pair; None where the pairs have no such file."""
    index: Path | None = None
    """The index that `build` made, for a scorer of scope `pass`."""
    first: int = 0
    """Number of pairs in the shards before this one."""
    remember: AnswerCache | None = None
    """Answers of models so far: look here before asking, and add what was answered."""
    shard: int = 0
    """Number of this shard."""
    _lists: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def documents(self) -> tuple[str, ...]:
        """The distinct passages to embed, in one call and in this order.

        They include passages that became no pair, so the vectors do not depend on which items failed.
        """
        texts = self.pairs["passage"] if self.passages is None else self.passages
        return tuple(dict.fromkeys(texts.to_pylist() if isinstance(texts, pa.ChunkedArray) else texts))

    def texts(self, name: str) -> list[str]:
        """The column `query` or `passage`, one text a row. Raises InputError at the first null."""
        column = self.pairs[name]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InputError(f"pairs: row {row + 1}: field {name}: is null.", "Leave such rows out, or fill them.")
        return self.values(name)

    def values(self, name: str) -> list[Any]:
        """Any column, one value a row; all None where the data has no such column."""
        if name not in self._lists:
            known = name in self.pairs.column_names
            self._lists[name] = self.pairs[name].to_pylist() if known else [None] * self.pairs.num_rows
        values: list[Any] = self._lists[name]
        return values


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """One column of a scorer.

    No value lies outside `low`..`high` (inclusive), so a rule with such a threshold is a mistake. A rule that does not
    name `missing` treats a null as given here. `better` says which values are the good ones; None where neither are.
    """

    name: str
    type: pa.DataType = pa.float64()  # noqa: RUF009 - Arrow's types are immutable singletons
    low: float = -inf
    high: float = inf
    missing: Literal["keep", "reject"] = "reject"
    better: Literal["high", "low"] | None = "high"


class Scorer(Stage):
    """Base of all scorers. A scorer measures pairs; `keep:` decides on them.

    A subclass lists its `outputs` and writes `score`; the rest has answers that suit most. Its fields are its options
    in the job file, its docstring its help.
    """

    outputs: ClassVar[tuple[ScoreColumn, ...]] = ()
    """The columns it makes."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """The models it uses, such as `encoder` or `chat`: fields of `Services`."""
    scope: ClassVar[Literal["shard", "pass"]] = "shard"
    """`shard`: pure over one shard. `pass`: needs an index over all shards first, which `build` makes."""
    index_parts: ClassVar[tuple[str, ...]] = ()
    """Arrays of its index that it writes shard by shard, in this order, each the same whatever shards follow."""
    stem: ClassVar[str | None] = None
    """The part of the column names that `as` replaces; None for the first word of the first name."""

    as_: str | None = Field(default=None, alias="as", pattern=r"^[a-z][a-z0-9_]*$")
    """Another name for this scorer's columns, needed where a job has two of a kind."""

    @abstractmethod
    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """One row per pair, in order: `return self.table(values)`, with a list for each of `outputs`."""

    @property
    def name(self) -> str:
        """The scorer in folder names and messages: its `as`, its module in synth, or its class outside of synth."""
        module = type(self).__module__
        builtin = module.startswith("synth.scores.")
        return self.as_ or (module.rpartition(".")[2] if builtin else type(self).__name__.lower())

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The columns of the pairs that it needs, where reading only those is worthwhile; None for all."""
        return None

    @property
    def brings(self) -> frozenset[str]:
        """Those of `needs` that its own options provide, so that the job need not name them."""
        return frozenset(model.service for model in self.models.values())

    def open(self, client: ClientSettings, instruction: str) -> Mapping[str, ChatModel | Encoder | Reranker]:
        """The models of `brings`, by field of `Services`; the caller closes them."""
        return open_models(self, client, instruction)

    def at(self, base: Path) -> Self:  # noqa: ARG002 - for scorers that name files
        """The same scorer with absolute paths among its options; relative ones start from `base`."""
        return self

    def require(self) -> None:
        """Check the files among its options before any model is asked. Raises JobError, InputError, SystemFault."""

    async def build(self, shards: Iterator[PairBatch], folder: Path, services: Services) -> None:
        """Make the index of a scorer of scope `pass` in `folder`, which may hold an unfinished one.

        `shards` are all of the pass, read one at a time; `score` finds the folder as `batch.index`. The same shards
        give the same bytes; finished parts are not made again, so a killed build goes on.
        """

    def index_bytes(self, pairs: int, dimensions: int) -> int:  # noqa: ARG002 - for scorers that make an index
        """Upper estimate of its index on disk for so many pairs and vectors of `dimensions`."""
        return 0

    def named_outputs(self) -> tuple[tuple[str, ScoreColumn], ...]:
        return tuple((self.column_name(output.name), output) for output in self.outputs)

    def columns(self) -> pa.Schema:
        return pa.schema([(name, output.type) for name, output in self.named_outputs()])

    def column_name(self, name: str) -> str:
        """A column's name under `as: x`: `cosine` becomes `x`, `length_error` `x_error`, others `x_<name>`."""
        if self.as_ is None:
            return name
        stem = self.stem or self.outputs[0].name.split("_")[0]
        return self.as_ if name == stem else f"{self.as_}_{name.removeprefix(f'{stem}_')}"

    def table(self, *columns: Sequence[Any] | NDArray[Any]) -> pa.Table:
        """The values of each output, in the order of `outputs`, as the table that `score` returns."""
        arrays = [pa.array(values, output.type) for values, output in zip(columns, self.outputs, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.columns())
