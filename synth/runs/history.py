"""Revisions of a run: what it was started as, and what it went on as when its job was edited.

`job.json` is revision 1, `job.2.json` and so on the later ones; each is put there once and never changed. A revision
holds the job, its identity and the list of inputs; `prompts/`, `prompts.2/` … hold the templates of each. Committed and
started shards keep the revision that they were begun under, all others are made under the last.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from synth.errors import OutputError
from synth.job import Job, job_from_json
from synth.runs import identity
from synth.shards import OutputFolder
from synth.sources import InputFile, PairSet, pairs_schema

FORMAT = 1
_RESTORE = "Restore it from a backup, or choose another folder with -o."
_NAME = re.compile(r"job\.([1-9][0-9]*)\.json")
_OWN = frozenset({"revision", "retry", "round"})
"""Keys that make a revision's identity its own; what is left of it are the settings."""
_FIXED = ("version", "schema", "sample", "part", "shard_size", "target")
"""What no revision can change: every shard of a folder shares it."""
_LISTS = ("corpus", "data")
_SHOWN = 16


class Round(BaseModel):
    """A round of a run with a target: for each item the position of its passage, and the values to ask for.

    Items are in the order of positions. Those of one passage become one row of `passages/`, and are its slots.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    values: tuple[dict[str, str], ...]
    """Combinations of values by column."""
    positions: tuple[int, ...]
    asked: tuple[int, ...]
    """For each item its place in `values`."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first item of each row, and the end of the last."""
        changes = np.flatnonzero(np.diff(np.array(self.positions, np.int64)))
        return np.concatenate([[0], changes + 1, [len(self.positions)]]).astype(np.int64)

    @cached_property
    def passages(self) -> NDArray[np.int64]:
        """The position of the passage of each row."""
        return np.array(self.positions, np.int64)[self.starts[:-1]]

    def row(self, number: int) -> dict[int, dict[str, str]]:
        """What each slot of a row asks for."""
        start, end = self.starts[number : number + 2].tolist()
        return {slot: self.values[self.asked[at]] for slot, at in enumerate(range(start, end))}


class Record(BaseModel):
    """One revision as it was written down.

    `retry` are the ids of the rejected items that it asks again, `round` is what a round of a target asks for.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    sha256: str
    identity: dict[str, Any]
    job: dict[str, Any]
    base: Path
    inputs: tuple[InputFile, ...]
    sample: int | None
    retry: tuple[str, ...] = ()
    round: Round | None = None
    code: Path | None = None
    """Where the job finds classes of the user's own."""

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
        return [*self.forbidden, *self.settings, *(f"inputs: {each.path} is new" for each in self.added)]


def file_name(number: int, stem: str = "job") -> str:
    """`job.json`, `job.2.json` and so on."""
    return f"{stem}.json" if number == 1 else f"{stem}.{number}.json"


def prompts_name(number: int) -> str:
    """The folder with the templates of a revision: `prompts`, `prompts.2` and so on."""
    return "prompts" if number == 1 else f"prompts.{number}"


