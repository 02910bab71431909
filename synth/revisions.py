"""Revisions of a run: what it was started as, and what it went on as when its job was edited.

`job.json` is revision 1, `job.2.json` and so on the later ones; each is put there once and never changed. A revision
holds the job, its identity and the list of inputs; `prompts/`, `prompts.2/` … hold the templates of each. Committed and
started shards keep the revision that they were begun under, all others are made under the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synth import identity
from synth.config import Job
from synth.errors import OutputError
from synth.shards import OutputFolder
from synth.sources import InputFile

FORMAT = 1
_RESTORE = "Restore it from a backup, or choose another folder with -o."
_NAME = re.compile(r"job\.([1-9][0-9]*)\.json")
_NEEDED = frozenset({"sha256", "identity", "job", "base", "inputs", "sample"})
_OWN = frozenset({"revision", "retry"})
"""Keys that make a revision's identity its own; what is left of it are the settings."""
_FIXED = ("version", "schema", "sample", "shard_size")
"""What no revision can change: every shard of a folder shares it."""
_LISTS = ("corpus", "data")
_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Record:
    """One revision as it was written down; `retry` are the ids of the rejected items that it asks again."""

    number: int
    sha256: str
    identity: Mapping[str, Any]
    job: Mapping[str, Any]
    base: Path
    inputs: tuple[InputFile, ...]
    sample: int | None
    retry: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The identity without what only tells one revision from another."""
        return {key: value for key, value in self.identity.items() if key not in _OWN}

    @property
    def existing(self) -> bool:
        """Whether this is a pass over pairs that existed."""
        return "data" in self.identity


@dataclass(frozen=True, slots=True)
class Changes:
    """How a job differs from a revision: what `--continue` allows, what it never does, and appended inputs."""

    settings: Sequence[str]
    forbidden: Sequence[str]
    added: Sequence[InputFile]

    def __bool__(self) -> bool:
        return bool(self.settings or self.forbidden or self.added)

    def lines(self) -> list[str]:
        """One line for each change."""
        new = [f"inputs: {each.path} is new" for each in self.added]
        return [*self.forbidden, *self.settings, *new]


def file_name(number: int) -> str:
    """`job.json`, `job.2.json` and so on."""
    return "job.json" if number == 1 else f"job.{number}.json"


def prompts_name(number: int) -> str:
    """`prompts`, `prompts.2`, …: the templates that a revision uses."""
    return "prompts" if number == 1 else f"prompts.{number}"


def read(folder: OutputFolder) -> tuple[Record, ...]:
    """All revisions in order, at least one. Raises OutputError for a file that is missing, damaged or newer."""
    found = {1, *(int(match[1]) for each in folder.path.glob("job.*.json") if (match := _NAME.fullmatch(each.name)))}
    return tuple(_read(folder, number) for number in range(1, max(found) + 1))


def last(folder: OutputFolder) -> Record:
    """The revision that a run goes on under. Raises what `read` raises."""
    return read(folder)[-1]


def raw(folder: OutputFolder, number: int) -> dict[str, Any]:
    """The content of a revision's file, checked. Raises OutputError when it is missing, damaged or newer."""
    path = folder.path / file_name(number)
    try:
        record = json.loads(path.read_bytes())
        newer = record["format"] > FORMAT
        complete = record.keys() >= _NEEDED
        complete = complete and isinstance(record["job"], dict) and isinstance(record["base"], str)
    except FileNotFoundError as exc:
        what = f"{folder.path} is not the folder of a run" if number == 1 else "later revisions are there"
        raise OutputError(f"{path}: is not there; {what}.") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", _RESTORE) from exc
    if newer:
        raise OutputError(f"{path}: was written by a newer synth (format {record['format']}).", "Upgrade synth.")
    if not complete or identity.sha256(record["identity"]) != record["sha256"]:
        raise OutputError(f"{path}: is damaged: its identity does not match its own hash.", _RESTORE)
    return dict(record)


