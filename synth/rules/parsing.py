"""From the `keep:` mapping to conditions, collecting every mistake with its cure instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from math import isfinite
from typing import Any

from synth.document import KeyPath, Problem
from synth.errors import JobError
from synth.languages import language
from synth.rules.conditions import COMPARE, LOWER, STRICT, UPPER, Condition, Grouped, Scalar, Unique
from synth.scores import ScoreColumn

_OPERATORS = (*COMPARE, "is", "in")
_MISSING = ("keep", "reject")
_UNKNOWN_LANGUAGE = "und"
_ANY = ScoreColumn("", None)
"""A column that no scorer makes, such as one of the user's own."""


class Parser:
    """Reads one `keep:` value; `known` finds a score column by its name, `problems` fills as it reads."""

    def __init__(self, known: Callable[[str], ScoreColumn | None]) -> None:
        self.known = known
        self.problems: list[Problem] = []

    def read(self, keep: object) -> tuple[list[Condition], frozenset[str], Unique | None]:
        """Conditions, the columns whose null rejects, and the `unique` rule; whatever is wrong is left out."""
        conditions: list[Condition] = []
        missing: set[str] = set()
        unique: Unique | None = None
        if not isinstance(keep, dict):
            self._wrong((), f"expects rules by column, not {keep!r}", "For example {cosine: {above: 0.7}}.")
            return conditions, frozenset(missing), unique
        for key, rule in keep.items():
            if key == "unique":
                options = dict(rule) if isinstance(rule, dict) else {}
                by, best = _names(options.pop("by", None)), options.pop("best", None)
                if by and isinstance(best, str) and not options:
                    unique = Unique(tuple(by), best)
                else:
                    cure = "For example {by: query_cluster, best: cosine}."
                    self._wrong(("unique",), "expects `by` and `best`", cure)
            else:
                found, rejects = self._rule(str(key), rule)
                conditions += found
                missing |= {str(key)} if rejects else set()
        return conditions, frozenset(missing), unique

    def _rule(self, column: str, rule: object) -> tuple[list[Condition], bool]:
        if isinstance(rule, bool):
            rule = {"is": rule}
        if not isinstance(rule, dict):
            self._wrong((column,), f"{rule!r} has no comparison", _short_cure(column, rule))
            return [], False
        missing = rule.get("missing", (self.known(column) or _ANY).missing)
        if missing not in _MISSING:
            self._wrong((column, "missing"), f"expects keep or reject, not {missing!r}")
        conditions: list[Condition] = []
        for operator, value in rule.items():
            path = (column, str(operator))
            if operator in _OPERATORS:
                conditions += self._condition(column, str(operator), value, path)
            elif operator != "missing":
                near = get_close_matches(str(operator), [*_OPERATORS, "missing"], n=1)
                cure = f"Did you mean {near[0]}?" if near else f"One of: {', '.join(_OPERATORS)}."
                self._wrong(path, "unknown comparison", cure)
        if not set(rule) - {"missing"}:
            self._wrong((column,), "has no comparison", f"One of: {', '.join(_OPERATORS)}.")
        self._contradictions(column, conditions)
        return conditions, missing == "reject"

    def _condition(self, column: str, operator: str, value: object, path: KeyPath) -> Iterator[Condition]:
        before = len(self.problems)
        if operator in COMPARE:
            by_group = isinstance(value, dict)
            read: Any = self._grouped(column, value, path) if by_group else self._number(column, value, path)
        elif operator == "in":
            read = self._choices(column, value, path)
        else:
            read = self._scalar(column, value, path)
        if len(self.problems) == before:
            yield Condition(column, operator, read)

    def _number(self, column: str, value: object, path: KeyPath) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(path, f"expects a number, not {value!r}", "Or thresholds by group: {by: a_column, a: 0.6}.")
            return 0.0
        if not isfinite(value):
            self._wrong(path, f"{value} cannot be a threshold", "Write a finite number.")
        known = self.known(column) or _ANY
        if isfinite(value) and not known.low <= value <= known.high:
            self._wrong(
                path, f"{value:g} is outside of {column}'s range, {known.low:g} to {known.high:g}", "Move it inside."
            )
        return float(value)

    def _scalar(self, column: str, value: object, path: KeyPath) -> Scalar:
        if value is None:
            self._wrong(path, "cannot be null", "Set what happens to nulls with `missing: keep` or `missing: reject`.")
            return ""
        if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not isfinite(value)):
            cure = (
                f"For any of several values write {column}: {{in: {value}}} into a rules file."
                if isinstance(value, list)
                else ""
            )
            self._wrong(path, f"expects text, true, false or a number, not {value!r}", cure)
            return ""
        return self._code(value, path) if _is_language(column) else value

    def _choices(self, column: str, value: object, path: KeyPath) -> tuple[Scalar, ...]:
        if not isinstance(value, list) or not value:
            self._wrong(path, f"expects a list of values, not {value!r}", "For example [phd, university].")
            return ()
        choices = tuple(self._scalar(column, each, (*path, str(n))) for n, each in enumerate(value))
        kinds = {"number" if type(each) in (int, float) else type(each).__name__ for each in choices}
        if len(kinds) > 1:
            self._wrong(path, "mixes kinds of values", "Use only text, only numbers, or only true and false.")
        return choices

    def _grouped(self, column: str, value: Any, path: KeyPath) -> Grouped | None:
        names = _names(value.get("by"))
        if not names:
            self._wrong(path, "thresholds by group need `by`", "A column or a list of columns: by: query_language.")
            return None
        groups = {key: inner for key, inner in value.items() if key != "by"}
        if not groups:
            self._wrong(path, "has neither a group nor a default", "Add groups with their thresholds, or `default:`.")
        values: dict[tuple[str, ...], float] = {}
        for key, threshold, where in self._leaves(groups, names, path):
            if key in values and all(key):
                self._wrong(where, f"the group {', '.join(key) or 'default'} is given twice", "Remove one of the two.")
            values[key] = self._number(column, threshold, where)
        return Grouped(tuple(names), tuple(sorted(values.items())))

    def _leaves(
        self, groups: Mapping[Any, Any], by: list[str], path: KeyPath, prefix: tuple[str, ...] = ()
    ) -> Iterator[tuple[tuple[str, ...], object, KeyPath]]:
        """Every threshold with its key, as `Grouped` wants it, and its path."""
        if len(prefix) == len(by):
            self._wrong(path, "is nested deeper than `by` has columns", "Add a column to `by`, or write a number.")
            return
        for name, value in groups.items():
            where = (*path, str(name))
            if name == "default":
                key = prefix
            else:
                key = (*prefix, str(self._code(name, where) if _is_language(by[len(prefix)]) else name))
            if isinstance(value, dict) and name != "default":
                yield from self._leaves(value, by, where, key)
            else:
                yield key, value, where

    def _code(self, name: object, path: KeyPath) -> str:
        if name == _UNKNOWN_LANGUAGE:
            return _UNKNOWN_LANGUAGE
        try:
            return language(name).code
        except JobError as exc:
            self._wrong(path, exc.message.rstrip("."), exc.hint)
            return ""

    def _contradictions(self, column: str, conditions: list[Condition]) -> None:
        """No number is both above 0.7 and below 0.5."""
        numbers = {each.operator: each.value for each in conditions if isinstance(each.value, float)}
        for lower, upper in product(LOWER, UPPER):
            if lower in numbers and upper in numbers:
                low, high = numbers[lower], numbers[upper]
                if low > high or (low == high and (lower in STRICT or upper in STRICT)):
                    self._wrong(
                        (column,), f"nothing is {lower} {low:g} and {upper} {high:g}", "Swap them, or drop one."
                    )

    def _wrong(self, path: KeyPath, message: str, cure: str = "") -> None:
        self.problems.append(Problem(path, message, cure))


def _names(by: object) -> list[str]:
    """A column, or a list of them; empty for anything else."""
    names: list[Any] = by if isinstance(by, list) else [by]
    return names if all(isinstance(name, str) and name for name in names) else []


def _is_language(column: str) -> bool:
    return column in ("language", "detected_language") or column.endswith("_language")


def _short_cure(column: str, rule: object) -> str:
    if isinstance(rule, int | float):
        return f"Write {{above: {rule}}} (more than) or {{min: {rule}}} (at least)."
    if isinstance(rule, str):
        return f"Write {{is: {rule}}}."
    return "Write {in: [...]}." if isinstance(rule, list) else f"For example {column}: {{above: 0.7}}."
