"""One condition on one column, and how a whole column is held against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from synth.errors import JobError

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Scalar = str | bool | int | float

COMPARE: Final[Mapping[str, Callable[[Numbers, Numbers | float], Mask]]] = {
    "above": np.greater,
    "below": np.less,
    "min": np.greater_equal,
    "max": np.less_equal,
}
"""Operators on numbers; NaN, which stands for null here, satisfies none."""

LOWER, UPPER = ("above", "min"), ("below", "max")
STRICT = ("above", "below")
_WORDS = {"above": "above", "below": "below", "min": "at least", "max": "at most", "is": "is", "in": "in"}


@dataclass(frozen=True, slots=True)
class Grouped:
    """A threshold by group.

    Keys of `values` are the groups' values in the order of `by`, or a beginning of them: a shorter key is the default
    of all groups that begin with it, () that of all.
    """

    by: tuple[str, ...]
    values: tuple[tuple[tuple[str, ...], float], ...]

    def of(self, key: Sequence[str | None]) -> float | None:
        """The threshold of a group, its own or a default."""
        values: Mapping[tuple[str | None, ...], float] = dict(self.values)
        prefixes = (tuple(key[:depth]) for depth in range(len(key), -1, -1))
        return next((values[prefix] for prefix in prefixes if prefix in values), None)

    def thresholds(self, table: pa.Table, rule: str) -> Numbers:
        """The threshold of each row. Raises JobError naming the groups that have none."""
        keys = self._keys(table)
        found = {key: self.of(key) for key in set(keys)}
        if None in found.values():
            raise no_threshold_error(rule, self.without_threshold(table))
        return np.array([found[key] for key in keys], np.float64)

    def without_threshold(self, table: pa.Table) -> list[str]:
        """The groups of a table that have no threshold, as `query_language de, difficulty null`."""
        return [
            ", ".join(f"{column} {name or 'null'}" for column, name in zip(self.by, key, strict=True))
            for key in dict.fromkeys(self._keys(table))
            if self.of(key) is None
        ]

    def _keys(self, table: pa.Table) -> list[tuple[str | None, ...]]:
        """The group of each row."""
        columns = [plain_column(table, name) for name in self.by]
        texts = [
            pc.if_else(c, "True", "False") if pa.types.is_boolean(c.type) else c.cast(pa.large_string())
            for c in columns
        ]
        return list(zip(*(text.to_pylist() for text in texts), strict=True))

    def canonical(self) -> dict[str, Any]:
        """As a job file would write it."""
        nested: dict[str, Any] = {"by": self.by[0] if len(self.by) == 1 else list(self.by)}
        for key, value in sorted(self.values, key=lambda entry: -len(entry[0])):
            here = nested
            for name in key[:-1]:
                here = here.setdefault(name, {})
            if key and key[-1] not in here:
                here[key[-1]] = value
            else:
                (here[key[-1]] if key else here)["default"] = value
        return nested


def no_threshold_error(rule: str, groups: Iterable[str]) -> JobError:
    return JobError(f"keep: {rule}: no value for {'; '.join(groups)}, and no default.", "Add them, or `default:`.")


@dataclass(frozen=True, slots=True)
class Condition:
    """`column operator value`, such as cosine above 0.7; several on one column are all required."""

    column: str
    operator: str
    value: Scalar | tuple[Scalar, ...] | Grouped

    @property
    def rule(self) -> str:
        """How errors name it: `cosine: above`."""
        return f"{self.column}: {self.operator}"

    def passes(self, table: pa.Table) -> Mask:
        """Which rows satisfy it, bool (n,); nulls do not. Raises JobError when the column's type cannot be compared."""
        column = plain_column(table, self.column)
        if self.operator in COMPARE:
            limit = self.value.thresholds(table, self.rule) if isinstance(self.value, Grouped) else self.value
            assert isinstance(limit, int | float | np.ndarray)  # noqa: S101 - parsing lets nothing else through
            return COMPARE[self.operator](_as_numbers(column, self.rule), limit)
        if pa.types.is_null(column.type):
            return np.zeros(len(column), np.bool_)
        wanted = self.value if isinstance(self.value, tuple) else (self.value,)
        try:
            allowed = pa.array(wanted).cast(column.type)
        except pa.ArrowException as exc:
            raise JobError(
                f"keep: {self.rule}: column {self.column} holds {column.type}, which {self.value!r} is not.",
                "Write values of the column's own type.",
            ) from exc
        return np.asarray(pc.is_in(column, value_set=allowed).to_numpy(zero_copy_only=False), np.bool_)

    def label(self) -> str:
        """The reason of a row that fails: `cosine above 0.7`."""
        if isinstance(self.value, Grouped):
            shown = f"its threshold by {', '.join(self.value.by)}"
        elif isinstance(self.value, tuple):
            shown = f"[{', '.join(_plain(each) for each in self.value)}]"
        else:
            shown = _plain(self.value)
        return f"{self.column} {_WORDS[self.operator]} {shown}"

    def canonical(self) -> Any:
        """The operator's value as JSON."""
        if isinstance(self.value, Grouped):
            return self.value.canonical()
        return list(self.value) if isinstance(self.value, tuple) else self.value


@dataclass(frozen=True, slots=True)
class Unique:
    """Of the rows that share their values in `by`, the one with the highest `best` stays, the first of equals."""

    by: tuple[str, ...]
    best: str

    def losers(self, table: pa.Table, candidates: Mask) -> Mask:
        """Which of the `candidates` give way to another; a row with a null in `by` has no rivals."""
        rows = np.flatnonzero(candidates & ~np.logical_or.reduce([is_missing(table, name) for name in self.by]))
        group = np.zeros(len(rows), np.int64)
        for name in self.by:
            encoded = plain_column(table, name).take(pa.array(rows)).dictionary_encode()
            group = group * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
            group = np.unique(group, return_inverse=True)[1]  # keeps the combined code small
        score = _as_numbers(plain_column(table, self.best), f"unique: best: {self.best}")[rows]
        order = np.lexsort((rows, np.nan_to_num(-score, nan=np.inf), group))
        beaten = np.zeros(len(rows), np.bool_)
        beaten[order[1:]] = group[order[1:]] == group[order[:-1]]
        losers = np.zeros(table.num_rows, np.bool_)
        losers[rows[beaten]] = True
        return losers

    def label(self) -> str:
        return f"best {self.best} per {', '.join(self.by)}"


def plain_column(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece, its values spelled out where it is dictionary-encoded."""
    column = table[name].combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def is_missing(table: pa.Table, name: str) -> Mask:
    """Null, or NaN in a column of floats."""
    nulls = pc.is_null(plain_column(table, name), nan_is_null=True)
    return np.asarray(nulls.to_numpy(zero_copy_only=False), np.bool_)


def _as_numbers(column: pa.Array, rule: str) -> Numbers:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise JobError(f"keep: {rule}: needs a column of numbers, it holds {kind}.", "Use `is:` or `in:`.")
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))


def _plain(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
