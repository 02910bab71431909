"""Answers in another format than this one: read where their meaning is sure, else the run ends at once, quoting them.

Both kinds of served models, and the embedders and rerankers of each, behave alike.
"""

import base64

import numpy as np
import pytest
from asking import asked
from loopback import WIDTH, Fault, Loopback, bag_of_words, say
from running import job_dict, rows, write_corpus, write_job

from synth.cli import main
from synth.embed._served import has_doubles
from synth.embed.openai import OpenAIEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.errors import RequestRejected, ServerRefused
from synth.llm.openai import OpenAI
from synth.llm.vllm_server import VllmServer
from synth.rerank.chat_logprobs import ChatLogprobsReranker
from synth.rerank.vllm_server import VllmServerReranker

LLMS, EMBEDDERS, RERANKERS = [OpenAI, VllmServer], [OpenAIEmbedder, VllmServerEmbedder], [VllmServerReranker]
chats = pytest.mark.parametrize("kind", LLMS, ids=lambda kind: kind.__module__)
embedders = pytest.mark.parametrize("kind", EMBEDDERS, ids=lambda kind: kind.__module__)
every = pytest.mark.parametrize(
    "kind", [*LLMS, *EMBEDDERS, *RERANKERS, ChatLogprobsReranker], ids=lambda kind: kind.__module__
)


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


def posted(server, answer):
    """Answer every POST with this."""
    fault = answer if isinstance(answer, Fault) else Fault(200, answer)
    server.rule = lambda seen: fault if seen.method == "POST" else None


def content(value, **more):
    """A completion with this content."""
    answer = say(None)
    answer["choices"][0]["message"] |= {"content": value, **more}
    return answer


TEXT = '{"kind": "summary"}'
PARTS = [
    [{"type": "text", "text": TEXT}],
    [{"type": "text", "text": TEXT[:5]}, {"type": "text", "text": TEXT[5:]}],
    [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}, {"type": "text", "text": TEXT}],
    [{"type": "reasoning", "text": "Hm."}, {"type": "output_text", "text": TEXT, "annotations": []}],
    [TEXT],
    {"type": "text", "text": TEXT},
]


@chats
@pytest.mark.parametrize("parts", PARTS)
def test_content_in_parts_is_joined_and_thoughts_are_left_out(kind, parts, server):
    posted(server, content(parts))
    assert asked(kind, server.url).text == TEXT
    assert len(server.posts) == 1


@chats
@pytest.mark.parametrize("parts", [[], [{"type": "thinking", "thinking": "Hm."}]])
def test_parts_without_text_are_an_empty_reply(kind, parts, server):
    posted(server, content(parts))
    assert asked(kind, server.url).text is None


@chats
def test_a_refusal_in_parts_is_a_refusal(kind, server):
    posted(server, content([{"type": "refusal", "refusal": "I will not."}]))
    assert asked(kind, server.url).text == "I will not."


UNREADABLE = {
    "an object": content({"kind": "summary"}),
    "a number": content(7),
    "an unknown part": content([{"type": "image_url", "image_url": "x"}]),
    "all in the reasoning": content(None, reasoning_content=TEXT),
    "a tool call": content(None, tool_calls=[{"function": {"arguments": TEXT}}]),
    "the format of another API": {"output": [{"type": "message", "content": [{"text": TEXT}]}]},
    "a list": [{"generated_content": TEXT}],
    "an error": {"error": {"message": "upstream is gone"}},
    "an error without an object": {"object": "error", "message": "no such engine", "code": 50001},
    "an error in the choice": {"choices": [{"error": {"message": "bad gateway"}, "message": {"content": ""}}]},
    "a page": Fault(200, "<html>Sign in</html>", headers={"Content-Type": "text/html"}),
}
QUOTED = {
    "an error": "upstream is gone",
    "an error without an object": "no such engine",
    "an error in the choice": "bad gateway",
    "a page": "Sign in",
}


@chats
@pytest.mark.parametrize("name", UNREADABLE)
def test_first_replies_that_cannot_be_read_end_the_run_and_are_quoted(kind, name, server):
    posted(server, UNREADABLE[name])
    with pytest.raises(ServerRefused) as caught:
        asked(kind, server.url)
    assert QUOTED.get(name, "content") in str(caught.value)
    assert caught.value.exit_code == 5
    assert "Start the server" not in str(caught.value)
    assert len(server.posts) <= 4


@chats
@pytest.mark.parametrize("name", UNREADABLE)
def test_check_reads_as_the_run_does_and_quotes(kind, name, server):
    posted(server, UNREADABLE[name])
    found = asked(kind, server.url, probe=True)
    assert found.reachable
    assert QUOTED.get(name, "HTTP 200") in found.problems[0]


@chats
def test_later_a_reply_with_reasoning_alone_is_an_empty_one(kind, server):
    server.fail(
        Fault(
            200,
            content(None, reasoning_content="Hm.")
            | {"choices": [{"finish_reason": "length", "message": {"content": "", "reasoning": "Hm."}}]},
        )
    )
    assert not asked(kind, server.url).text


