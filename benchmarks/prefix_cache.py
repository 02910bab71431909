"""Prompt tokens that a real vLLM computes per pair: shipped templates compared with the report's order of fields.

Needs the CPU build of vLLM (tests/vllm/README.md); SYNTH_VLLM_PYTHON is its Python. The KV cache is small on
purpose: the passages of a run are four times as large.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
def vllm(folder: Path, python: str, count: int = 1) -> Iterator[list[str]]:
    """Servers of a tiny Qwen3; yields their base URLs."""
    sys.path.insert(0, str(TESTS))
    from processes import CONTEXT, GENERATOR, Server  # noqa: PLC0415 - lies with the tests that use it most

    prose = [*(HERE.parent / "prompts" / "retrieval").glob("*"), client_cost.PERSONAS, HERE.parent / "README.md"]
    model = folder / "model"
    subprocess.run([python, str(TESTS / "tiny_model.py"), str(model), *map(str, prose)], check=True)
    options = ["--model", str(model), "--served-model-name", GENERATOR, "--max-model-len", str(CONTEXT)]
    options += ["--max-num-batched-tokens", str(CONTEXT), "--no-enable-chunked-prefill", "--enable-prefix-caching"]
    options += ["--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    servers: list[Server] = []
    try:
        environment = {**os.environ, **quiet}
        servers += [Server.start(python, options, environment, folder / f"vllm{n}.log") for n in range(count)]
        for server in servers:
            server.wait()
        yield [server.url for server in servers]
    finally:
        for server in servers:
            server.stop()


def counter(urls: list[str], name: str) -> float:
    """A vLLM counter, summed over servers."""
    return sum(_counter(url, name) for url in urls)


def _counter(url: str, name: str) -> float:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as answer:  # noqa: S310 - our own server
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def computed(urls: list[str], work: list[str], folder: Path, embedder: str, **task: object) -> tuple[float, float]:
    """Prompt tokens sent and computed in one `synth run`, from the server's counters."""
    names = ("prefix_cache_queries_total", "prefix_cache_hits_total")
    before = [counter(urls, name) for name in names]
    passages = folder / "passages.jsonl"
    job = client_cost.job(embedder, passages, IN_FLIGHT * len(urls))
    job["llm"] = {**job["llm"], "base_urls": work}
    job["task"] = {"use": "retrieval", **task}
    path = folder / f"job{len(list(folder.glob('out-*')))}.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    client_cost.run(path, folder)
    asked, hits = (counter(urls, name) - was for name, was in zip(names, before, strict=True))
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


CASES = ((1, 1, 0.65), (1, 3, 0.50), (2, 3, 0.50))
"""Servers, queries a passage, goal."""


def report(folder: Path, passages: int = 300) -> list[str]:
    python = os.environ.get("SYNTH_VLLM_PYTHON")
    if not python:
        return ["Left out: SYNTH_VLLM_PYTHON names no Python with vLLM (tests/vllm/README.md)."]
    lines = ["| servers | queries a passage | layout | prompt tokens a pair | computed | ratio | goal |"]
    lines.append("|-|-|-|-|-|-|-|")
    texts.corpus(folder / "passages.jsonl", passages)
    with vllm(folder, python, 2) as urls, ExitStack() as stack:
        proxies = [stack.enter_context(proxy(url)) for url in urls]
        embedder = stack.enter_context(measure.server())
        for servers, queries, goal in CASES:
            first = 0.0
            for name, prompts in LAYOUTS.items():
                options = {"queries_per_passage": queries, "prompts": str(prompts)}
                asked, spent = computed(urls[:servers], proxies[:servers], folder, embedder, **options)
                pairs = passages * queries
                first = first or spent
                lines.append(
                    f"| {servers} | {queries} | {name} | {asked / pairs:,.0f} | {spent / pairs:,.0f} | "
                    f"{spent / first:.2f} | {goal if name == 'shipped' else ''} |"
                )
                print(lines[-1], file=sys.stderr, flush=True)
    size = f"KV cache of each server: {BLOCK * BLOCKS:,} tokens in blocks of {BLOCK}"
    return [
        *lines,
        "",
        f"{passages} passages; {size}; {IN_FLIGHT} calls in flight per server; the load does not matter.",
    ]
