"""A real vLLM on this machine's CPU: a tiny generator and MiniLM as embedder, started once for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import CONTEXT, EMBEDDER, GENERATOR, STRUCTURED, Server

from synth.embed.sentence_transformers import SentenceTransformersEmbedder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of an environment with vLLM in it; SYNTH_VLLM_REQUIRED turns its absence from a skip to a failure."""
    python = os.environ.get("SYNTH_VLLM_PYTHON", "")
    if python and Path(python).is_file():
        return python
    reason = "SYNTH_VLLM_PYTHON names no Python with vLLM in it (see tests/vllm/README.md)"
    if os.environ.get("SYNTH_VLLM_REQUIRED"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def vllm_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of every process started here: no hub, no reports home, caches and checkout of this session."""
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen3 of random weights."""
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    texts = [ROOT / "personas" / "general.jsonl", *sorted((ROOT / "prompts" / "retrieval").iterdir())]
    maker = Path(__file__).with_name("tiny_model.py")
    subprocess.run([sys.executable, str(maker), str(folder), *map(str, texts)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def servers(
    vllm_python: str, vllm_environment: dict[str, str], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """The generator and the embedder; both load at the same time."""
    logs = tmp_path_factory.mktemp("logs")
    minilm = SentenceTransformersEmbedder(model="all-MiniLM-L6-v2").folder()
    structured = ["--max-model-len", str(CONTEXT), "--structured-outputs-config", STRUCTURED]
    unchunked = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(CONTEXT)]
    float32 = ["--runner", "pooling", "--dtype", "float32"]  # half precision is the default, too coarse to compare
    options = {
        "generator": ["--model", str(tiny_model), "--served-model-name", GENERATOR, *structured, *unchunked],
        "embedder": ["--model", minilm, "--served-model-name", EMBEDDER, *float32],
    }
    started: list[Server] = []
    try:
        for name, given in options.items():
            started.append(Server.start(vllm_python, given, vllm_environment, logs / f"{name}.log"))
        for server in started:
            server.wait()
        yield started[0], started[1]
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="session")
def generator(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture(scope="session")
def embedder(servers: tuple[Server, Server]) -> Server:
    return servers[1]
