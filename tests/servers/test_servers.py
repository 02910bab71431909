"""URLs, keys, error texts, Retry-After, and which server a request goes to."""

import asyncio
import base64
import pickle
import re

import pytest
from loopback import FastClock
from pydantic import SecretStr, ValidationError

from synth.errors import JobError, RequestRejected, ServerRefused, ServerUnavailable
from synth.llm.vllm_server import VllmServer
from synth.servers.faults import (
    MAX_RETRY_AFTER,
    Answer,
    NotFoundError,
    Redactor,
    TransientError,
    expand_urls,
    is_loopback,
    retry_after,
    shown,
    status_error,
)
from synth.servers.http import ServerAuth
from synth.servers.limiter import AdaptiveLimit
from synth.servers.pool import Pool
from synth.servers.sdk import Provider
from synth.stage import ClientSettings

WALL = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def test_a_range_of_ports_is_that_many_servers():
    urls = expand_urls(["http://gpu1:8000-8002/v1", "https://gpu2/api/v2/"])
    assert urls == ["http://gpu1:8000/v1", "http://gpu1:8001/v1", "http://gpu1:8002/v1", "https://gpu2/api/v2"]


def test_a_bare_host_gets_v1():
    assert expand_urls(["http://gpu1:8000", "http://gpu1:9000/"]) == ["http://gpu1:8000/v1", "http://gpu1:9000/v1"]


@pytest.mark.parametrize(
    "written",
    [
        "ftp://h/v1",
        "h:8000",
        "http://",
        "http://u:secret@h/v1",
        "http://h/v1?key=secret",
        "http://h:9-8/v1",
        "http://h:99999/v1",
    ],
)
def test_a_url_that_cannot_be_a_base_url_is_refused_without_showing_secrets(written):
    with pytest.raises(ValueError, match=r".") as caught:
        expand_urls([written])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/embeddings/", "http://localhost:8000/v1"),
        ("http://gpu1:8000/v1/score", "http://gpu1:8000/v1"),
        ("http://localhost:11434/api/chat", "http://localhost:11434/v1"),
        ("https://h.example/v1/models?limit=2", "https://h.example/v1"),
        ("http://local host:8000/v1", "http://localhost:8000/v1"),
        ("http://h\n:8000/v1", "http://h:8000/v1"),
        ('"http://h:8000/v1"', "http://h:8000/v1"),
        ("http:\\\\h:8000\\v1", "http://h:8000/v1"),
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("10.0.0.7:8000", "http://10.0.0.7:8000/v1"),
        ("api.example.com/v1", "https://api.example.com/v1"),
        ("htpp://h:8000", "http://h:8000/v1"),
        ("https:/h.example/v1", "https://h.example/v1"),
        ("http://http://h:8000/v1", "http://h:8000/v1"),
        ("http://h/v1?key=secret", "http://h/v1"),
    ],
)
def test_a_mistaken_url_is_answered_with_the_right_one(written, right):
    with pytest.raises(ValueError, match=f"; write {re.escape(right)}$"):
        expand_urls([written])
    assert expand_urls([right]) == [right]


@pytest.mark.parametrize("written", ["http://", "http://::1:8000/v1", "http://h:1/v1 http://h:2/v1", "http://[::1/v1"])
def test_no_url_is_guessed_where_it_would_be_wrong(written):
    with pytest.raises(ValueError, match=r"URL") as caught:
        expand_urls([written])
    assert "write" not in str(caught.value)


def test_the_same_server_twice_is_a_mistake():
    with pytest.raises(ValueError, match="named twice"):
        expand_urls(["http://h:8000-8001/v1", "http://h:8001"])


def test_bad_urls_are_reported_by_the_job_file():
    with pytest.raises(ValidationError, match="not an http or https URL"):
        VllmServer(model="m", base_urls=["gpu1:8000"])


def test_shown_urls_have_no_user_and_no_query():
    assert shown("https://me:pw@h:1/v1?key=k#f") == "https://h:1/v1"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_loopback_is_known(url, local):
    assert is_loopback(url) is local


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:20 GMT"}, 20.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"retry-after": "86400"}, MAX_RETRY_AFTER),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after(headers, WALL) == seconds


def test_error_bodies_are_short_unprintables_escaped_and_the_key_gone():
    key = "sk-canary-1/2+3"
    hide = Redactor(SecretStr(key))
    forms = [key, base64.b64encode(key.encode()).decode(), "sk-canary-1%2F2%2B3"]
    said = hide(" ".join(forms) + " \x1b[2J\u202e\n" + "x" * 900)
    assert len(said) <= 500
    assert not any(form in said for form in forms)
    assert said.isprintable()
    assert "\\x1b[2J\\u202e\\n" in said


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            b'{"error":{"message":"This model\'s maximum context length is 8 tokens","param":"input_tokens"}}',
            "too_long",
        ),
        (400, b'{"error":{"message":"x","code":"context_length_exceeded"}}', "too_long"),
        (413, b"", "too_long"),
        (422, b'{"error":"inputs are too long"}', "too_long"),
        (400, b'{"error":{"message":"no","code":"content_filter"}}', "filtered"),
        (400, b'{"error":{"message":"Grammar error"}}', "bad_request"),
        (400, b"[[[", "bad_request"),
        (401, b"", "denied"),
        (403, b"", "denied"),
        (402, b"", "spent"),
        (429, b"", "throttled"),
        (503, b"", "overloaded"),
        (500, b"<html>", "failed"),
        (408, b"", "failed"),
        (599, b"", "failed"),
    ],
)
def test_every_status_has_its_meaning(status, body, expected):
    exc = status_error(Answer(status, {}, body), "http://h/v1", WALL, Redactor())
    assert isinstance(exc, RequestRejected | TransientError)
    assert (exc.reason if isinstance(exc, RequestRejected) else exc.kind) == expected


