"""A real vLLM drives the product: what the adapters rely on is what the server does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import yaml
from processes import CONTEXT, EMBEDDER, GENERATOR
from proxy import GrammarOff

from synth.embed.openai import OpenAIEmbedder
from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.llm.openai import OpenAI
from synth.llm.vllm_server import VllmServer
from synth.stage import ClientSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(480)]  # the first test waits for the servers

PASSAGES = [
    ("bees", "A colony of bees cools its hive by spreading drops of water and fanning them with their wings."),
    ("lock", "A lock lifts a boat from one level of a canal to the next by letting in water behind closed gates."),
    ("rye", "Rye grows on sandy soils where wheat would fail, and its bread keeps fresh for more than a week."),
    ("tuning", "A violin maker tunes the top plate by ear, scraping until the wood rings at the pitch she wants."),
    ("ferry", "Die Fähre verkehrt von April bis Oktober stündlich; im Winter fährt sie nur an Markttagen."),
    ("kiln", "Der Töpfer brennt die Schalen zweimal, erst ohne Glasur und dann mit ihr bei 1250 Grad."),
    ("olivo", "El olivar se poda en invierno, cuando el árbol descansa, y la leña se guarda para la cocina."),
    ("faro", "El farero anotaba cada noche la dirección del viento y los barcos que pasaban frente al cabo."),
    ("茶", "新茶采下之后要先摊开晾干，再下锅翻炒，火候全凭老师傅的手感。"),
    ("桥", "这座石桥没有用一根铁钉，石块彼此咬合，几百年来经受了无数次洪水。"),
]
PERSONAS = [
    "A beekeeper who writes a newsletter for her village",
    "A retired lock keeper who guides school classes along the canal",
    "A baker looking for old grains",
    "A violin pupil curious about how instruments are made",
    "A potter who builds her own kilns",
    "A tea merchant who travels to small growers",
    "An engineer who restores old bridges",
    "A grandmother planning a trip to an island",
]
CLIENT = ClientSettings(request_timeout=120, startup=60, outage=60, notify=lambda _: None)


@pytest.fixture
def job(tmp_path):
    """Writes a job file for a backend; it names all ten passages in two shards."""
    (tmp_path / "personas.txt").write_text("\n".join(PERSONAS) + "\n", encoding="utf-8")
    rows = [json.dumps({"id": name, "text": text}, ensure_ascii=False) for name, text in PASSAGES]
    (tmp_path / "passages.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def write(llm, embed):
        data = {
            "corpus": {"path": str(tmp_path / "passages.jsonl")},
            "personas": {"path": str(tmp_path / "personas.txt"), "top_k": 3},
            "llm": llm | {"max_tokens": 1024},
            "embed": embed,
            "task": {"use": "retrieval", "queries_per_passage": 2},
            "keep": {"cosine": {"min": -1.0}},  # the tiny model writes noise: the threshold is not what is tested
            "limits": {"max_unusable_share": 1.0},
            "run": {"shard_size": 5},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
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
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), out


def check_whole_run(summary, out, model):
    """Both stages, embeddings, shards: every item is a pair or a rejected row, and every pair is well-formed."""
    pairs = pl.read_parquet(out / "kept" / "*.parquet")
    unusable = sum(summary["unusable"].values())
    assert (summary["passages"], summary["items"]) == (10, 20)
    assert summary["pairs"] + unusable == 20
    kept = pairs.height
    assert summary["pairs"] == summary["kept"] == kept
    assert kept >= 4, "noise ends by itself in about every second item, so fewer means that something is wrong"
    assert len(list((out / "kept").glob("*.parquet"))) == 2
    # the grammar held every reply to its form; what is left to reject is what the noise in it says
    assert set(summary["unusable"]) <= {"control", "duplicate", "echo", "empty", "repetition", "surrogate", "truncated"}
    assert set(pairs["character"]) <= set(PERSONAS)
    assert set(pairs["question_type"]) <= {"keywords", "acquire_knowledge", "summary", "yes_or_no", "background"}
    assert pairs["query"].str.len_chars().min() > 0
    assert set(pairs["model"]) == {model}
    assert pairs["cosine"].is_finite().all()
    assert pairs["prompt_tokens"].min() > 100
    assert pairs["completion_tokens"].min() > 0


def served(kind, server, model):
    urls = {"base_url": server.url, "api_key_env": None} if kind == "openai" else {"base_urls": [server.url]}
    return {"use": kind, "model": model} | urls


@pytest.mark.parametrize("kind", ["vllm_server", "openai"])
def test_a_server_drives_the_whole_pipeline(kind, job, generator, embedder, vllm_environment):
    written = job(served(kind, generator, GENERATOR), served(kind, embedder, EMBEDDER))

    summary, out = run(sys.executable, vllm_environment, written)

    check_whole_run(summary, out, GENERATOR)


def test_the_engine_in_the_process_drives_the_whole_pipeline(job, tiny_model, embedder, vllm_python, vllm_environment):
    arguments = {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": CONTEXT}
    engine = {"use": "vllm_engine", "model": str(tiny_model), "max_model_len": CONTEXT, "engine": arguments}
    written = job(engine, served("vllm_server", embedder, EMBEDDER))

    summary, out = run(vllm_python, vllm_environment, written)

    check_whole_run(summary, out, str(tiny_model))


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
    texts = [text for _, text in PASSAGES]

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
