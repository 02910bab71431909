"""What a run recorded before it began: job.json and its revisions, prompt copies, the list of inputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from synth.verify.files import MARKS, REVISION, Layout, Report, Unreadable, open_regular, sha256_of, sha256_of_json

_BEIR = {"corpus", "queries", "qrels"}
_NEEDED = frozenset({"format", "sha256", "sample", "identity", "job", "base", "inputs"})


@dataclass(frozen=True, slots=True)
class Record:
    """One revision: `sha256` names it in the shards made under it."""

    number: int
    file: Path
    sha256: str
    identity: Mapping[str, Any]
    inputs: tuple[Mapping[str, Any], ...]
    sample: int | None
    planned: Sequence[int] | None = None
    """Of a round of a target: the items of each of its passages."""

    @property
    def slots(self) -> int | None:
        """Queries asked for each passage of the inputs; None where the job generates none."""
        task = self.identity.get("task")
        if self.identity.get("target"):
            return 0  # they are asked in rounds
        return task.get("queries_per_passage") if isinstance(task, dict) else None

    @property
    def existing(self) -> bool:
        """Whether this is a pass over external pairs: then `generated/` is step 0 and `passages/` is absent."""
        return "data" in self.identity

    @property
    def shard_size(self) -> int | None:
        return self.identity.get("shard_size")


@dataclass(frozen=True, slots=True)
class Records:
    """All revisions in order, and the totals of step 0, which are None while it is unfinished."""

    revisions: tuple[Record, ...]
    totals: Mapping[str, int] | None
    totals_file: Path

    @property
    def last(self) -> Record | None:
        return self.revisions[-1] if self.revisions else None

    @property
    def existing(self) -> bool:
        return self.last is not None and self.last.existing

    @property
    def input_rows(self) -> int | None:
        """Rows that step 0 must account for; None if an input has no recorded row count."""
        if self.last is None or any(each.get("rows") is None for each in self.last.inputs):
            return None
        roles: dict[int, set[str]] = {}
        for each in self.last.inputs if self.existing else ():
            roles.setdefault(each["corpus_index"], set()).add(_role(each))
        # Of a BEIR or MTEB folder only the judgements become pairs.
        rows = sum(
            int(each["rows"])
            for each in self.last.inputs
            if roles.get(each.get("corpus_index", -1)) != _BEIR or _role(each) == "qrels"
        )
        if part := self.last.identity.get("part"):  # the arc of a circle on which rows lie golden ratios apart
            turn = int(self.last.identity["seed"]) * 0xBF58476D1CE4E5B9
            places = ((row * 0x9E3779B97F4A7C15 + turn) % 2**64 for row in range(rows))
            rows = sum(part[0] * 2**64 <= place < part[1] * 2**64 for place in places)
        return rows if self.last.sample is None else min(rows, self.last.sample)


def read_records(layout: Layout, report: Report) -> Records:
    """Read job.json, its revisions and the totals of step 0."""
    revisions = ((path.name, REVISION.fullmatch(path.name)) for path in layout.root.iterdir())
    names = {"job.json": 1} | {name: int(match[1]) for name, match in revisions if match}
    read = (_read(layout.root / name, number, report) for name, number in names.items())
    found = sorted((each for each in read if each is not None), key=lambda each: each.number)
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        report.blame(layout.root / "job.json", f"revisions {sorted(names.values())} are not numbered without a gap")
    if found:
        names_shown = ", ".join(each.sha256[:8] for each in found)
        report.facts.append(("job.json", f"{len(found)} revision{'s' * (len(found) > 1)}, identity {names_shown}"))
    stem = "pairs" if found and found[-1].existing else "passages"
    totals = layout.root / "index" / (f"{stem}.{len(found)}.json" if len(found) > 1 else f"{stem}.json")
    counts = None
    try:
        data = json.loads(totals.read_bytes())
        counts = {name: int(data[name]) for name in ("shards", "rows_in", "rejected")}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as exc:
        report.blame(totals, f"cannot be read ({exc!r})")
    return Records(tuple(found), counts, totals)


def labels_of(record: Record, root: Path, report: Report) -> frozenset[str] | None:
    """The labels that pairs of a revision have one of; None where its task has none or a file names them.

    Labels that the model proposed are in `prepared.json`, which is checked here.
    """
    task = record.identity.get("task") or {}
    given = task.get("labels") if task.get("use") == "classification" else {}
    if given is None:
        path = root / "prepared.json"
        try:
            content = json.loads(path.read_bytes())
            given = content["prepared"]["labels"]
            if sha256_of_json(content["prepared"]) != content["sha256"]:
                report.blame(path, "its content does not match its own hash")
        except FileNotFoundError:
            report.blame(path, "is missing, although shards were made from it")
        except (OSError, ValueError, LookupError, TypeError) as exc:
            report.blame(path, f"cannot be read ({exc!r})")
    return frozenset(given) if isinstance(given, dict) and given else None


def check_prompts(layout: Layout, records: Records, report: Report) -> None:
    """Compare the copied templates with the hashes in the identity."""
    checked = 0
    for record in records.revisions:
        folder = layout.root / f"prompts.{record.number}"
        folder = folder if record.number > 1 and folder.is_dir() else layout.root / "prompts"
        wanted: Mapping[str, str] = record.identity.get("templates") or {}
        for name, digest in wanted.items():
            try:
                if sha256_of(folder / name) != digest:
                    report.blame(folder / name, f"differs from the template recorded in {record.file.name}")
            except Unreadable as exc:
                report.blame(folder / name, f"cannot be read ({exc})")
            checked += 1
        if folder.is_dir():
            known = {name for each in records.revisions for name in each.identity.get("templates") or {}}
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.relative_to(folder).as_posix() not in known:
                    report.note(path, "is not a template of the run")
    report.facts.append(("prompts", f"{checked} templates compared with the identity"))


def _role(file: Mapping[str, Any]) -> str:
    part = str(file["relative"]).split("/")[0].split(".")[0]
    return "qrels" if part == "data" else part


def check_inputs(records: Records, report: Report) -> None:
    """Compare the input files with what was recorded: by size and time, by hash where those differ or in deep mode."""
    hashed = 0
    inputs = records.last.inputs if records.last else ()
    for each in inputs:
        if each.get("kind") == "hub":
            continue
        path = Path(str(each["path"]))
        try:
            status = path.stat()
        except OSError as exc:
            report.note(path, f"the input cannot be compared ({exc.strerror}); its rows are in passages/")
            continue
        if not report.deep and (status.st_size, status.st_mtime_ns) == (each["size"], each["mtime_ns"]):
            continue
        hashed += 1
        try:
            with path.open("rb") as file:  # which may be a link
                same = hashlib.file_digest(file, "sha256").hexdigest() == each["sha256"]
        except OSError:
            same = False
        if not same:
            report.blame(path, "the input differs from the file that the run recorded")
    rest = f", {hashed} of them by hash" if hashed else " by size and time"
    report.facts.append(("inputs", f"{len(inputs)} compared with job.json{rest}"))


def _read(path: Path, number: int, report: Report) -> Record | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        report.blame(path, f"cannot be read ({exc})")
        return None
    if not isinstance(data, dict) or not data.keys() >= _NEEDED or not isinstance(data["identity"], dict):
        report.blame(path, "is not the record of a run")
        return None
    identity = data["identity"]
    if sha256_of_json(identity) != data["sha256"]:
        report.blame(path, "its identity does not match its own hash")
    planned = data.get("round")
    if planned is not None and sha256_of_json(planned) != identity.get("round"):
        report.blame(path, "its round does not match the hash in its identity")
    for key in _contradictions(data, identity):
        report.blame(path, f"{key} differs between its `job` and its `identity`")
    return Record(number, path, str(data["sha256"]), identity, tuple(data["inputs"]), data["sample"], _items(planned))


def _items(planned: Mapping[str, Any] | None) -> list[int] | None:
    return None if planned is None else [len([*each]) for _, each in groupby(planned["positions"])]


def _contradictions(data: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ between job and identity; both are written at once, so one was edited."""
    job = data["job"] if isinstance(data["job"], dict) else {}
    run = job.get("run") or {}
    plain = {"seed": job.get("seed"), "shard_size": run.get("shard_size"), "sample": data["sample"]}
    plain["part"] = job.get("part")
    wrong = [key for key, value in plain.items() if key in identity and identity[key] != value]
    recorded = [each.get("sha256") for each in data["inputs"]]
    if "inputs" in identity and [each.get("sha256") for each in identity["inputs"]] != recorded:
        wrong.append("inputs")
    for section in ("task", "llm"):
        mine, theirs = identity.get(section) or {}, job.get(section) or {}
        if isinstance(theirs, list):
            continue  # several language models, each with options of its own
        scalars = [key for key, value in theirs.items() if isinstance(value, str | int | float | bool)]
        skipped = {"use", "examples", "prompts"}
        wrong += [f"{section}.{key}" for key in scalars if key in mine.keys() - skipped and mine[key] != theirs[key]]
    return wrong


def check_marks(root: Path, report: Report) -> None:
    """A line of marks that a kill cut off is a note, for every other line holds."""
    path = root / MARKS
    if not os.path.lexists(path):
        return
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines()
    except Unreadable as exc:
        report.blame(path, str(exc))
        return
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)["id"]
        except (ValueError, LookupError, TypeError):
            report.note(path, f"line {number} is not a mark, as a kill may leave one; it is passed over")