def test_statuses_that_waiting_does_not_cure():
    assert isinstance(status_error(Answer(404, {}, b""), "s", WALL, Redactor()), NotFoundError)
    assert isinstance(status_error(Answer(405, {}, b""), "s", WALL, Redactor()), ServerRefused)
    moved = status_error(Answer(307, {"location": "http://u:p@else/v1?k=1"}, b""), "s", WALL, Redactor())
    assert isinstance(moved, ServerRefused)
    assert "http://else/v1" in str(moved)
    assert "p@" not in str(moved)


def test_the_key_comes_from_the_environment_and_stays_out_of_sight(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-canary")
    access = ServerAuth(api_key_env="MY_KEY")
    key = access.key()
    assert key is not None
    assert key.get_secret_value() == "sk-canary"
    assert "canary" not in repr(access) + repr(key) + access.model_dump_json() + str(pickle.loads(pickle.dumps(access)))  # noqa: S301 - our own bytes
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(JobError, match="MY_KEY"):
        access.key()


def test_a_missing_ca_file_is_a_mistake_of_the_job(tmp_path):
    with pytest.raises(JobError, match="ca_file"):
        ServerAuth(ca_file=str(tmp_path / "none.pem")).tls()


def test_a_provider_named_by_url_may_do_without_a_key_but_openai_may_not(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert Provider(base_url="http://localhost:1234").key() is None
    with pytest.raises(JobError, match="OPENAI_API_KEY"):
        Provider().key()
    with pytest.raises(ValidationError, match="secret"):
        Provider(extra_headers={"API-Key": "k"})


def _pool(count, speed=1000.0, **settings):
    said = []
    client = ClientSettings(notify=said.append, clock=FastClock(speed), **settings)
    urls = [f"http://h:{port}/v1" for port in range(count)]
    return Pool(urls, client, lambda _: AdaptiveLimit(None, client.clock)), said


def _in_loop(check):
    async def run():
        check()

    asyncio.run(run())


def test_a_position_keeps_its_server_and_only_those_of_a_dead_one_move():
    def check():
        pool, said = _pool(5, speed=1.0)
        before = {position: pool.pick(position)[0] for position in range(500)}
        dead = pool.servers[2]
        shares = [sum(e is endpoint for e in before.values()) for endpoint in pool.servers]
        assert min(shares) > 60
        pool.answered(dead)
        pool.failed(dead, TransientError("refused", "unreachable"), 0.0, trial=False)
        after = {position: pool.pick(position)[0] for position in range(500)}
        assert all(after[p] is before[p] for p in after if before[p] is not dead)
        assert dead not in after.values()
        assert len(said) == 1

    _in_loop(check)


def test_one_request_at_a_time_tries_a_server_that_was_down():
    async def run():
        pool, said = _pool(1)
        only = pool.servers[0]
        pool.failed(only, TransientError("refused", "unreachable"), FastClock().now(), trial=False)
        with pytest.raises(TransientError) as waiting:
            pool.pick(1)
        assert waiting.value.kind == "waiting"
        await FastClock().sleep(1.5)
        assert pool.pick(1) == (only, True)
        with pytest.raises(TransientError):
            pool.pick(2)
        only.on_trial = False
        pool.answered(only)
        assert pool.pick(3) == (only, False)
        assert len(said) == 2
        assert said[1].endswith("is back")

    asyncio.run(run())


def test_the_outage_clock_starts_at_the_first_failure_and_stops_at_any_answer():
    async def run():
        pool, _ = _pool(2, outage=100.0, startup=10.0)
        clock = FastClock()
        first, second = pool.servers
        pool.answered(first)
        pool.failed(first, TransientError("500"), clock.now(), trial=False)
        assert 0 < pool.remaining() <= 100
        pool.answered(second)
        assert pool.remaining() == float("inf")
        pool.failed(first, TransientError("500"), clock.now(), trial=False)
        await clock.sleep(120)
        with pytest.raises(ServerUnavailable, match=r"limits\.outage"):
            pool.failed(second, TransientError("500"), clock.now(), trial=False)

    asyncio.run(run())


def test_before_the_first_answer_startup_counts():
    async def run():
        pool, _ = _pool(1, outage=1000.0, startup=10.0)
        clock = FastClock()
        with pytest.raises(ServerUnavailable, match=r"limits\.startup"):
            pool.failed(pool.servers[0], TransientError("503", "overloaded"), clock.now() - 11, trial=False)

    asyncio.run(run())
