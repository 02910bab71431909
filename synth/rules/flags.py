"""Rules given on the command line, one flag each or a file, as the same `keep:` mapping that a job holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synth import yamlfile
from synth.errors import JobError
from synth.rules.ruleset import Rules
from synth.scores import Scorer
from synth.validation import plain


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
                raise JobError(f"--{operator} {text}: names no column and value.", f"Write --{operator} cosine=0.6.")
            rule = keep.setdefault(column, {})
            if operator in rule:
                raise JobError(f"--{operator} {column} is given twice.", "Keep one of the two.")
            rule[operator] = plain(yamlfile.scalar(value, f"--{operator} {column}"))
    return keep


def from_flags(flags: Mapping[str, Sequence[str]], scorers: Sequence[Scorer] = ()) -> Rules:
    """Rules for scores that `scorers` stored, from flags. Raises JobError naming every mistake."""
    rules, problems = Rules.parse(mapping(flags), scorers, stored=True)
    if rules is None:
        lines = [f"{'.'.join(each.path)}: {each.message}. {each.cure}".rstrip() for each in problems]
        raise JobError("\n  ".join(lines))
    return rules


def from_file(path: Path, scorers: Sequence[Scorer] = ()) -> Rules:
    """Rules for scores that `scorers` stored, from a YAML file: a `keep:` mapping, with or without the word above it.

    Raises JobError naming every mistake with its line.
    """
    document = yamlfile.load(path)
    data = plain(document.data)
    nested = isinstance(data, dict) and set(data) == {"keep"}
    above = ("keep",) if nested else ()
    rules, problems = Rules.parse(data["keep"] if nested else data, scorers, stored=True)
    problems = [
        *document.problems,
        *(yamlfile.Problem((*above, *each.path), each.message, each.cure) for each in problems),
    ]
    if problems or rules is None:
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return rules


def chosen(flags: Mapping[str, Sequence[str]], path: Path | None, scorers: Sequence[Scorer] = ()) -> Rules:
    """The rules of a command line: from its flags or from its file. Raises JobError for both or neither."""
    given = [f"--{operator} {text}" for operator, texts in flags.items() for text in texts]
    if path is None and not given:
        raise JobError("no rules are given.", "For example --above cosine=0.6, or --rules FILE.yaml")
    if path is not None and given:
        raise JobError(f"--rules and {given[0]} do not go together.", "Write all rules into the file, or as flags.")
    return from_flags(flags, scorers) if path is None else from_file(path, scorers)
