"""Judges a finished run by its files and the server's request log alone: lost, doubled, wrong, different, repeated.

Imports nothing of `synth`, neither what writes nor `synth verify`, so that no mistake can be shared.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

STEPS = ("passages", "generated", "scores", "kept", ".rejects")


@dataclass
class Audit:
    """Each list names what broke a promise; all of them are empty for a run that kept it."""

    items: int = 0
    pairs: int = 0
    rejected: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    requests: int = 0
    repeated: int = 0
    """Requests that were sent again though nothing on the server's side had failed."""

    def broken(self) -> dict[str, list[str]]:
        names = ("lost", "doubled", "wrong", "different")
        return {name: getattr(self, name)[:5] for name in names if getattr(self, name)}

    def __str__(self) -> str:
        return (
            f"{self.items} items = {self.pairs} pairs + {self.rejected} rejected; lost {len(self.lost)}, doubled "
            f"{len(self.doubled)}, wrong {len(self.wrong)}, shards unlike the clean run {len(self.different)}; "
            f"{self.requests} chat requests, {self.repeated} repeated"
        )


def audit(out: Path, *, slots: int, rows: int, log: Path | None = None, clean: Path | None = None) -> Audit:
    """Judge `out`: `rows` input rows, `slots` items a passage; `clean` is a run without faults to be equal to."""
    found = Audit()
    passages = {row["position"]: row for row in _rows(out / "passages")}
    begun = {(row["source"], row["source_row"]) for row in passages.values()}
    refused = [(row["source"], row["source_row"]) for row in _rows(out / "rejected" / "passages")]
    _once(found, "row", [*begun, *refused], expected=rows)
    pairs = list(_rows(out / "generated"))
    unusable = list(_rows(out / "rejected" / "generated"))
    found.items, found.pairs, found.rejected = len(passages) * slots, len(pairs), len(unusable)
    ids = [row["id"] for row in (*pairs, *unusable)]
    wanted = {f"{position}-{slot}" for position in passages for slot in range(slots)}
    _compare(found, "item", ids, wanted)
    for folder in sorted((out / "scores").iterdir()):
        _compare(found, folder.name, [row["id"] for row in _rows(folder)], {row["id"] for row in pairs})
    judged = [*_rows(out / "kept"), *_rows(out / "rejected" / "kept")]
    _compare(found, "judged pair", [row["id"] for row in judged], {row["id"] for row in pairs})
    _texts(found, pairs, judged, passages)
    if log is not None:
        _requests(found, log, pairs)
    if clean is not None:
        _same(found, out, clean)
    return found


def shards(folder: Path) -> list[Path]:
    """What a reader who globs would read."""
    return sorted(folder.glob("*.parquet"))


def read_all(out: Path) -> int:
    """Read every page of every file under a final name, as a reader may at any moment; returns the rows.

    Raises whatever pyarrow raises for a file that is not whole.
    """
    return sum(pq.read_table(path, page_checksum_verification=True).num_rows for path in _final(out))


def _final(out: Path) -> Iterator[Path]:
    for step in STEPS:
        yield from sorted((out / step).rglob("*.parquet"))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in shards(folder):
        yield from pq.read_table(path, page_checksum_verification=True).to_pylist()


def _once(found: Audit, what: str, keys: list[Any], *, expected: int) -> None:
    found.doubled += [f"{what} {key}" for key, count in Counter(keys).items() if count > 1]
    if len(set(keys)) < expected:
        found.lost.append(f"{expected - len(set(keys))} {what}s of {expected}")


def _compare(found: Audit, what: str, ids: list[str], wanted: set[str]) -> None:
    found.lost += [f"{what} {each}" for each in sorted(wanted - set(ids))]
    found.doubled += [f"{what} {each}" for each, count in Counter(ids).items() if count > 1]
    found.wrong += [f"{what} {each} is nobody's" for each in sorted(set(ids) - wanted)]


def _texts(
    found: Audit, pairs: list[dict[str, Any]], judged: list[dict[str, Any]], passages: dict[int, dict[str, Any]]
) -> None:
    queries = {row["id"]: (row["query"], row["passage"]) for row in pairs}
    for row in pairs:
        passage = passages.get(int(row["id"].split("-")[0]))
        if passage is None or (row["passage"], row["passage_id"]) != (passage["text"], passage["id"]):
            found.wrong.append(f"{row['id']} has another's passage")
    for row in judged:
        if queries.get(row["id"]) != (row["query"], row["passage"]):
            found.wrong.append(f"{row['id']} was changed on the way to the view")


def _requests(found: Audit, log: Path, pairs: list[dict[str, Any]]) -> None:
    """Count repeats, and look for each query among the replies that the server gave for that very item."""
    outcomes: dict[int, str] = {}
    asked: dict[int, list[int]] = defaultdict(list)
    said: dict[str, set[str]] = defaultdict(set)
    item: dict[int, str] = {}
    for text in log.read_text("utf-8").splitlines():
        line = json.loads(text)
        number = line["id"]
        if line["event"] == "came" and line["path"] == "/chat/completions" and line["seed"]:
            asked[line["seed"]].append(number)
            if line["item"] is not None and line["item"][0] == "query":
                item[number] = f"{line['item'][1]}-{line['item'][2]}"
        elif line["event"] != "came":
            outcomes[number] = line.get("outcome", line["event"])
            if number in item and line.get("reply"):
                said[item[number]].add(line["reply"])
    found.requests = sum(map(len, asked.values()))
    for numbers in asked.values():
        found.repeated += sum(outcomes.get(number, "gone") in ("ok", "gone") for number in numbers[:-1])
    for row in pairs if item else []:
        if not any(json.dumps(row["query"], ensure_ascii=False) in reply for reply in said[row["id"]]):
            found.wrong.append(f"{row['id']} has a query that the server did not give for it")


def _same(found: Audit, out: Path, clean: Path) -> None:
    digests = [
        {str(path.relative_to(at)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _final(at)}
        for at in (out, clean)
    ]
    found.different = sorted(name for name, _ in digests[0].items() ^ digests[1].items())
