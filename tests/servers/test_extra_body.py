"""`extra_body`: fields that a server wants or refuses, on every served model in the same way."""

import pytest
from asking import asked, described
from loopback import Fault, Loopback, say
from pydantic import ValidationError
from running import job_dict, write_corpus, write_job

from synth.cli import main
from synth.embed.openai import OpenAIEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.errors import ServerRefused
from synth.llm.openai import OpenAI
from synth.llm.vllm_server import VllmServer
from synth.rerank.chat_logprobs import ChatLogprobsReranker
from synth.rerank.vllm_server import VllmServerReranker
from synth.stage import ClientSettings

LLMS, EMBEDDERS, RERANKERS = [OpenAI, VllmServer], [OpenAIEmbedder, VllmServerEmbedder], [VllmServerReranker]
EVERY = [*LLMS, *EMBEDDERS, *RERANKERS, ChatLogprobsReranker]


def named(kind):
    return kind.__module__.removeprefix("synth.")


every = pytest.mark.parametrize("kind", EVERY, ids=named)
chats = pytest.mark.parametrize("kind", LLMS, ids=named)
embedders = pytest.mark.parametrize("kind", EMBEDDERS, ids=named)


@pytest.fixture
def server():
    with Loopback() as started:
        verdict = say("yes")
        likely = [{"token": word, "logprob": -1.0} for word in ("yes", "no")]
        verdict["choices"][0]["logprobs"] = {"content": [likely[0] | {"top_logprobs": likely}]}
        plain = started.chat
        started.chat = lambda body: verdict if "logprobs" in body else plain(body)
        started.rule = score
        yield started


def score(seen):
    if seen.path != "/v1/score":
        return None
    return Fault(200, {"data": [{"score": 0.5 + (n == 0) * 0.4} for n in range(len(seen.body["queries"]))]})


OURS = {
    "synth.llm": {"seed": None, "temperature": 0.25},
    "synth.embed": {"encoding_format": None, "model": "other"},
    "synth.rerank": {"instruction": None, "temperature": None},
}


@every
def test_a_field_is_added_replaced_and_left_out(kind, server):
    changes = OURS[kind.__module__.rpartition(".")[0]]
    server.models = ("tiny", "other")
    asked(kind, server.url, extra_body={"priority": 3, "nested": {"a": [1]}, **changes})
    body = server.posts[-1].body
    assert (body["priority"], body["nested"]) == (3, {"a": [1]})
    for name, value in changes.items():
        assert body.get(name) == value
        assert (name in body) == (value is not None)


@every
def test_the_probe_of_check_sends_them_too(kind, server):
    asked(kind, server.url, probe=True, extra_body={"priority": 3, "seed": None})
    assert server.posts
    assert all(seen.body["priority"] == 3 and "seed" not in seen.body for seen in server.posts)


@chats
def test_what_thinking_and_schemas_need_can_be_left_out(kind, server):
    server.chat = lambda _: say("{}")
    asked(kind, server.url, extra_body=dict.fromkeys(("chat_template_kwargs", "response_format", "top_p")))
    left = server.posts[0].body.keys() - {"top_k", "min_p"}
    assert left == {"model", "messages", "max_completion_tokens", "seed", "temperature"}


@every
@pytest.mark.parametrize("name", ["messages", "input", "queries", "stream", "n"])
def test_the_texts_cannot_be_changed(kind, name):
    with pytest.raises(ValidationError, match=f"{name} is written by synth"):
        described(kind, "http://h/v1", extra_body={name: None})


def roles(kind, url, **extra):
    """The bodies of a request with a query and of one with a document."""
    stage = described(kind, url, extra_body=extra)
    return [stage.body(["a"], role) for role in ("query", "document")]


@embedders
def test_fields_by_role_go_with_texts_of_that_role(kind):
    only = {"query": {"input_type": "query"}, "document": {"input_type": "passage", "truncate": None}}
    query, document = roles(kind, "http://h", truncate="END", **only)
    assert (query["input_type"], query["truncate"]) == ("query", "END")
    assert document["input_type"] == "passage"
    assert not {"truncate", "query", "document"} & document.keys()
    assert not {"query", "document"} & query.keys()


@embedders
@pytest.mark.parametrize("wrong", [{"query": "query"}, {"document": {"input": "x"}}, {"query": None}])
def test_fields_by_role_are_a_mapping(kind, wrong):
    with pytest.raises(ValidationError, match="expects the fields"):
        described(kind, "http://h/v1", extra_body=wrong)