def entry(text, **more):
    return {"object": "embedding", "embedding": bag_of_words(text), **more}


INDICES = {
    "none": [entry("a"), entry("b b"), entry("c")],
    "null": [entry("a", index=None), entry("b b", index=None), entry("c", index=None)],
    "all but the zero": [entry("a"), entry("b b", index=1), entry("c", index=2)],
    "all but the zero, last first": [entry("c", index=2), entry("b b", index=1), entry("a", index=0)],
}


@embedders
@pytest.mark.parametrize("name", INDICES)
def test_a_missing_index_is_the_position(kind, name, server):
    posted(server, {"data": INDICES[name]})
    vectors = asked(kind, server.url, ["a", "b b", "c"]).vectors
    raw = np.array(bag_of_words("b b"))
    np.testing.assert_allclose(vectors[1], raw / np.linalg.norm(raw), atol=1e-6)
    assert len(server.posts) == 1


NO_VECTORS = {
    "every index 0": {"data": [entry("a", index=0), entry("b", index=0)]},
    "another key": {"embeddings": [[1.0] * WIDTH] * 2},
    "a vector for each token": {"data": [entry("a") | {"embedding": [[1.0] * WIDTH] * 3}] * 2},
    "an object": {"data": [{"embedding": {"values": [1.0]}}] * 2},
    "no vector": {"data": [{"object": "embedding"}] * 2},
    "too few": {"data": [entry("a", index=0)]},
    "an error": {"error": "Unexpected endpoint or method. (POST /v1/embeddings)"},
}


@embedders
@pytest.mark.parametrize("name", NO_VECTORS)
def test_first_vectors_that_cannot_be_read_end_the_run_and_are_quoted(kind, name, server):
    answer = NO_VECTORS[name]
    server.rule = lambda seen: (
        Fault(200, answer | {"data": answer["data"][: len(seen.body["input"])]} if "data" in answer else answer)
        if seen.method == "POST"
        else None
    )
    with pytest.raises(ServerRefused, match=r"embedding|Unexpected endpoint") as caught:
        asked(kind, server.url, ["a", "b"] if name != "too few" else ["a", "b", "c"])
    assert caught.value.exit_code == 5
    assert len(server.posts) <= 8


@every
@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_rejects_even_the_simplest_request_ends_the_run(kind, status, server):
    posted(server, Fault(status, {"error": {"message": "'input_type' parameter is required"}}))
    with pytest.raises(ServerRefused, match="'input_type' parameter is required"):
        asked(kind, server.url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"score": 7.25}, r"score of 7\.25.*7\.25"),
        ({"score": None}, "without a score"),
        ({"score": "0.5"}, "'0.5'"),
        ({"results": [{"index": 0, "relevance_score": 0.5}]}, "relevance_score"),
        ({"error": "Unexpected endpoint or method. (POST /v1/score)"}, "Unexpected endpoint"),
    ],
)
def test_first_scores_that_cannot_be_read_end_the_run_and_are_quoted(answer, said, server):
    if "score" in answer:
        server.rule = lambda seen: (
            Fault(200, {"data": [answer] * len(seen.body["queries"])}) if seen.method == "POST" else None
        )
    else:
        posted(server, answer)
    with pytest.raises(ServerRefused, match=said):
        asked(VllmServerReranker, server.url)
    assert len(server.posts) <= 4


def test_a_pair_without_a_score_costs_no_other_pair_anything(server):
    posted(server, {"data": [{"score": 0.25}, {"score": None}, {"score": 0.75}]})
    found = asked(VllmServerReranker, server.url, ["a", "b", "c"])
    np.testing.assert_array_equal(found, [0.25, np.nan, 0.75])
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [content("yes"), {"choices": [{"logprobs": {"content": ["yes"]}}]}, {"choices": [{"logprobs": 3}]}, {"choices": 4}],
)
def test_a_chat_model_without_log_probabilities_is_no_reranker(answer, server):
    posted(server, answer)
    with pytest.raises(ServerRefused, match="log-probabilities"):
        asked(ChatLogprobsReranker, server.url)


@embedders
def test_the_first_text_of_all_may_be_the_one_that_is_refused(kind, server):
    server.rule = lambda seen: Fault(400) if seen.method == "POST" and "poison" in seen.text else None
    with pytest.raises(RequestRejected, match="poison"):
        asked(kind, server.url, ["poison"])
    server.rule, server.embed = lambda _: None, lambda text: None if text == "bad" else bag_of_words(text)
    with pytest.raises(RequestRejected, match="bad"):
        asked(kind, server.url, ["bad"])


def encoded(numbers, kind):
    return base64.b64encode(np.array(numbers, kind).tobytes()).decode()


RNG = np.random.default_rng(7)
DOUBLES = {
    "computed as such": RNG.normal(size=64) / 8,
    "from 32 bits": (RNG.normal(size=64) / 8).astype("<f4"),
    "from 16 bits": (RNG.normal(size=64) / 8).astype("<f2"),
    "counts": np.array(bag_of_words("a b c"), "<f4") / np.float32(1.7),
}


