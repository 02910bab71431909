"""T15: a real vLLM killed with -9 in the middle of a run, and started again: no item pays for it.

When it dies a first shard is done, 24 requests are in flight and the rest is not begun. An item has one attempt, so a
single error that counted against it would end it and show here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from processes import GENERATOR, Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PASSAGES = 200
MADE_BY_NOISE = {
    "exhausted",
    "control",
    "duplicate",
    "echo",
    "empty",
    "repetition",
    "run_on",
    "surrogate",
    "truncated",
    "type",
}
"""What is wrong with replies of random weights; a server that is away would show as `server_error`."""
THINGS = ["bell", "oven", "canal", "quay", "orchard", "loom", "kiln", "forge", "mill", "well"]


def write_job(home: Path, url: str) -> Path:
    texts = [
        f"Report {n}: the {THINGS[n % 10]} of house {n} was mended after {n + 2} years of rain."
        for n in range(PASSAGES)
    ]
    rows = [json.dumps({"id": f"p{n}", "text": text}) for n, text in enumerate(texts)]
    (home / "passages.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    job = {
        "corpus": {"path": str(home / "passages.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "vllm_server", "model": GENERATOR, "base_urls": [url], "max_tokens": 512},
        "task": {"use": "retrieval", "attempts": 1},
        "scores": [{"use": "length"}],
        "keep": {},
        "limits": {"max_unusable_share": 1.0},
        "run": {"shard_size": 25, "concurrency": 24},
    }
    path = home / "job.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    return path


def test_a_server_that_is_killed_and_comes_back_costs_no_item(generator: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "synth", "run", str(write_job(tmp_path, generator.url)), "-o", str(out), "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    tick = threading.Event()
    while len(list((out / "generated").glob("*.parquet"))) < 1:
        assert process.poll() is None, process.stderr.read()
        tick.wait(0.05)
    generator.kill()
    told: list[str] = []
    for line in process.stderr:
        told.append(line)
        if "waiting up to" in line:
            break
    generator.start_again()
    generator.wait()
    summary, rest = process.communicate(timeout=600)
    told.append(rest)
    assert process.returncode == 0, "".join(told)
    assert "is back" in "".join(told)
    check(out, json.loads(summary.splitlines()[-1]))


def check(out: Path, summary: dict[str, Any]) -> None:
    """Every item once, and none rejected for what the server did."""
    pairs = pl.read_parquet(out / "generated" / "*.parquet")
    refused = pl.read_parquet(out / "rejected" / "generated" / "*.parquet")
    ids = [*pairs["id"], *refused["id"]]
    assert sorted(ids) == sorted(f"{position}-0" for position in range(PASSAGES))
    assert set(refused["reason"]) <= MADE_BY_NOISE
    assert summary["items"] == PASSAGES
    reasons = {reason: refused["reason"].to_list().count(reason) for reason in set(refused["reason"])}
    counts = f"{PASSAGES} items = {pairs.height} pairs + {refused.height} rejected for what the noise says"
    print(f"\nT15: {counts}: {reasons}")  # noqa: T201 - the figures are what the test is for