def put(folder: OutputFolder, job: Job, record: Record) -> bool:
    """Write a revision down unless its number is taken; returns whether it was free."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "sha256": record.sha256,
        "sample": record.sample,
        "identity": record.identity,
        "job": job.as_json(),
        "base": str(job.base),
        "inputs": [asdict(each) for each in record.inputs],
    }
    if record.retry:
        content["retry"] = list(record.retry)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return folder.put_if_absent(file_name(record.number), text.encode())


def following(
    before: Record | None,
    job: Job,
    described: Mapping[str, Any],
    inputs: Sequence[InputFile],
    retry: Sequence[str] = (),
) -> Record:
    """The revision after `before` (None: the first), not written yet."""
    number = 1 if before is None else before.number + 1
    own: dict[str, Any] = {} if number == 1 else {"revision": number}
    if retry:
        own["retry"] = identity.sha256({"items": list(retry)})
    whole = {**described, **own}
    sample = described["sample"]
    return Record(number, identity.sha256(whole), whole, job.as_json(), job.base, tuple(inputs), sample, tuple(retry))


def in_order(before: Sequence[InputFile], now: Sequence[InputFile]) -> list[InputFile]:
    """The inputs of today in the order of before, those that came since at the end: so positions never move."""
    known = {(each.corpus_index, each.relative): n for n, each in enumerate(before)}
    return sorted(now, key=lambda each: known.get((each.corpus_index, each.relative), len(known)))


def compare(before: Record, described: Mapping[str, Any], inputs: Sequence[InputFile]) -> Changes:
    """How today's job, described over `inputs` in their lasting order, differs from a revision."""
    old, new = before.settings, dict(described)
    forbidden: list[str] = []
    for key in _FIXED:
        forbidden += identity.differences({key: old.pop(key, None)}, {key: new.pop(key, None)})
    forbidden += _gone(before.inputs, inputs)
    added = list(inputs)[len(before.inputs) :]
    if added and before.sample is not None:
        forbidden.append(f"inputs: {added[0].path} is new, and a sample is not extended")
    old.pop("inputs", None)
    new.pop("inputs", None)
    settings: list[str] = []
    for key in _LISTS:
        was, now = list(old.pop(key, None) or []), list(new.pop(key, None) or [])
        forbidden += [f"{key}.{n}: is gone" for n in range(len(now), len(was))]
        settings += identity.differences({key: was[: len(now)]}, {key: now[: len(was)]})
    forbidden += _carried(before, described)
    return Changes(sorted([*settings, *identity.differences(old, new)]), forbidden, added)


def refuse(folder: OutputFolder, changes: Changes, *, go_on: bool) -> None:
    """Raises OutputError naming the changes unless there are none, or `go_on` and all of them are allowed."""
    if not changes or (go_on and not changes.forbidden):
        return
    lines = changes.forbidden if go_on else changes.lines()
    told = f" {lines[0]}." if len(lines) == 1 else "\n  " + "\n  ".join(lines) + "\n"
    hint = "Use -o for another folder, or --continue to go on with the new ones."
    if changes.forbidden:
        hint = "Use -o for another folder, or put that back: no revision can change it."
    raise OutputError(f"{folder.path} was started with other settings:{told}", hint)


def _gone(before: Sequence[InputFile], now: Sequence[InputFile]) -> list[str]:
    """Inputs that were removed or changed since."""
    today = {(each.corpus_index, each.relative): each for each in now}
    found = []
    for n, old in enumerate(before):
        new = today.get((old.corpus_index, old.relative))
        if new is None:
            found.append(f"inputs.{n}: {old.path} was removed")
        elif new.sha256 != old.sha256:
            found.append(f"inputs.{n}.sha256: {new.path} changed, {old.sha256[:_SHOWN]} -> {new.sha256[:_SHOWN]}")
    return found


def _carried(before: Record, described: Mapping[str, Any]) -> list[str]:
    """Columns that would be carried from now on: shards of one folder are read together, so all have the same ones."""
    entries = [list(found.get("corpus") or []) for found in (before.identity, described)]
    old, new = ({name for entry in each for name in entry.get("carry") or ()} for each in entries)
    return [f"corpus.carry: {name} was not carried before" for name in sorted(new - old)]


def _read(folder: OutputFolder, number: int) -> Record:
    found = raw(folder, number)
    try:
        inputs = tuple(InputFile(**each) for each in found["inputs"])
        retry = tuple(str(each) for each in found.get("retry", ()))
    except TypeError as exc:
        raise OutputError(f"{folder.path / file_name(number)}: is damaged ({exc}).", _RESTORE) from exc
    base, sample = Path(found["base"]), found["sample"]
    return Record(number, found["sha256"], found["identity"], found["job"], base, inputs, sample, retry)
