"""YAML 1.2, read safely: limits on size and nodes, no tags, each key once, and a line number for every key.

PyYAML implements YAML 1.1, which reads `no` as False, `12:30` as 750 and `010` as 8. The core schema of YAML 1.2
used here reads the text `no`, the text `12:30` and the number 10. A key that occurs twice is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from synth.errors import JobError
from synth.names import note

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Counted after anchors are followed, so that an expansion bomb ends here."""

MAX_DEPTH = 32

KeyPath = tuple[str, ...]

_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}
"""What plain scalars mean: the core schema of YAML 1.2, and merge keys."""
_TAGS = {f"{_PREFIX}{name}" for name in ("map", "seq", "str", *_SCALARS)}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    None: [(f"{_PREFIX}{name}", re.compile(rf"(?:{pattern})\Z")) for name, pattern in _SCALARS.items()]
}
_Loader.add_constructor(
    f"{_PREFIX}int", lambda _, node: int(node.value, 0) if node.value[1:2] in ("o", "x") else int(node.value)
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a job: where (dotted path of keys), what is wrong, how to fix it."""

    path: KeyPath
    message: str
    cure: str = ""

    @property
    def text(self) -> str:
        return f"{self.message.rstrip('.')}. {self.cure}".rstrip()


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain values, and the line (from 1) of each key path."""

    name: str
    data: Any
    """None where problems leave no values."""
    lines: dict[KeyPath, int]
    problems: tuple[Problem, ...]
    folder: Path | None = None
    """The folder of the file, absolute; None for text that came from no file."""

    def describe(self, problem: Problem) -> str:
        """One line: `FILE:LINE: key.path: what is wrong. How to fix it`."""
        known = [self.lines[path] for n in range(len(problem.path)) if (path := problem.path[: n + 1]) in self.lines]
        where = f"{self.name}:{known[-1]}" if known else self.name
        return ": ".join(filter(None, (where, ".".join(problem.path), problem.text)))


def load_document(path: Path) -> Document:
    """Read one YAML file. Raises JobError when it cannot be read, is not a mapping, or exceeds a limit."""
    note(path.parts)
    try:
        raw = path.read_bytes()
    except FileNotFoundError as exc:
        raise JobError(f"{path}: no such file (looked in {Path.cwd()}).", "`synth init` writes a new one.") from exc
    except OSError as exc:
        raise JobError(f"{path}: cannot be read: {exc.strerror}.") from exc
    if len(raw) > MAX_BYTES:
        raise JobError(f"{path}: {len(raw):,} bytes; a job file has at most {MAX_BYTES:,}.", "Is it one?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise JobError(f"{path}: byte {exc.start} is not UTF-8.", "Save the file as UTF-8.") from exc
    return replace(parse(text, str(path)), folder=path.resolve().parent)


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` stands for the file in messages."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except (yaml.YAMLError, RecursionError) as exc:
        raise JobError(f"{name}: not valid YAML: {_one_line(exc)}.", "Check indentation, quotes and colons.") from exc
    if root is None:
        raise JobError(f"{name}: the file is empty.", "`synth init` writes a commented one.")
    if not isinstance(root, yaml.MappingNode):
        raise JobError(f"{name}: expects keys such as `corpus:` at the top, not a list or a single value.")
    lines, problems = _inspect(root, name)
    try:
        data = loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        if not problems:  # what has a forbidden tag has no value either
            raise JobError(f"{name}: not valid YAML: {_one_line(exc)}.") from exc
        data = None
    return Document(name, data, lines, tuple(problems))


def parse_scalar(text: str, name: str) -> Any:
    """The value of one `-s key=value`: any YAML value. Raises JobError if it is not YAML."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise JobError(f"{name}: {text!r} is not a YAML value: {_one_line(exc)}.") from exc


def _inspect(root: yaml.Node, name: str) -> tuple[dict[KeyPath, int], list[Problem]]:
    """The line of every key path, and all mistakes; makes every key text."""
    lines: dict[KeyPath, int] = {}
    problems: list[Problem] = []
    keys: list[yaml.Node] = []
    count = 0
    stack: list[tuple[KeyPath, yaml.Node, yaml.Node | None]] = [((), root, None)]
    while stack:  # an alias counts each time it is used
        path, node, key = stack.pop()
        count += 1
        if len(path) > MAX_DEPTH:
            raise JobError(f"{name}: nested deeper than {MAX_DEPTH} levels.", "Does an anchor contain itself?")
        if count > MAX_NODES:
            raise JobError(f"{name}: more than {MAX_NODES:,} values once anchors are followed.", "Use fewer anchors.")
        lines.setdefault(path, (key or node).start_mark.line + 1)
        problems += _mistakes(path, node, key)
        keys += [key] if key is not None else []
        if isinstance(node, yaml.MappingNode):
            stack += [((*path, str(k.value)), v, k) for k, v in reversed(node.value)]
        elif isinstance(node, yaml.SequenceNode):
            stack += [((*path, str(n)), v, None) for n, v in reversed(list(enumerate(node.value)))]
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and key.tag != f"{_PREFIX}merge":
            key.tag = f"{_PREFIX}str"
    return lines, problems


def _mistakes(path: KeyPath, node: yaml.Node, key: yaml.Node | None) -> Iterator[Problem]:
    if node.tag not in _TAGS:
        yield Problem(path, f"the tag {node.tag!r} is not allowed in a job file", "Write a plain value.")
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for each, _ in node.value:
            name, line = str(each.value), each.start_mark.line + 1
            if name in first and each.tag != f"{_PREFIX}merge":
                message = f"the key stands twice (lines {first[name]} and {line})"
                yield Problem((*path, name), message, "Remove one of them.")
            first.setdefault(name, line)
    if key is not None and not isinstance(key, yaml.ScalarNode):
        yield Problem(path, "a key must be plain text")


def _one_line(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    what = getattr(exc, "problem", None) or str(exc) or type(exc).__name__
    return f"line {mark.line + 1}: {what}" if mark else " ".join(str(what).split())