class History:
    """The revisions of a run, each read and verified once, and the parts that they added.

    Revisions that another process writes later are read when they are asked for.
    """

    def __init__(self, folder: OutputFolder, records: Sequence[Record] = ()) -> None:
        self.folder, self.records = folder, list(records)
        self._totals: dict[int, dict[str, int]] = {}

    @classmethod
    def read(cls, folder: OutputFolder) -> History:
        """All revisions, at least one. Raises OutputError for a file that is missing, damaged or newer."""
        names = [match for each in folder.path.glob("job.*.json") if (match := _NAME.fullmatch(each.name))]
        last = max((int(match[1]) for match in names), default=1)
        return cls(folder, [_read(folder, number) for number in range(1, last + 1)])

    @property
    def last(self) -> Record:
        return self.records[-1]

    def record(self, number: int) -> Record:
        """A revision. Raises OutputError when it is missing, damaged or newer."""
        while number > len(self.records):
            self.records.append(_read(self.folder, len(self.records) + 1))
        return self.records[number - 1]

    def job(self, record: Record) -> Job:
        """The job of a revision, as it was recorded. Raises JobError where this version cannot read it."""
        name = str(self.folder.path / file_name(record.number))
        return job_from_json(record.job, name, record.base, code=record.code)

    def append(
        self,
        job: Job,
        described: Mapping[str, Any],
        inputs: Sequence[InputFile],
        templates: Mapping[str, bytes],
        retry: Sequence[str] = (),
        planned: Round | None = None,
    ) -> Record:
        """Record a new revision; where another process took its number first, returns that one.

        Its templates come first, so that a revision that exists has all that it needs.
        """
        number = len(self.records) + 1
        whole = dict(described) | ({"revision": number} if number > 1 else {})
        if retry:
            whole["retry"] = identity.sha256({"items": list(retry)})
        if planned is not None:
            whole["round"] = identity.sha256(planned.model_dump(mode="json"))
        for name, template in templates.items():  # some may be left over from a start that died
            self.folder.replace_atomically(Path(prompts_name(number)) / name, template)
        content: dict[str, Any] = {
            "format": FORMAT,
            "sha256": identity.sha256(whole),
            "sample": described["sample"],
            "identity": whole,
            "job": job.as_json(),
            "base": str(job.base),
            "inputs": [asdict(each) for each in inputs],
        }
        if retry:
            content["retry"] = list(retry)
        if planned is not None:
            content["round"] = planned.model_dump(mode="json")
        if job.code is not None:
            content["code"] = str(job.code)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        self.folder.put_if_absent(file_name(number), text.encode())
        return self.record(number)

    def totals(self, record: Record | None = None) -> dict[str, int] | None:
        """Shards, passages (or pairs), rows in and rejected of all parts up to a revision's, by default the last.

        None while step 0 has not finished that part. Raises OutputError when the file is damaged.
        """
        record = record or self.last
        if record.number not in self._totals:
            path = self.folder.path / totals_name(record)
            try:
                found = {str(key): int(value) for key, value in json.loads(path.read_bytes()).items()}
            except FileNotFoundError:
                return None
            except (OSError, ValueError, TypeError, AttributeError) as exc:
                hint = "Remove it and run again: step 0 counts anew."
                raise OutputError(f"{path}: is damaged ({exc}).", hint) from exc
            self._totals[record.number] = found
        return dict(self._totals[record.number])

    def put_totals(self, record: Record, totals: Mapping[str, int]) -> None:
        self.folder.put_if_absent(totals_name(record), (json.dumps(dict(totals), indent=2) + "\n").encode())

    def parts(self) -> Parts:
        """The parts that are complete. Raises OutputError."""
        found: list[Part] = []
        shards = first = 0
        for record in self.records:
            if (sums := self.totals(record)) is None:
                break
            end = sums["pairs" if record.existing else "passages"]
            size = int(record.identity["shard_size"])
            within = range(shards, sums["shards"])
            found.append(Part(record.number, within, first, end, size, bool(record.retry), record.round))
            shards, first = sums["shards"], end
        return Parts(found)


def _read(folder: OutputFolder, number: int) -> Record:
    path = folder.path / file_name(number)
    try:
        found = json.loads(path.read_bytes())
        if found["format"] > FORMAT:
            raise OutputError(f"{path}: was written by a newer synth (format {found['format']}).", "Upgrade synth.")
        record = Record.model_validate(found | {"number": number})
    except FileNotFoundError as exc:
        what = f"{folder.path} is not the folder of a run" if number == 1 else "later revisions are there"
        raise OutputError(f"{path}: is not there; {what}.") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", _RESTORE) from exc
    if identity.sha256(record.identity) != record.sha256:
        raise OutputError(f"{path}: is damaged: its identity does not match its own hash.", _RESTORE)
    return record


def in_order(before: Record | None, now: Sequence[InputFile]) -> list[InputFile]:
    """The inputs of today in the order of before, those that came since at the end: so positions never move."""
    known = {each.key: n for n, each in enumerate(before.inputs if before else ())}
    return sorted(now, key=lambda each: known.get(each.key, len(known)))


def compare(before: Record, described: Mapping[str, Any], inputs: Sequence[InputFile]) -> Changes:
    """How today's job, described over `inputs` in their lasting order, differs from a revision."""
    old, new = before.settings, dict(described)
    forbidden: list[str] = []
    for key in _FIXED:
        forbidden += identity.differences({key: old.pop(key, None)}, {key: new.pop(key, None)})
    today = {each.key: each for each in inputs}
    for n, was in enumerate(before.inputs):
        is_now = today.get(was.key)
        if is_now is None:
            forbidden.append(f"inputs.{n}: {was.path} was removed")
        elif is_now.sha256 != was.sha256:
            change = f"{was.sha256[:_SHOWN]} -> {is_now.sha256[:_SHOWN]}"
            forbidden.append(f"inputs.{n}.sha256: {is_now.path} changed, {change}")
    added = list(inputs)[len(before.inputs) :]
    if added and before.sample is not None:
        forbidden.append(f"inputs: {added[0].path} is new, and a sample is not extended")
    old.pop("inputs", None)
    new.pop("inputs", None)
    settings: list[str] = []
    for key in _LISTS:
        first, then = list(old.pop(key, None) or []), list(new.pop(key, None) or [])
        forbidden += [f"{key}.{n}: is gone" for n in range(len(then), len(first))]
        settings += identity.differences({key: first[: len(then)]}, {key: then[: len(first)]})
    # shards of one folder are read together, so all have the same columns
    carried, carried_now = (
        {name for entry in found.get("corpus") or () for name in entry.get("carry") or ()}
        for found in (before.identity, described)
    )
    forbidden += [f"corpus.carry: {name} was not carried before" for name in sorted(carried_now - carried)]
    return Changes(sorted([*settings, *identity.differences(old, new)]), forbidden, added)


