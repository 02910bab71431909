"""T15: a real vLLM killed with -9 in the middle of a run of 200 passages, and started again: no item pays for it."""

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
from processes import CONTEXT, GENERATOR, STRUCTURED, Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PASSAGES = 200
MADE_BY_NOISE = {"control", "duplicate", "echo", "empty", "surrogate", "truncated", "type"}
"""What is wrong with replies of random weights; a server that is away would show as `server_error`."""
THINGS = ["bell", "oven", "canal", "quay", "orchard", "loom", "kiln", "forge", "mill", "well"]


@pytest.fixture
def vllm(vllm_python: str, vllm_environment: dict[str, str], tiny_model: Path, tmp_path: Path) -> Any:
    """Starts the tiny generator, always on the same port; `processes` holds what was started."""
    started: list[Server] = []
    options = ["--model", str(tiny_model), "--served-model-name", GENERATOR, "--max-model-len", str(CONTEXT)]
    options += ["--structured-outputs-config", STRUCTURED, "--no-enable-chunked-prefill"]
    options += ["--max-num-batched-tokens", str(CONTEXT)]

    def start() -> Server:
        port = started[0].port if started else 0
        log = tmp_path / f"vllm-{len(started)}.log"
        started.append(Server.start(vllm_python, options, vllm_environment, log, port))
        started[-1].wait()
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


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
        "scores": [{"use": "length"}],
        "keep": {},
        "limits": {"unusable": 1.0},
        "run": {"shard_size": 50, "concurrency": 48},
    }
    path = home / "job.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    return path


def test_a_server_that_is_killed_and_comes_back_costs_no_item(vllm: Any, tmp_path: Path) -> None:
    server = vllm()
    out = tmp_path / "out"
    command = [sys.executable, "-m", "synth", "run", str(write_job(tmp_path, server.url)), "-o", str(out), "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    tick = threading.Event()
    while len(list((out / "generated").glob("*.parquet"))) < 1:
        assert process.poll() is None, process.stderr.read()
        tick.wait(0.05)
    server.kill()
    told: list[str] = []
    for line in process.stderr:
        told.append(line)
        if "waiting up to" in line:
            break
    vllm()
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