@embedders
def test_a_server_that_wants_to_know_the_role_gets_it_in_a_run(kind, server, tmp_path, capsys):
    """Without the fields: exit 5, quoted. With them: finished, and check finds nothing."""

    def rule(seen):
        role = (seen.body or {}).get("input_type")
        if seen.path == "/v1/embeddings" and role not in {"query", "passage"}:
            return Fault(400, {"message": "'input_type' parameter is required", "type": "invalid_request_error"})
        return None

    server.rule = rule
    write_corpus(tmp_path / "docs.jsonl", 3)
    where = {"base_url": server.url} if "base_url" in kind.model_fields else {"base_urls": [server.url]}
    served = {"use": named(kind).removeprefix("embed."), "model": "tiny", **where}
    job = write_job(tmp_path, job_dict(server.url, tmp_path, embed=served, llm={"use": "extractive"}))
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--json"]) == 5
    assert "'input_type' parameter is required" in capsys.readouterr().err
    extra = "embed.extra_body={query: {input_type: query}, document: {input_type: passage}}"
    assert main(["run", str(job), "-o", str(tmp_path / "out-2"), "--json", "-s", extra]) == 0
    assert main(["check", str(job), "-s", extra, "--json"]) == 0
    sent = [seen.body for seen in server.posts if "input_type" in seen.body]
    assert {body["input_type"] for body in sent if body["input"][0].startswith("The report")} == {"passage"}
    assert {body["input_type"] for body in sent} == {"passage", "query"}


REFUSALS = [
    ("chat_template is not supported for Mistral tokenizers.", "extra_body: {chat_template_kwargs: null}", VllmServer),
    ("Unknown field: seed", "extra_body: {seed: null}", OpenAI),
    ("Unknown field: seed", "extra_body: {seed: null}", VllmServer),
    ("Unsupported parameter: 'max_completion_tokens'", "max_tokens_field: max_tokens", OpenAI),
    ("Unsupported parameter: 'max_completion_tokens'", "extra_body: {max_completion_tokens: null}", VllmServer),
    ("This response_format type json_schema is unavailable now", "structured: json_object", OpenAI),
    ("encoding_format must be float", "extra_body: {encoding_format: null}", OpenAIEmbedder),
    ("encoding_format must be float", "extra_body: {encoding_format: null}", VllmServerEmbedder),
    ("extra fields not permitted: instruction", "extra_body: {instruction: null}", VllmServerReranker),
    ("top_logprobs is too large", "extra_body: {top_logprobs: null}", ChatLogprobsReranker),
    ("enable_thinking is no argument here", "extra_body: {chat_template_kwargs: null}", ChatLogprobsReranker),
]
SHAPES = {
    "openai": lambda words: Fault(400, {"error": {"message": words, "param": None}}),
    "pydantic": lambda words: Fault(422, {"detail": [{"type": "extra_forbidden", "loc": ["body"], "msg": words}]}),
    "mistral": lambda words: Fault(422, {"object": "error", "message": {"detail": [{"msg": words}]}}),
    "param": lambda name: Fault(400, {"error": {"message": "not supported", "param": name}}),
}


@pytest.mark.parametrize(("words", "cure", "kind"), REFUSALS)
@pytest.mark.parametrize("shape", ["openai", "pydantic", "mistral"])
def test_a_refusal_that_names_a_field_says_which_key_leaves_it_out(words, cure, kind, shape, server):
    server.rule = lambda seen: SHAPES[shape](words) if seen.method == "POST" else None
    with pytest.raises(ServerRefused) as caught:
        asked(kind, server.url)
    assert cure in str(caught.value)
    assert words.replace("'", "")[:12] in str(caught.value).replace("'", "").replace("\\", "")
    assert cure in asked(kind, server.url, probe=True).problems[0]


def test_the_field_may_stand_in_param_alone(server):
    server.rule = lambda seen: SHAPES["param"]("seed") if seen.method == "POST" else None
    with pytest.raises(ServerRefused, match=r"extra_body: \{seed: null\}"):
        asked(OpenAI, server.url)


@pytest.mark.parametrize("kind", [*EMBEDDERS, *RERANKERS], ids=named)
def test_an_empty_extra_body_changes_no_identity_of_folders_that_lack_it(kind):
    stage = described(kind, "http://h/v1")
    assert "extra_body" not in stage.identity()
    assert described(kind, "http://h/v1", extra_body={"a": 1}).identity() == stage.identity() | {"extra_body": {"a": 1}}
    stage.open(ClientSettings(), "find answers")
