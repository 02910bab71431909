"""The fault server and the auditor, tried on each other: a run under faults is whole, and every loss is noticed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from synth.cli import main

from .auditor import audit, read_all
from .server import CONTENT, TRANSPORT, FaultServer, Items, Profile, _drawn

pytestmark = pytest.mark.faults

ROWS, SLOTS, ATTEMPTS, SEED = 24, 2, 3, 11
POISONED = "2-1"
TRADES = ["glazing", "thatching", "surveying", "baking", "dyeing", "ploughing", "soldering", "printing", "mapping"]


def start(home: Path, profile: Profile, name: str) -> Path:
    """A run against a server of that profile; returns its folder, the log lies beside it."""
    rows = [
        {"id": f"r{n}", "text": f"Note {n}: {TRADES[n % 9]} needs {n} tools, a dry room and {n + 3} patient days."}
        for n in range(ROWS - 1)
    ]
    rows.append({"id": "empty", "text": " "})
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    log = home / f"{name}.log"
    with FaultServer(profile, log, Items(SEED, ROWS, SLOTS, ATTEMPTS)).serving() as url:
        job = {
            "seed": SEED,
            "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
            "personas": None,
            "llm": {"use": "vllm_server", "model": "faulty", "base_urls": [url]},
            "embed": {"use": "vllm_server", "model": "faulty", "base_urls": [url]},
            "task": {"use": "retrieval", "queries_per_passage": SLOTS, "attempts": ATTEMPTS},
            "keep": {"cosine": {"above": 0.6}},
            "run": {"shard_size": 6, "concurrency": 16, "request_timeout": 2.0},
        }
        (home / f"{name}.yaml").write_text(yaml.safe_dump(job), "utf-8")
        assert main(["run", str(home / f"{name}.yaml"), "-o", str(home / name), "--json"]) == 0
    return home / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clean`: only content faults, which decide what comes out. `mixed`: the same, and a failing transport."""
    home = tmp_path_factory.mktemp("faults")
    content = replace(Profile(content=CONTENT, poisoned=0.03, poison=("content",)), seed=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        start(home, content, "clean")
        start(home, replace(content, transport=TRANSPORT, hang=2.5), "mixed")
    return home


def events(log: Path) -> Counter[str]:
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return Counter(line.get("outcome", line["event"]) for line in lines)


def test_a_run_under_mixed_faults_equals_the_clean_one(runs: Path) -> None:
    found = audit(runs / "mixed", slots=SLOTS, rows=ROWS, log=runs / "mixed.log", clean=runs / "clean")
    print(found, dict(events(runs / "mixed.log")))  # noqa: T201 - the figures of this test
    assert found.broken() == {}
    assert found.repeated == 0
    assert found.items == (ROWS - 1) * SLOTS
    assert read_all(runs / "mixed") > 0
    assert sum(events(runs / "mixed.log")[name] for name in TRANSPORT) > 5
    assert sum(events(runs / "clean.log")[name] for name in TRANSPORT if name != "500") == 0


def test_poisoned_items_are_rejected_with_all_their_attempts(runs: Path) -> None:
    rejected = {row["id"]: row for row in pq.read_table(runs / "mixed/rejected/generated").to_pylist()}
    assert POISONED in rejected
    replies = [each["reply"] for each in rejected[POISONED]["attempts"] if each["stage"] == "query"]
    assert len(replies) == ATTEMPTS
    assert all(replies)


def _change(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(change(table), path)


def _query(table: pa.Table) -> pa.Table:
    place = table.column_names.index("query")
    field = table.schema.field("query")
    return table.set_column(place, field, pa.array(["made up", *table["query"].to_pylist()[1:]], field.type))


MUTILATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard is gone": (lambda out: (out / "generated/00000001.parquet").unlink(), "lost"),
    "a pair is gone": (lambda out: _change(out / "generated/00000001.parquet", lambda t: t.slice(1)), "lost"),
    "a row is gone": (lambda out: _change(out / "passages/00000001.parquet", lambda t: t.slice(1)), "lost"),
    "rejected rows are gone": (lambda out: shutil.rmtree(out / "rejected/kept"), "lost"),
    "a pair comes twice": (
        lambda out: _change(out / "generated/00000001.parquet", lambda t: pa.concat_tables([t, t.slice(3, 1)])),
        "doubled",
    ),
    "a shard comes twice": (
        lambda out: shutil.copy(out / "kept/00000001.parquet", out / "kept/00000009.parquet"),
        "doubled",
    ),
    "a query is made up": (lambda out: _change(out / "generated/00000001.parquet", _query), "wrong"),
    "one byte differs": (
        lambda out: _change(out / "scores" / _first(out) / "00000001.parquet", lambda t: t),
        "different",
    ),
}


def _first(out: Path) -> str:
    return min(path.name for path in (out / "scores").iterdir())


@pytest.mark.parametrize("name", MUTILATIONS)
def test_the_auditor_notices(runs: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(runs / "mixed", out)
    mutilate, promise = MUTILATIONS[name]
    mutilate(out)
    found = audit(out, slots=SLOTS, rows=ROWS, log=runs / "mixed.log", clean=runs / "clean")
    assert promise in found.broken()


def test_the_auditor_counts_repeated_requests(runs: Path, tmp_path: Path) -> None:
    """What was answered, or was under way when the client died, and came again."""
    lines = [json.loads(line) for line in (runs / "mixed.log").read_text("utf-8").splitlines()]
    came = next(
        line for line in lines if line["event"] == "came" and line["path"] == "/chat/completions" and line["seed"]
    )
    lines += [came | {"id": 10**6 + n, "delivery": 9 + n} for n in range(3)]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    found = audit(runs / "mixed", slots=SLOTS, rows=ROWS, log=tmp_path / "log")
    before = audit(runs / "mixed", slots=SLOTS, rows=ROWS, log=runs / "mixed.log")
    assert found.requests == before.requests + 3
    assert 2 <= found.repeated <= 3


def test_the_auditor_reads_whole_files_only(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(runs / "clean", out)
    (out / "kept/00000009.parquet").write_bytes((out / "kept/00000001.parquet").read_bytes()[:-9])
    with pytest.raises((OSError, pa.ArrowException)):
        read_all(out)


def test_faults_have_the_shares_that_are_promised() -> None:
    assert sum(TRANSPORT.values()) + sum(CONTENT.values()) == 200
    drawn = Counter(_drawn(TRANSPORT | CONTENT, 1, "share", n) for n in range(40_000))
    for name, share in (TRANSPORT | CONTENT).items():
        assert drawn[name] / 40 == pytest.approx(share, rel=0.35)


def test_the_server_runs_as_a_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.faults.server", "--profile", "clean", "--log", str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/models", timeout=10) as reply:  # noqa: S310 - loopback
            assert json.load(reply)["data"][0]["id"] == "faulty"
        body = json.dumps({"text_1": "a", "text_2": ["b", "c"]}).encode()
        request = urllib.request.Request(f"{url}/score", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - loopback
            assert len(json.load(reply)["data"]) == 2
        process.kill()
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == ["came", "answered"]
