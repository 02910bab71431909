"""What the tables of bad input share: a job without servers, run through the command line, and what is left of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from synth.cli import main

GOOD = "A passage about harbours, ferries and tides that is long enough to ask something of, number {}."


@dataclass(frozen=True)
class Case:
    """One row of the catalogue: what is given, and the stated result."""

    id: str
    make: Callable[[Path], Mapping[str, Any] | None]
    """Writes the input; returns what the job says otherwise than `job` does."""
    code: int = 0
    said: tuple[str, ...] = ()
    """What stands in the output, in any order."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reasons of rejected rows, with counts."""
    passages: int | None = None
    after: Callable[[Path], None] | None = None
    """Looks into the output folder."""
    command: str = "run"

    def __str__(self) -> str:
        return self.id


def job(folder: Path) -> dict[str, Any]:
    """A job that needs no server and no embedder."""
    return {
        "corpus": {"path": str(folder / "in.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "scores": [{"use": "length"}],
        "keep": {},
        "limits": {"max_unusable_share": 1},
        "run": {"shard_size": 8},
    }


def good(count: int = 3, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"d{n}", "text": GOOD.format(n)} for n in range(first, first + count)]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def raw(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"".join(record + b"\n" for record in records))
    return path


def line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode()


def rows(out: Path, step: str) -> list[dict[str, Any]]:
    return [row for path in sorted((out / step).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def run(case: Case, folder: Path, capsys: Any) -> Path:
    """Run the case and compare with what it states; returns the output folder."""
    changes = case.make(folder) or {}
    settings = job(folder)
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(settings.get(key), dict) else value
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    out = folder / "out"
    arguments = [case.command, str(path)] + (["-o", str(out)] if case.command == "run" else [])
    code = main(arguments)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said, said
    assert code == case.code, said
    for words in case.said:
        assert words in said, f"{words!r} is not said in:\n{said}"
    if code == 0 and case.command == "run":
        balance(out, case)
    if case.after is not None:
        case.after(out)
    return out


def balance(out: Path, case: Case) -> None:
    """Rows in = passages' rows + rejected; items = pairs + rejected."""
    totals = json.loads((out / "index" / "passages.json").read_text("utf-8"))
    refused = Counter(row["reason"] for row in rows(out, "rejected/passages"))
    made = rows(out, "passages")
    assert totals["rows_in"] == sum(row["chunk"] == 0 for row in made) + refused.total()
    assert dict(refused) == dict(case.rejected)
    assert len(made) == len(rows(out, "generated")) + len(rows(out, "rejected/generated"))
    if case.passages is not None:
        assert len(made) == case.passages


def parquet(path: Path, values: pa.Array | pa.ChunkedArray | list[Any], **options: Any) -> Path:
    pq.write_table(pa.table({"text": values}), path, **options)
    return path
