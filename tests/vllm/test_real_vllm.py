"""A real vLLM drives the product: what the adapters rely on is what the server does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from processes import CONTEXT, EMBEDDER, GENERATOR, SMALL_CONTEXT, SMOLLM2
from proxy import GrammarOff

from synth.cli import main
from synth.embed.openai import OpenAIEmbedder
from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.llm.openai import OpenAI
from synth.llm.vllm_server import VllmServer
from synth.stage import ClientSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]  # the first test waits for the servers

ROOT = Path(__file__).parents[2]
PASSAGES = [json.loads(line) for line in (ROOT / "configs/quickstart/english.jsonl").read_text("utf-8").splitlines()]
PASSAGES += [json.loads(line) for line in (ROOT / "benchmarks/xquad_en.jsonl").read_text("utf-8").splitlines()]
CLIENT = ClientSettings(request_timeout=120, startup=60, outage=60, notify=lambda _: None)


@pytest.fixture
def job(tmp_path):
    """Writes a job file for a backend over the first passages, in shards of ten."""

    def write(llm, embed, passages, **sections):
        rows = [json.dumps(row, ensure_ascii=False) for row in PASSAGES[:passages]]
        (tmp_path / "passages.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        data = {
            "corpus": {"path": str(tmp_path / "passages.jsonl"), "language": "en"},
            "personas": {"path": str(ROOT / "personas/general.jsonl"), "top_k": 3},
            "llm": llm | {"temperature": 0.6},
            "embed": embed,
            "task": {"use": "retrieval", "prompts": "small", "question_types": {"keywords": 1, "acquire_knowledge": 1}}
            | {"lengths": {"default": [3, 20]}},
            "keep": {"cosine": {"above": 0.4}},
            "run": {"shard_size": 10, "concurrency": 8},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(data | sections, allow_unicode=True), encoding="utf-8")
        return path

    return write


def run(python, environment, job):
    """`synth run` as a process of its own; returns its summary and the folder."""
    out = job.with_name("out")
    done = subprocess.run(
        [python, "-m", "synth", "run", str(job), "-o", str(out), "--json"],
        env=environment,
        cwd=job.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), out


def check_whole_run(summary, out, model, passages):
    """Both stages, embeddings, shards: real replies, held to their form by the grammar, nearly all of them usable."""
    assert (summary["passages"], summary["items"]) == (passages, passages)
    assert summary["pairs"] + sum(summary["unusable"].values()) == passages
    assert summary["pairs"] >= min(0.98 * passages, passages - 1), summary["unusable"]
    assert summary["kept"] >= 0.3 * passages, "so many queries are about their passage"
    pairs = pl.read_parquet(out / "generated" / "*.parquet")
    assert pairs.height == summary["pairs"]
    assert len(list((out / "kept").glob("*.parquet"))) == passages // 10
    assert set(pairs["question_type"]) == {"keywords", "acquire_knowledge"}
    assert pairs["character"].null_count() == 0
    assert set(pairs["difficulty"]) <= {"high_school", "university", "phd"}
    assert set(pairs["model"]) == {model}
    assert pairs["prompt_tokens"].min() > 100
    assert pairs["completion_tokens"].min() > 0


def served(kind, server, model):
    urls = {"base_url": server.url, "api_key_env": None} if kind == "openai" else {"base_urls": [server.url]}
    return {"use": kind, "model": model} | urls


@pytest.mark.parametrize(("kind", "passages"), [("vllm_server", 100), ("openai", 10)])
def test_a_server_drives_the_whole_pipeline(kind, passages, job, smollm2, embedder, vllm_environment):
    written = job(served(kind, smollm2, SMOLLM2), served(kind, embedder, EMBEDDER), passages)

    summary, out = run(sys.executable, vllm_environment, written)

    check_whole_run(summary, out, SMOLLM2, passages)


LABELS = {"Nature": "Animals, plants and the sky.", "Technology": "Machines and programs.", "Society": "Law and money."}


@pytest.mark.parametrize(
    ("task", "passages"),
    [
        ({"use": "sts", "queries_per_passage": 2}, 20),
        ({"use": "bitext", "queries_per_passage": 2, "languages": {"de": 1, "fr": 1}}, 20),
        ({"use": "classification", "labels": LABELS, "misleading": 1}, 40),
    ],
    ids=lambda value: value["use"] if isinstance(value, dict) else "",
)
def test_another_task_runs_on_a_server(task, passages, job, smollm2, embedder, vllm_environment):
    servers = served("vllm_server", smollm2, SMOLLM2), served("vllm_server", embedder, EMBEDDER)
    written = job(*servers, passages, task={"prompts": "small"} | task, personas=None, keep={})

    summary, out = run(sys.executable, vllm_environment, written)

    assert summary["items"] == 40
    assert summary["pairs"] >= 0.95 * 40, summary["unusable"]
    assert main(["verify", str(out), "--deep"]) == 0


def test_the_engine_in_the_process_drives_the_whole_pipeline(
    job, smollm2_model, embedder, vllm_python, vllm_environment
):
    arguments = {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": SMALL_CONTEXT,
    }
    engine = {"use": "vllm_engine", "model": str(smollm2_model), "max_model_len": SMALL_CONTEXT, "engine": arguments}
    written = job(engine, served("vllm_server", embedder, EMBEDDER), 10)

    summary, out = run(vllm_python, vllm_environment, written)

    check_whole_run(summary, out, str(smollm2_model), 10)


def probe(stage):
    async def ask():
        chat = stage.open(CLIENT)
        try:
            return await chat.probe()
        finally:
            await chat.close()

    (result,) = asyncio.run(ask())
    return result


def chat_stage(kind, url):
    if kind == "openai":
        return OpenAI(model=GENERATOR, base_url=url, api_key_env=None)
    return VllmServer(model=GENERATOR, base_urls=[url])


@pytest.mark.parametrize("kind", ["vllm_server", "openai"])
def test_the_probe_sees_that_replies_are_held_to_the_schema(kind, generator):
    found = probe(chat_stage(kind, generator.url))

    assert found.reachable
    assert found.problems == ()
    assert found.constrained is True
    assert found.models == (GENERATOR,)
    assert found.max_model_len == CONTEXT


@pytest.mark.parametrize("kind", ["vllm_server", "openai"])
def test_the_probe_fails_when_the_grammar_is_off(kind, generator):
    with GrammarOff(generator.url) as proxy:
        found = probe(chat_stage(kind, proxy.url))

    assert found.reachable
    assert found.constrained is False
    assert "structured" in found.problems[0]


@pytest.mark.parametrize("kind", ["vllm_server", "openai"])
def test_vectors_are_those_of_sentence_transformers(kind, embedder):
    if kind == "openai":
        stage = OpenAIEmbedder(model=EMBEDDER, base_url=embedder.url, api_key_env=None)
    else:
        stage = VllmServerEmbedder(model=EMBEDDER, base_urls=[embedder.url])
    local = SentenceTransformersEmbedder(model="all-MiniLM-L6-v2")
    texts = [row["text"] for row in PASSAGES[:10]]

    theirs, ours = encode(stage, texts), encode(local, texts)

    assert np.abs((theirs * ours).sum(axis=1) - 1).max() < 1e-4
    assert np.abs(theirs @ theirs.T - ours @ ours.T).max() < 1e-4


def encode(stage, texts):
    async def ask():
        encoder = stage.open(CLIENT, "")
        try:
            return (await encoder.encode(texts, "document")).vectors
        finally:
            await encoder.close()

    return asyncio.run(ask())
