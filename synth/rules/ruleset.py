"""Rules as a whole: parsed once, then applied to stored columns, with the reason of every rejected row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from synth import registry
from synth.document import Document, Problem, load_document, parse_scalar
from synth.errors import JobError
from synth.presets import preset_part
from synth.rules.conditions import Condition, Grouped, Mask, Unique, is_missing, no_threshold_error
from synth.rules.parsing import Parser
from synth.scores import ScoreColumn, Scorer
from synth.tables import JUDGEMENT
from synth.validation import plain

DEFAULT_COSINE = 0.7
"""Above this, strictly, the Qwen3-Embedding report kept pairs for its supervised stage."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of rules for n rows. `failures` is bool (rules, n), true where the rule of that label is broken."""

    labels: tuple[str, ...]
    failures: Mask

    @property
    def kept(self) -> Mask:
        """Which rows break no rule, bool (n,)."""
        return np.asarray(~self.failures.any(axis=0))

    @property
    def failed(self) -> pa.ListArray:
        """For each row the labels of all rules it breaks, list<string>."""
        ends = np.cumsum(self.failures.sum(axis=0), dtype=np.int32)
        rules = np.nonzero(self.failures.T)[1] if self.labels else np.empty(0, np.int64)
        labels = pa.array(self.labels, pa.string()).take(pa.array(rules))
        return pa.ListArray.from_arrays(pa.array(np.concatenate([np.zeros(1, np.int32), ends])), labels)


@dataclass(frozen=True, slots=True)
class Rules:
    """Conditions that are all required, in the order in which they were written; `unique` runs last.

    `reject_missing` holds the columns whose null rejects a row; in the others a null passes.
    """

    conditions: tuple[Condition, ...] = ()
    reject_missing: frozenset[str] = frozenset()
    unique: Unique | None = None
    unjudged: bool = False
    """Whether the default rule on judgements is switched off."""

    @classmethod
    def parse(
        cls, keep: object, scorers: Sequence[Scorer] | None, *, stored: bool = False
    ) -> tuple[Rules | None, list[Problem]]:
        """The rules of a `keep:` value, or None and every problem with its path below `keep`.

        No `keep` means cosine above 0.7 where a scorer makes a cosine, and no rule at all elsewhere. A `label` of
        null switches off the default rule on judgements. `scorers` are the job's, None where they are unknown. With
        `stored` the rules are for stored scores, which may have more columns than those scorers make, so absent columns
        are not reported here.
        """
        own = {name: column for scorer in scorers or () for name, column in scorer.named_outputs()}
        unjudged = isinstance(keep, dict) and keep.get(JUDGEMENT, "") is None
        if unjudged and isinstance(keep, dict):
            keep = {name: rule for name, rule in keep.items() if name != JUDGEMENT} or None
        if keep is None:
            cosine = next((name for name, column in own.items() if column.name == "cosine"), None)
            keep = {cosine: {"above": DEFAULT_COSINE}} if cosine else {}
        parser = Parser(lambda name: own.get(name) or known_columns(()).get(name))  # other scorers load at need
        conditions, missing, unique = parser.read(keep)
        problems = parser.problems
        rules = cls(tuple(conditions), missing, unique, unjudged)
        if scorers is not None and not stored:
            problems += [each for each in rules.absent(own) if each.path[0] in _makers()]
        return (None, problems) if problems else (rules, [])

    @classmethod
    def of(cls, document: Document, scorers: Sequence[Scorer], *, stored: bool = False) -> Rules:
        """The rules of a document: a `keep:` mapping, in a file with or without the word above it.

        Raises JobError naming every mistake with its line.
        """
        keep, above = plain(document.data), tuple[str, ...]()
        if document.folder is not None and isinstance(keep, dict) and set(keep) == {"keep"}:
            keep, above = keep["keep"], ("keep",)
        rules, found = cls.parse(keep, scorers, stored=stored)
        problems = [*document.problems, *(replace(each, path=(*above, *each.path)) for each in found)]
        if problems or rules is None:
            raise JobError("\n  ".join(document.describe(each) for each in problems))
        return rules

    def judged(self) -> Rules:
        """With the default rule of pairs that come with judgements, unless there is another on them, or none."""
        if self.unjudged or any(each.column == JUDGEMENT for each in self.conditions):
            return self
        return replace(self, conditions=(Condition(JUDGEMENT, "above", 0.0), *self.conditions))

    def defaults(self, new: Rules) -> Rules:
        """New rules over the same pairs, with what these have by default."""
        if self.unjudged:
            return replace(new, unjudged=True)
        return new.judged() if any(each.column == JUDGEMENT for each in self.conditions) else new

    @property
    def grouping(self) -> set[str]:
        """The columns that thresholds by group go by."""
        return {name for each in self.conditions if isinstance(each.value, Grouped) for name in each.value.by}

    def columns(self) -> set[str]:
        names = {condition.column for condition in self.conditions} | self.grouping
        return names | ({*self.unique.by, self.unique.best} if self.unique else set())

    def absent(self, present: Collection[str]) -> list[Problem]:
        """A problem for each column that the rules read and `present` does not have."""
        found = []
        for name in sorted(self.columns() - set(present)):
            near = get_close_matches(name, [*present, *_makers()], n=1)
            cure = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(present))}."
            if name in _makers():
                scorer, _ = _makers()[name]
                cure = f"`{scorer}` makes it: add `- use: {scorer}` to `scores`."
            found.append(Problem((name,), f"column {name} does not exist", cure))
        return found

    def require(self, present: Collection[str]) -> None:
        """Raises JobError naming every column that the rules read and `present` does not have."""
        problems = self.absent(present)
        if problems:
            *others, last = [f"keep: {'.'.join(each.path)}: {each.message}." for each in problems]
            lines = [f"{text} {each.cure}" for text, each in zip(others, problems, strict=False)]
            raise JobError("\n  ".join([*lines, last]), problems[-1].cure)

    def require_groups(self, tables: Iterable[pa.Table]) -> None:
        """Raises JobError naming every group of these tables without a threshold; reads the columns of `by` alone."""
        grouped = [(each.rule, each.value) for each in self.conditions if isinstance(each.value, Grouped)]
        missing: dict[str, dict[str, None]] = {}
        for table in tables if grouped else ():
            for rule, value in grouped:
                if set(value.by) <= set(table.column_names):
                    missing.setdefault(rule, {}).update(dict.fromkeys(value.without_threshold(table)))
        for rule, groups in missing.items():
            if groups:
                raise no_threshold_error(rule, groups)

    def apply(self, table: pa.Table, losers: Mask | None = None) -> Verdict:
        """Apply the rules to every row; only `columns()` of the table are read.

        `losers` are the rows that give way under `unique` when that has been settled over more than this table.
        Raises JobError for an absent column, a group without threshold, and a column of the wrong type.
        """
        self.require(table.column_names)
        labels: list[str] = []
        failures: list[Mask] = []
        missing = {name: is_missing(table, name) for name in dict.fromkeys(each.column for each in self.conditions)}
        for name, nulls in missing.items():
            if name in self.reject_missing:
                labels.append(f"{name} missing")
                failures.append(nulls)
        for condition in self.conditions:
            labels.append(condition.label())
            failures.append(~condition.passes(table) & ~missing[condition.column])
        if self.unique:
            passed = ~np.logical_or.reduce(failures) if failures else np.ones(table.num_rows, np.bool_)
            labels.append(self.unique.label())
            failures.append(self.unique.losers(table, passed) if losers is None else losers)
        stacked = np.array(failures, np.bool_).reshape(len(failures), table.num_rows)
        return Verdict(tuple(labels), stacked)

    def only(self, columns: Collection[str]) -> Rules:
        """The part of these rules that judges `columns`, row by row."""
        conditions = tuple(each for each in self.conditions if each.column in columns)
        return Rules(conditions, self.reject_missing & set(columns))

    def share(self, table: pa.Table) -> float | None:
        """The share of rows that would be kept, 0 to 1; None for a table without rows. Raises what `apply` raises."""
        return float(self.apply(table).kept.mean()) if table.num_rows else None

    def describe(self) -> str:
        parts = [condition.label() for condition in self.conditions]
        return ", ".join([*parts, *([self.unique.label()] if self.unique else [])]) or "every pair"

    def canonical(self) -> dict[str, Any]:
        """JSON values with every default spelled out; `parse` reads them back as the same rules."""
        keep: dict[str, Any] = {}
        for each in self.conditions:
            rule = keep.setdefault(each.column, {})
            rule[each.operator] = each.canonical()
            rule["missing"] = "reject" if each.column in self.reject_missing else "keep"
        if self.unique:
            keep["unique"] = {"by": list(self.unique.by), "best": self.unique.best}
        return keep | ({JUDGEMENT: None} if self.unjudged else {})


