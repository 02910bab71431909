"""Chat through the openai package, against a real HTTP server."""

import asyncio
import contextlib
import inspect
import json
import time

import httpx2
import openai
import openai.resources.chat.completions  # what the SDK imports at its first call takes minutes of a fast clock
import openai.resources.models
import pytest
from asking import SCHEMA, ask
from loopback import FastClock, Fault, Loopback, say
from pydantic import ValidationError

from synth.batching import gathered
from synth.errors import RequestRejected, ServerRefused, ServerUnavailable
from synth.llm.openai import OpenAI
from synth.servers.faults import NotFoundError, Redactor, TransientError
from synth.servers.sdk import sdk_error
from synth.stage import ClientSettings


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


@contextlib.asynccontextmanager
async def opened(server, client=None, **options):
    settings = {"request_timeout": 5.0, "notify": lambda _: None} | (client or {})
    stage = OpenAI(model="tiny", base_url=server.url, **options)
    model = stage.open(ClientSettings(clock=FastClock(), **settings))
    try:
        yield model
    finally:
        await model.close()


def complete(server, client=None, requests=None, **options):
    async def run():
        async with opened(server, client, **options) as model:
            return await gathered(model.complete(r) for r in requests or [ask()])

    return asyncio.run(run())


def test_the_request_has_only_fields_that_openai_knows(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1")
    (reply,) = complete(server, api_key_env="OPENAI_API_KEY")
    assert (reply.text, reply.model, reply.completion_tokens) == ('{"kind": "summary"}', "tiny", 7)
    body = server.posts[0].body
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What would one ask?"}],
        "max_completion_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.8,
        "response_format": {"type": "json_schema", "json_schema": {"name": "config", "schema": SCHEMA, "strict": True}},
    }
    assert server.posts[0].headers["authorization"] == "Bearer sk-canary-1"


def test_gateways_get_what_they_want(server, monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "az-1")
    complete(
        server,
        api_key_env="AZURE_KEY",
        api_key_header="api-key",
        default_query={"api-version": "2026-01-01"},
        extra_headers={"X-Team": "search"},
        extra_body={"store": False},
        structured="json_object",
        max_tokens_field="max_tokens",
        temperature=None,
        top_p=None,
        top_k=20,
        min_p=0.0,
    )
    seen = server.posts[0]
    assert seen.query == "api-version=2026-01-01"
    assert (seen.headers["api-key"], seen.headers["x-team"]) == ("az-1", "search")
    assert "authorization" not in seen.headers
    assert seen.body["response_format"] == {"type": "json_object"}
    assert (seen.body["max_tokens"], seen.body["top_k"], seen.body["min_p"], seen.body["store"]) == (99, 20, 0.0, False)
    assert not {"temperature", "top_p", "max_completion_tokens"} & set(seen.body)


def test_half_a_surrogate_pair_is_a_rejected_item(server):
    with pytest.raises(RequestRejected, match="surrogate"):
        complete(server, requests=[ask(text="what is \ud800 here?")])


def test_a_local_server_needs_no_key(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    complete(server, structured="none")
    assert "authorization" not in server.posts[0].headers
    assert "response_format" not in server.posts[0].body


def test_seeds_stay_different_when_folded():
    folded = {OpenAI(model="m").frame([], seed << 31, 1)["seed"] for seed in range(1000)}
    assert len(folded) == 1000


def test_one_base_url_only():
    with pytest.raises(ValidationError, match="vllm_server"):
        OpenAI(model="m", base_url="http://h:1-2/v1")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(502, "<html>bad gateway</html>"),
        Fault(503),
        Fault(429, headers={"Retry-After": "7200"}),
        Fault(409),
        Fault(reset=True),
        Fault(200, say("x"), short=True),
        Fault(200, "<html>login</html>", headers={"Content-Type": "text/html"}),
        Fault(200, '{"choices": [{"mess'),
        Fault(200, b"\xff\xfe"),
        Fault(200, "[" * 100_000),
        Fault(200, {"object": "list"}),
    ],
)
def test_what_time_cures_is_asked_again(server, fault):
    server.fail(fault)
    (reply,) = complete(server)
    assert reply.text == '{"kind": "summary"}'
    assert len(server.posts) == 2


def test_a_slow_drip_ends_at_the_total_deadline(server):
    server.fail(Fault(200, say("x"), drip=0.1))
    started = time.monotonic()
    complete(server, client={"request_timeout": 0.3})
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("choices", [[], None])
def test_no_choices_is_an_empty_reply(server, choices):
    server.chat = lambda _: {"choices": choices}
    assert complete(server)[0].text is None


def test_a_filtered_reply_is_a_value_and_a_filtered_request_is_rejected(server):
    server.chat = lambda _: say(None, finish_reason="content_filter")
    assert complete(server)[0].finish_reason == "content_filter"
    server.fail(Fault(400, {"error": {"message": "policy", "code": "content_filter"}}))
    with pytest.raises(RequestRejected, match="filtered"):
        complete(server)


