"""Views: rules over stored scores, the folder they fill, and where the rules of a folder are written down.

Every shard of a view names the fingerprint of its rules and scores, and `index/rules-<fingerprint>.json`, written once
before the first of those shards, says what they are. So the record never has to be swapped together with a folder:
whichever shards a reader finds, their rules are found too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from synth import identity
from synth.errors import JobError, OutputError
from synth.rules import Rules
from synth.shards import OutputFolder, StepFolder

DEFAULT = "kept"
_FORMAT = 1
_OWN = ("id",)


@dataclass(frozen=True, slots=True)
class View:
    """Rules over a list of score folders (`scores/cosine-1a2b3c4d`), and the folder they fill.

    `hidden` is where the shards lie while the view replaces an older one. `competing` lists the shards whose rows a
    `unique` rule compares: with others the same rules would keep other rows, so it is a part of the fingerprint then.
    """

    name: str
    rules: Rules
    scores: tuple[str, ...]
    hidden: str = ""
    competing: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Tells one set of rules over one set of scores from another."""
        what: dict[str, Any] = {"rules": self.rules.canonical(), "scores": list(self.scores)}
        if self.rules.unique:
            what["shards"] = list(self.competing)
        return identity.sha256(what)

    def folder(self, folder: OutputFolder) -> StepFolder:
        """Where its shards are, or will be."""
        return folder.step(self.name, hidden=self.hidden)

    def holds(self, folder: OutputFolder) -> bool:
        """Whether the shards in its folder, if there are any, were made by these rules over these scores."""
        shards = self.folder(folder)
        first = shards.first()
        return first is None or shards.meta(first).identity == self.fingerprint

    def write_record(self, folder: OutputFolder) -> None:
        """Write down what the fingerprint stands for, unless that is done. Raises SystemFault, OutputError."""
        path = _record_path(self.fingerprint)
        if (folder.path / path).exists():
            return
        record = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "rules": self.rules.canonical(),
            "scores": list(self.scores),
            "shards": len(self.competing) if self.rules.unique else None,
        }
        folder.put_if_absent(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Record:
    """The rules that made a view's shards, the score folders they read, and how many shards `unique` compared."""

    fingerprint: str
    rules: Rules
    scores: tuple[str, ...]
    shards: int | None


def record_of(folder: OutputFolder, name: str) -> Record | None:
    """What made the view `name`; None while it has no shard, or was made before records were kept.

    Raises OutputError when the record is damaged.
    """
    shards = folder.step(name)
    first = shards.first()
    if first is None:
        return None
    path = folder.path / _record_path(shards.meta(first).identity)
    try:
        found = json.loads(path.read_bytes())
        rules, problems = Rules.parse(found["rules"], None)
        record = Record(found["fingerprint"], rules or Rules(), tuple(found["scores"]), found["shards"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it, then run `synth keep` with the rules.") from exc
    if problems:
        raise OutputError(f"{path}: holds rules that this synth cannot read ({problems[0].message}).", "Upgrade synth.")
    return record


def names(folder: OutputFolder) -> list[str]:
    """Every named view, as `views/<name>`, in order."""
    return [f"views/{each.name}" for each in sorted((folder.path / "views").glob("[!.]*")) if each.is_dir()]


def stored_scores(folder: OutputFolder, needed: Collection[str]) -> tuple[str, ...]:
    """The score folders for rules that read the columns `needed`.

    Those of `kept/` come first, in its order; others join only where a needed column is in none before them. Raises
    JobError when two of those others hold the same column.
    """
    record = record_of(folder, DEFAULT)
    chosen = list(record.scores) if record else []
    present = {*_columns(folder.step("generated"))}
    for name in chosen:
        present |= {*_columns(folder.step(name))}
    others = [f"scores/{each.name}" for each in sorted((folder.path / "scores").glob("[!.]*")) if each.is_dir()]
    maker: dict[str, str] = {}
    for name in (each for each in others if each not in chosen):
        fresh = {*_columns(folder.step(name))} - present
        if not (record is None or fresh & {*needed}):
            continue
        for column in sorted(fresh & maker.keys()):
            raise JobError(
                f"{folder.path}: both {maker[column]} and {name} hold the column {column}.",
                "Run the job with the scorer that shall count, then this command; or remove the other folder.",
            )
        maker |= dict.fromkeys(fresh, name)
        chosen.append(name)
    return tuple(chosen)


def ready(folder: OutputFolder, scores: Sequence[str]) -> list[int]:
    """The shards that are generated and scored."""
    done = folder.step("generated").done()
    for name in scores:
        done &= folder.step(name).done()
    return sorted(done)


def joined(folder: OutputFolder, scores: Sequence[str], index: int, pairs: pa.Table) -> pa.Table:
    """Pairs and their score columns, side by side; a pair's column named like a score comes as `input_<name>`."""
    table = pairs
    for name in scores:
        columns = folder.step(name).read(index).table
        for field in columns.schema:
            if field.name in _OWN:
                continue
            if field.name in pairs.schema.names:
                renamed = [f"input_{each}" if each == field.name else each for each in table.schema.names]
                table = table.rename_columns(renamed)
            table = table.append_column(field, columns[field.name])
    return table


def selected(folder: OutputFolder, scores: Sequence[str], index: int, wanted: Collection[str]) -> pa.Table:
    """Of what `joined` would give for a shard, the columns `wanted` that exist, read without the others."""
    found: dict[str, pa.ChunkedArray] = {}
    for name in ("generated", *scores):
        step = folder.step(name)
        here = [
            column
            for column in _columns(step, index)
            if column in wanted and (name == "generated" or column not in _OWN)
        ]
        if here:
            table = step.read_columns(index, here)
            found |= {column: table[column] for column in here}
    return pa.table(found)


def column_types(folder: OutputFolder, scores: Sequence[str], index: int) -> dict[str, pa.DataType]:
    """Every column of a joined shard with its type, from footers alone."""
    types: dict[str, pa.DataType] = {}
    for name in ("generated", *scores):
        types |= {each.name: each.type for each in folder.step(name).schema(index)}
    return types


def _columns(step: StepFolder, index: int | None = None) -> list[str]:
    """The columns of a step, from the footer of one shard; none while it has no shard."""
    if index is None:
        index = step.first()
    return (
        []
        if index is None
        else [name for name in step.schema(index).names if name not in _OWN or step.name == "generated"]
    )


def _record_path(fingerprint: str) -> str:
    return f"index/rules-{fingerprint[:16]}.json"
