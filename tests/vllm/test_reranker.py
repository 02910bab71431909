"""Scores of the reranker adapter against a real vLLM that serves a tiny Qwen3 with the documented overrides."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from processes import Server

from synth.registry import find
from synth.rerank.vllm_server import VllmServerReranker
from synth.servers.probe import PROBE_PAIRS
from synth.shipped import shipped
from synth.stage import ClientSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

NAME = "Qwen/Qwen3-Reranker-0.6B"
INSTRUCTION = "Given a question, retrieve passages that answer it"
PAIRS = [
    (f"which light is number {n}", f"Light {n}. " + "It shows ships the way into the harbour. " * (n % 5 + 1))
    for n in range(40)
]
EXACT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n'
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def overrides() -> str:
    """The value of `--hf-overrides` as the adapter's help has it."""
    found = re.search(r"--hf-overrides '([^']*)'", " ".join((VllmServerReranker.__doc__ or "").split()))
    assert found
    return found[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Qwen3 whose vocabulary has `yes` and `no` as tokens."""
    folder = tmp_path_factory.mktemp("tiny-reranker")
    words = folder / "words.txt"
    words.write_text("yes\nno\n" * 200)
    maker = Path(__file__).with_name("tiny_model.py")
    texts = [words, shipped("prompts", "retrieval", "system.j2")]
    subprocess.run([sys.executable, str(maker), str(folder / "model"), *map(str, texts)], check=True, timeout=120)
    return folder / "model"


@pytest.fixture(scope="module")
def reranker(vllm_python, vllm_environment, checkpoint, tmp_path_factory):
    options = ["--model", str(checkpoint), "--served-model-name", NAME, "--runner", "pooling", "--dtype", "float32"]
    options += ["--hf-overrides", overrides(), "--max-model-len", "2048"]
    options += ["--chat-template", str(shipped("prompts", "reranker", "qwen3_reranker.jinja"))]
    log = tmp_path_factory.mktemp("logs") / "reranker.log"
    server = Server.start(vllm_python, options, vllm_environment, log)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def scores(server, pairs, **options):
    stage = find("rerank", "vllm_server").model_validate({"model": NAME, "base_urls": [server.url], **options})

    async def ask():
        opened = stage.open(ClientSettings(notify=lambda _: None), INSTRUCTION)
        try:
            return (await opened.score(pairs)).tolist()
        finally:
            await opened.close()

    return asyncio.run(ask())


def direct(server, query, document):
    body = {"model": NAME, "text_1": query, "text_2": document, "instruction": INSTRUCTION}
    request = urllib.request.Request(  # noqa: S310 - our own server on loopback
        f"{server.url}/score", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return json.load(answer)["data"][0]["score"]


def test_scores_are_those_of_the_server_called_directly(reranker):
    found = scores(reranker, PAIRS)
    assert found == pytest.approx([direct(reranker, *pair) for pair in PAIRS], abs=1e-6)
    assert len(set(found)) > 20


def test_scores_are_p_yes_after_the_prompt_of_the_model_card(reranker, checkpoint):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = []
    for query, document in PAIRS[:8]:
        text = EXACT.format(instruction=INSTRUCTION, query=query, document=document)
        logits = model(tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]).logits[0, -1]
        yes, no = (logits[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        expected.append(torch.sigmoid(yes - no).item())
    assert scores(reranker, PAIRS[:8]) == pytest.approx(expected, abs=1e-5)


def test_a_pair_that_is_too_long_has_no_score_unless_it_may_be_cut(reranker):
    pairs = [*PAIRS[:2], ("long", "word " * 3000), PAIRS[2]]
    assert [math.isnan(score) for score in scores(reranker, pairs)] == [False, False, True, False]
    assert not any(map(math.isnan, scores(reranker, pairs, max_tokens_per_doc=500)))


def test_the_probe_of_check_finds_the_server_and_scores_its_pairs(reranker):
    stage = find("rerank", "vllm_server").model_validate({"model": NAME, "base_urls": [reranker.url]})

    async def ask():
        opened = stage.open(ClientSettings(notify=lambda _: None), INSTRUCTION)
        try:
            return await opened.probe()
        finally:
            await opened.close()

    (found,) = asyncio.run(ask())
    assert found.reachable
    assert found.version
    assert found.models == (NAME,)
    assert [found.paraphrase, found.unrelated] == pytest.approx(scores(reranker, PROBE_PAIRS), abs=1e-6)
    assert bool(found.problems) == (found.paraphrase <= found.unrelated)
