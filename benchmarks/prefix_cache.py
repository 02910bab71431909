"""Prompt tokens that a real vLLM computes for one pair: shipped templates against the report's order of fields.

Needs the CPU build of vLLM (tests/vllm/README.md); SYNTH_VLLM_PYTHON names its Python. The KV cache is kept small on
purpose: the passages of a run exceed it four times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import client_cost
import measure
import texts
import yaml
from measure import HERE

TESTS = HERE.parent / "tests" / "vllm"
BLOCK, BLOCKS = 32, 1250
IN_FLIGHT = 16
LAYOUTS = {"report's order": HERE / "report_prompts" / "retrieval", "shipped": HERE.parent / "prompts" / "retrieval"}


@contextmanager
def vllm(folder: Path, python: str) -> Iterator[str]:
    """A server of a tiny Qwen3; gives its base URL."""
    sys.path.insert(0, str(TESTS))
    from processes import CONTEXT, GENERATOR, Server  # noqa: PLC0415 - lies with the tests that use it most

    prose = [*(HERE.parent / "prompts" / "retrieval").glob("*"), client_cost.PERSONAS, HERE.parent / "README.md"]
    model = folder / "model"
    subprocess.run([python, str(TESTS / "tiny_model.py"), str(model), *map(str, prose)], check=True)
    options = ["--model", str(model), "--served-model-name", GENERATOR, "--max-model-len", str(CONTEXT)]
    options += ["--max-num-batched-tokens", str(CONTEXT), "--no-enable-chunked-prefill", "--enable-prefix-caching"]
    options += ["--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    server = Server.start(python, options, {**os.environ, **quiet}, folder / "vllm.log")
    try:
        server.wait()
        yield server.url
    finally:
        server.stop()


def counter(url: str, name: str) -> float:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as answer:  # noqa: S310 - our own server
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def computed(url: str, work: str, folder: Path, embedder: str, **task: object) -> tuple[float, float]:
    """Prompt tokens asked and computed by one `synth run`, from the server's own counters."""
    names = ("prefix_cache_queries_total", "prefix_cache_hits_total")
    before = [counter(url, name) for name in names]
    passages = folder / "passages.jsonl"
    job = client_cost.job(url, passages, IN_FLIGHT)
    job["llm"] = {**job["llm"], "base_urls": [work]}
    job["embed"] = {**job["embed"], "base_urls": [embedder]}
    job["task"] = {"use": "retrieval", **task}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    measure.spend(
        [sys.executable, "-m", "synth", "run", str(path), "-o", str(out), "--json"],
        folder,
        XDG_CACHE_HOME=str(folder / "cache"),
    )
    asked, hits = (counter(url, name) - was for name, was in zip(names, before, strict=True))
    return asked, asked - hits


@contextmanager
def proxy(url: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, str(HERE / "short_replies.py"), url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def report(folder: Path, passages: int = 400) -> list[str]:
    python = os.environ.get("SYNTH_VLLM_PYTHON")
    if not python:
        return ["left out: SYNTH_VLLM_PYTHON names no Python with vLLM"]
    lines = ["| passages x queries | layout | prompt tokens a pair | computed | ratio | goal |", "|-|-|-|-|-|-|"]
    texts.corpus(folder / "passages.jsonl", passages)
    with vllm(folder, python) as url, proxy(url) as work, measure.server() as embedder:
        for queries, goal in ((1, 0.65), (3, 0.50)):
            first = 0.0
            for name, prompts in LAYOUTS.items():
                asked, spent = computed(url, work, folder, embedder, queries_per_passage=queries, prompts=str(prompts))
                pairs = passages * queries
                first = first or spent
                lines.append(
                    f"| {passages} x {queries} | {name} | {asked / pairs:,.0f} | {spent / pairs:,.0f} | "
                    f"{spent / first:.2f} | {goal if name == 'shipped' else ''} |"
                )
                print(lines[-1], file=sys.stderr, flush=True)
    return [*lines, "", f"KV cache: {BLOCK * BLOCKS:,} tokens; {IN_FLIGHT} calls in flight"]