@embedders
@pytest.mark.parametrize("name", DOUBLES)
def test_64_bit_numbers_in_base64_are_never_taken_for_32_bit_ones(kind, name, server):
    def answer(seen):
        if seen.method != "POST":
            return None
        in_text = seen.body.get("encoding_format") == "float"
        vector = DOUBLES[name].tolist() if in_text else encoded(DOUBLES[name], "<f8")
        return Fault(200, {"data": [{"embedding": vector}] * len(seen.body["input"])})

    server.rule = answer
    with pytest.raises(ServerRefused, match=r"64-bit .*`extra_body: \{encoding_format: float\}`"):
        asked(kind, server.url)
    found = asked(kind, server.url, extra_body={"encoding_format": "float"}).vectors[0]
    np.testing.assert_allclose(found, DOUBLES[name] / np.linalg.norm(DOUBLES[name].astype("<f8")), atol=1e-3)


@pytest.mark.parametrize("name", DOUBLES)
def test_32_bit_numbers_are_no_64_bit_ones(name):
    assert not has_doubles({"data": [{"embedding": encoded(DOUBLES[name], "<f4")}]})
    spoilt = np.where(np.arange(64) == 10, np.nan, DOUBLES[name])
    assert not has_doubles({"data": [{"embedding": encoded(spoilt, "<f4")}]})


SPENT = [
    (429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"}, {}),
    (429, {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}, {}),
    (402, {"message": "Insufficient Balance"}, {}),
    (400, {"message": "Your credit balance is too low to access the API."}, {}),
    (200, {"message": "This request requires more credits", "code": 402}, {}),
    (200, {"message": "quota", "code": "insufficient_quota"}, {}),
]


@every
@pytest.mark.parametrize(("status", "error", "headers"), SPENT)
def test_a_spent_quota_ends_the_run_at_once_quoting_the_provider(kind, status, error, headers, server):
    posted(server, Fault(status, {"error": error}, headers))
    with pytest.raises(ServerRefused, match=error["message"]) as caught:
        asked(kind, server.url)
    assert "used up" in str(caught.value)
    assert len(server.posts) == 1
    found = asked(kind, server.url, probe=True)
    assert error["message"] in found.problems[0]
    assert found.reachable


@chats
def test_a_limit_that_time_lifts_is_waited_for(kind, server):
    later = {"message": "You exceeded your current quota, insufficient_quota. Please retry in 3.5s.", "code": 429}
    server.fail(Fault(429, {"error": later}), Fault(200, {"error": {"message": "slow down", "code": 429}}))
    assert asked(kind, server.url).text == TEXT


@chats
def test_a_key_that_an_error_in_a_200_refuses_ends_the_run(kind, server):
    posted(server, {"error": {"message": "key limit reached for this model", "code": 403}, "user_id": "u"})
    with pytest.raises(ServerRefused, match="key limit reached") as caught:
        asked(kind, server.url)
    assert "api_key_env" in str(caught.value)


@chats
def test_the_last_line_of_an_outage_names_its_cause(kind, server):
    posted(server, Fault(503, {"error": {"message": "GPU fell off the bus"}}))
    with pytest.raises(Exception, match="GPU fell off the bus"):
        asked(kind, server.url)


@every
def test_check_lists_the_models_when_the_name_is_wrong(kind, server):
    server.models = ("small", "large")
    for fault in (Fault(404), Fault(400, {"error": {"message": "Model Not Exist"}})):
        posted(server, fault)
        assert "it lists small, large" in " ".join(asked(kind, server.url, probe=True).problems)


def test_a_bare_list_of_models_is_a_list_too(server):
    server.rule = lambda seen: Fault(200, [{"id": "small"}]) if seen.path == "/v1/models" else None
    assert "lists small" in " ".join(asked(OpenAI, server.url, probe=True).problems)


@pytest.mark.parametrize("use", ["vllm_server", "openai"])
def test_a_run_over_another_format_charges_no_item(use, server, tmp_path, capsys):
    """Every answer in parts with a number: exit 5, nothing in rejected/; the same command then finishes."""
    write_corpus(tmp_path / "docs.jsonl", 3)
    where = {"base_url": server.url} if use == "openai" else {"base_urls": [server.url]}
    served = {"use": use, "model": "tiny", **where}
    job = write_job(tmp_path, job_dict(server.url, tmp_path, llm=served, embed=served))
    posted(server, {"data": [{"vector": [1.0]}] * 20})
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--json"]) == 5
    assert "vector" in capsys.readouterr().err
    assert not rows(tmp_path / "out", "rejected/generated")
    server.rule = lambda seen: Fault(200, content(7)) if "messages" in (seen.body or {}) else None
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--json"]) == 5
    assert '"content": 7' in capsys.readouterr().err
    assert not rows(tmp_path / "out", "rejected/generated")
    assert len([seen for seen in server.posts if "messages" in seen.body]) < 20
