"""A real vLLM on this machine's CPU: SmolLM2, a tiny generator of noise and MiniLM, started once for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import CONTEXT, EMBEDDER, GENERATOR, SMALL_CONTEXT, SMOLLM2, STRUCTURED, Server

from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.llama import SHIPPED, find_model

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
    texts = [ROOT / "personas" / "general.jsonl", *sorted((ROOT / "prompts" / "retrieval").glob("*.*"))]
    maker = Path(__file__).with_name("tiny_model.py")
    subprocess.run([sys.executable, str(maker), str(folder), *map(str, texts)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def smollm2_model(vllm_python: str, vllm_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's GGUF file as a folder of safetensors."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [vllm_python, str(Path(__file__).with_name("smollm2.py")), str(find_model(SHIPPED).path), str(folder)]
    subprocess.run(command, env=vllm_environment, check=True, timeout=300)
    return folder


@pytest.fixture(scope="session")
def servers(
    vllm_python: str,
    vllm_environment: dict[str, str],
    tiny_model: Path,
    smollm2_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Server]]:
    """The servers by the name of their model; all load at the same time."""
    logs = tmp_path_factory.mktemp("logs")
    minilm = SentenceTransformersEmbedder(model="all-MiniLM-L6-v2").folder()
    options = {
        GENERATOR: ["--model", str(tiny_model), *chat_options(CONTEXT)],
        SMOLLM2: ["--model", str(smollm2_model), "--dtype", "float32", *chat_options(SMALL_CONTEXT)],
        EMBEDDER: ["--model", minilm, "--runner", "pooling", "--dtype", "float32"],  # comparable vectors
    }
    started: dict[str, Server] = {}
    try:
        for number, (name, given) in enumerate(options.items()):
            log = logs / f"{number}.log"
            started[name] = Server.start(vllm_python, [*given, "--served-model-name", name], vllm_environment, log)
        for server in started.values():
            server.wait()
        yield started
    finally:
        for server in started.values():
            server.stop()


def chat_options(context: int) -> list[str]:
    unchunked = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(context)]
    return ["--max-model-len", str(context), "--structured-outputs-config", STRUCTURED, *unchunked]


@pytest.fixture(scope="session")
def generator(servers: dict[str, Server]) -> Server:
    """Writes noise, quickly."""
    return servers[GENERATOR]


@pytest.fixture(scope="session")
def smollm2(servers: dict[str, Server]) -> Server:
    return servers[SMOLLM2]


@pytest.fixture(scope="session")
def embedder(servers: dict[str, Server]) -> Server:
    return servers[EMBEDDER]