def test_refusals(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-2")
    server.fail(Fault(401, {"error": {"message": "Incorrect API key: sk-canary-2"}}))
    with pytest.raises(ServerRefused, match="api_key_env") as caught:
        complete(server, api_key_env="OPENAI_API_KEY")
    assert "canary" not in str(caught.value)
    server.models = ("small",)
    with pytest.raises(ServerRefused, match="'small'"):
        complete(server)
    with Loopback() as other:
        server.fail(Fault(307, "", headers={"Location": other.url}))
        with pytest.raises(ServerRefused, match=str(other.port)):
            complete(server)
        assert other.log == []


def test_a_server_that_goes_away_ends_as_an_outage(server):
    async def run():
        async with opened(server, client={"outage": 30.0}) as model:
            await model.complete(ask())
            server.stop()
            with pytest.raises(ServerUnavailable, match=r"limits\.outage") as caught:
                await model.complete(ask(1))
            assert caught.value.exit_code == 75

    asyncio.run(run())


def test_a_server_that_never_was_there_is_refused(server):
    server.stop()
    with pytest.raises(ServerRefused, match=r"no server answers .*limits\.startup") as caught:
        complete(server, client={"startup": 30.0})
    assert caught.value.exit_code == 5


def test_a_lone_poisoned_item_is_rejected(server):
    server.rule = lambda seen: Fault(500) if "poison" in seen.text else None
    with pytest.raises(RequestRejected, match="server_error"):
        complete(server, requests=[ask(text="poison")])


def test_the_probe_sees_through_a_server_without_schemas(server):
    async def probe(**options):
        async with opened(server, **options) as model:
            return (await model.probe())[0]

    assert asyncio.run(probe()).constrained is True
    server.chat = lambda _: say(json.dumps({"word": "no"}))
    assert "json_object" in asyncio.run(probe()).problems[0]
    assert asyncio.run(probe(structured="json_object")).constrained is None


def _every(base):
    return {base} | {deeper for direct in base.__subclasses__() for deeper in _every(direct)}


def _status(code):
    request = httpx2.Request("POST", "http://h/v1")
    return lambda cls: cls("words", response=httpx2.Response(code, request=request, text="words"), body=None)


_REQUEST = httpx2.Request("POST", "http://h/v1")


def _bare(cls):
    exc = cls.__new__(cls)
    Exception.__init__(exc, "words")
    return exc


_OF_OPENAI = {  # how to make one, and what it means; the nearest base class counts
    openai.BadRequestError: (_status(400), RequestRejected),
    openai.AuthenticationError: (_status(401), TransientError),
    openai.PermissionDeniedError: (_status(403), TransientError),
    openai.NotFoundError: (_status(404), NotFoundError),
    openai.ConflictError: (_status(409), TransientError),
    openai.UnprocessableEntityError: (_status(422), RequestRejected),
    openai.RateLimitError: (_status(429), TransientError),
    openai.InternalServerError: (_status(503), TransientError),
    openai.APIStatusError: (_status(302), ServerRefused),
    openai.APITimeoutError: (lambda cls: cls(_REQUEST), TransientError),
    openai.APIConnectionError: (lambda cls: cls(request=_REQUEST), TransientError),
    openai.APIResponseValidationError: (lambda cls: cls(httpx2.Response(200, request=_REQUEST), None), TransientError),
    openai.APIError: (lambda cls: cls("words", _REQUEST, body=None), TransientError),
    openai.LengthFinishReasonError: (_bare, RequestRejected),
    openai.ContentFilterFinishReasonError: (lambda cls: cls(), RequestRejected),
    openai.OpenAIError: (_bare, ServerRefused),
}
_NOT_OF_REQUESTS = {
    "APIRemovedInV1",
    "MissingDependencyError",
    "MutuallyExclusiveAuthError",
    "StreamAlreadyConsumed",
    "SubjectTokenProviderError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "_AmbiguousModuleClientUsageError",
}


@pytest.mark.parametrize("cls", sorted(_every(openai.OpenAIError), key=lambda c: c.__name__))
def test_every_exception_of_openai_has_a_meaning(cls):
    nearest = next(base for base in inspect.getmro(cls) if base in _OF_OPENAI)
    known = nearest is not openai.OpenAIError or cls is nearest or cls.__name__ in _NOT_OF_REQUESTS
    assert known, f"{cls.__name__} is new: say in sdk_error what it means"
    make, expected = _OF_OPENAI[nearest]
    if cls.__name__ == "OAuthError":
        make = _bare_status
    assert type(sdk_error(make(cls), "http://h/v1", 0.0, Redactor())) is expected


def _bare_status(cls):
    exc = _bare(cls)
    exc.response = httpx2.Response(401, request=_REQUEST, text="words")
    return exc