def refuse(folder: OutputFolder, changes: Changes, *, go_on: bool) -> None:
    """Raises OutputError naming the changes unless there are none, or `go_on` and all of them are allowed."""
    if not changes or (go_on and not changes.forbidden):
        return
    lines = changes.forbidden if go_on else changes.lines()
    told = f" {lines[0]}." if len(lines) == 1 else "\n  " + "\n  ".join(lines) + "\n"
    cure = "put that back: no revision can change it" if changes.forbidden else "--continue to go on with the new ones"
    hint = f"Use -o for another folder, or {cure}."
    raise OutputError(f"{folder.path} was started with other settings:{told}", hint)


@dataclass(frozen=True, slots=True)
class Part:
    """The shards that one revision added: all hold `size` rows but for the last, whose rows end before `end`."""

    number: int
    shards: range
    first: int
    end: int
    size: int
    retry: bool
    """Whether its rows are items asked again, one slot each."""
    round: Round | None = None
    """What its rows ask for, where they are those of a round."""

    def rows(self, index: int) -> int:
        """Passages (or pairs) of a shard."""
        return len(range(self.first, self.end)[self._place(index)])

    def items(self, index: int, slots: int) -> int:
        """Items of a shard, where passages of the input have so many `slots`."""
        if self.round is None:
            return self.rows(index) * (1 if self.retry else slots)
        return int(np.diff(self.round.starts)[self._place(index)].sum())

    def planned(self, index: int) -> Sequence[tuple[int, dict[int, dict[str, str]]]]:
        """For each row of a shard of a round: the position of its passage, and what each of its slots asks for."""
        assert self.round is not None  # noqa: S101 - the caller has looked
        place = self._place(index)
        rows = enumerate(self.round.passages[place].tolist(), place.start)
        return [(passage, self.round.row(n)) for n, passage in rows]

    def _place(self, index: int) -> slice:
        start = (index - self.shards.start) * self.size
        return slice(start, start + self.size)


@dataclass(frozen=True, slots=True)
class Parts:
    """The finished parts in order."""

    parts: Sequence[Part]

    @property
    def shards(self) -> int:
        return self.parts[-1].shards.stop if self.parts else 0

    @property
    def several(self) -> bool:
        """Whether shards were appended since the run began."""
        return sum(bool(part.shards) for part in self.parts) > 1

    def of_shard(self, index: int) -> Part:
        return next(part for part in self.parts if index in part.shards)

    def shard_of(self, position: int) -> int:
        """The shard that holds a position."""
        filled = [part for part in self.parts if part.end > part.first]
        part = filled[bisect_right([each.first for each in filled], position) - 1]
        return part.shards.start + (position - part.first) // part.size


def totals_name(record: Record) -> str:
    """The file that says that a revision's part is complete."""
    return file_name(record.number, "index/pairs" if record.existing else "index/passages")


def require_same_columns(folder: OutputFolder, job: Job, sets: Sequence[PairSet], before: Record) -> None:
    """Raises OutputError where appended pairs would bring columns, or types, that the shards of before do not have."""
    known = {each.key for each in before.inputs}
    old = [
        replace(each, files=kept) for each in sets if (kept := tuple(file for file in each.files if file.key in known))
    ]
    if new := sorted(_columns(job, sets) - _columns(job, old)):
        what = f"{folder.path}: the appended data bring columns that its shards do not have: {', '.join(new)}."
        raise OutputError(what, "Leave them out with data.carry, or choose another folder with -o.")


def _columns(job: Job, sets: Sequence[PairSet]) -> set[str]:
    names = {f"{each.name} ({each.type})" for each in pairs_schema(sets, job.read_limits())}
    names |= {"label" for each in sets if each.label is not None}
    return names | {"lists of positives" for each in sets if each.kind in ("flag", "messages")}


_FILE = "index/quality.json"


class Quality(TypedDict):
    """Two sections of a job; `keep` is None where `synth keep` has filled `kept/` since, which tells its own rules."""

    scores: Any
    keep: Any


def read_rules(folder: OutputFolder) -> Quality | None:
    """What was used last, None where nobody has written that down. Raises OutputError when the file is damaged."""
    path = folder.path / _FILE
    try:
        found = json.loads(path.read_bytes())
        return {"scores": found["scores"], "keep": found["keep"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it, then run with the job file.") from exc


def write_rules(folder: OutputFolder, used: Quality) -> None:
    folder.replace_atomically(_FILE, (json.dumps(used, indent=2, ensure_ascii=False) + "\n").encode())