@cache
def _makers() -> Mapping[str, tuple[str, ScoreColumn]]:
    """Every column of the built-in scorers, with the name of its scorer."""
    found: dict[str, tuple[str, ScoreColumn]] = {}
    for name in registry.names("scores"):
        scorer = registry.find("scores", name)
        if issubclass(scorer, Scorer):
            found.update({column.name: (name, column) for column in scorer.outputs})
    return found


def known_columns(scorers: Sequence[Scorer] | None) -> dict[str, ScoreColumn]:
    """Score columns by their name in the job; those of built-in scorers that the job does not use under plain names."""
    known = {name: column for scorer in scorers or () for name, column in scorer.named_outputs()}
    return known | {name: column for name, (_, column) in _makers().items() if name not in known}


def mapping(flags: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """`{"above": ["cosine=0.6"], "is": ["language_ok=true"]}` as `{cosine: {above: 0.6}, language_ok: {is: true}}`.

    Values are read as YAML. Raises JobError for a flag without a column or a value, and for one given twice.
    """
    keep: dict[str, Any] = {}
    for operator, given in flags.items():
        for text in given:
            column, equals, value = text.partition("=")
            column = column.strip()
            if not (column and equals and value.strip()):
                raise JobError(f"--{operator} {text}: expected COLUMN=VALUE.", f"Write --{operator} cosine=0.6.")
            rule = keep.setdefault(column, {})
            if operator in rule:
                raise JobError(f"--{operator} {column} is given twice.", "Keep one of the two.")
            rule[operator] = plain(parse_scalar(value, f"--{operator} {column}"))
    return keep


def chosen(
    flags: Mapping[str, Sequence[str]], path: Path | None, scorers: Sequence[Scorer] = (), preset: str | None = None
) -> Rules:
    """The rules of a command line, for scores that `scorers` stored: from its flags, a YAML file or a preset.

    Raises JobError naming every mistake, and for none or several of the three.
    """
    given = [f"--{operator} {text}" for operator, texts in flags.items() for text in texts]
    given += [f"--preset {preset}"] if preset else []
    if path is None and not given:
        raise JobError("no rules are given.", "For example --above cosine=0.6, or --rules FILE.yaml")
    if path is not None and given:
        raise JobError(f"--rules and {given[0]} cannot be combined.", "Write all rules into the file, or as flags.")
    if preset and len(given) > 1:
        raise JobError(f"--preset and {given[0]} cannot be combined.", f"See: synth list presets {preset}")
    rules = preset_part(preset, "keep") if preset else mapping(flags)
    document = load_document(path) if path else Document("keep", rules, {}, ())
    return Rules.of(document, scorers, stored=True)
