"""The lean chat adapter against a real HTTP server: what it sends, reads and refuses."""

import asyncio
import shutil
import ssl
import subprocess
import time

import pytest
from asking import SCHEMA, Said, ask, complete, opened
from loopback import Fault, Loopback, say

from synth.batching import gathered
from synth.errors import JobError, RequestRejected, ServerRefused
from synth.llm.vllm_server import VllmServer
from synth.stage import ClientSettings


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


def test_the_request_says_everything_that_vllm_would_otherwise_fill_in(server):
    (reply,) = complete(server, extra_body={"include_reasoning": False})
    assert (reply.text, reply.finish_reason, reply.model) == ('{"kind": "summary"}', "stop", "tiny")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert server.posts[0].body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What would one ask?"}],
        "seed": 2**62 + 5,
        "max_completion_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
        "include_reasoning": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "config", "schema": SCHEMA, "strict": True}},
    }
    assert "authorization" not in server.posts[0].headers


def test_options_where_a_server_is_are_no_part_of_the_identity():
    one = VllmServer(model="tiny", base_urls=["http://a:1"], trust_env=True)
    two = VllmServer(model="tiny", base_urls=["http://b:2", "http://c:3"], ca_file="x", api_key_env="K")
    assert one.identity() == two.identity()
    assert one.identity() != VllmServer(model="tiny", base_urls=["http://a:1"], temperature=0.6).identity()


@pytest.mark.parametrize(
    ("body", "text", "finish"),
    [
        (say(None), None, "stop"),
        (say("", finish_reason="length"), "", "length"),
        (say(None, finish_reason="content_filter"), None, "content_filter"),
        ({"choices": []}, None, "stop"),
        ({"choices": None, "usage": None}, None, "stop"),
        ({"choices": [{"message": None}]}, None, "stop"),
    ],
)
def test_odd_replies_are_values(server, body, text, finish):
    server.chat = lambda _: body
    (reply,) = complete(server)
    assert (reply.text, reply.finish_reason) == (text, finish)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_the_run_at_once_and_is_not_shown(server, status, monkeypatch):
    monkeypatch.setenv("LOOP_KEY", "sk-canary-77")
    server.rule = lambda seen: Fault(status, {"error": {"message": f"no: {seen.headers['authorization']}"}})
    with pytest.raises(ServerRefused, match="api_key_env") as caught:
        complete(server, api_key_env="LOOP_KEY")
    assert "canary" not in str(caught.value)
    assert len(server.log) == 1
    assert server.log[0].headers["authorization"] == "Bearer sk-canary-77"


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_that_fails_in_the_middle_is_tried_three_times(server, status):
    async def run():
        async with opened(server) as model:
            await model.complete(ask())
            server.fail(Fault(status))
            await model.complete(ask(1))
            server.rule = lambda _: Fault(status)
            before = len(server.log)
            with pytest.raises(ServerRefused):
                await model.complete(ask(2))
            assert len(server.log) - before == 4

    asyncio.run(run())


def test_an_unknown_model_is_refused_with_what_there_is(server):
    server.models = ("small", "large")
    with pytest.raises(ServerRefused, match="'small', 'large'"):
        complete(server)
    assert server.posts == []


def test_a_server_without_this_path_is_refused(server):
    server.rule = lambda seen: Fault(404, {"detail": "Not Found"}) if seen.method == "POST" else None
    with pytest.raises(ServerRefused, match="/chat/completions"):
        complete(server)


def test_another_checkpoint_after_a_restart_is_refused(server):
    async def run():
        async with opened(server) as model:
            await model.complete(ask())
            server.stop()
            task = asyncio.create_task(model.complete(ask(1)))
            await asyncio.sleep(0.05)
            server.root = "/checkpoints/other"
            server.start()
            with pytest.raises(ServerRefused, match="/checkpoints/other"):
                await task

    asyncio.run(run())


def test_a_prompt_that_does_not_fit_is_rejected_at_once(server):
    server.fail(Fault(400, {"error": {"message": "This model's maximum context length is 9 tokens."}}))
    with pytest.raises(RequestRejected) as caught:
        complete(server)
    assert caught.value.reason == "too_long"
    assert len(server.posts) == 1


def test_bad_requests_from_the_start_are_the_jobs_fault_later_ones_the_items(server):
    bad = Fault(400, {"error": {"message": "Grammar error: no"}})

    async def run():
        async with opened(server) as model:
            server.fail(*[bad] * 20)
            with pytest.raises(ServerRefused, match="Grammar error"):
                await gathered(model.complete(ask(i)) for i in range(4))
            assert 20 <= len(server.posts) < 24
        async with opened(server) as model:
            server.rule = lambda seen: bad if "zebra" in seen.text else None
            results = await asyncio.gather(
                *(model.complete(ask(i, "zebra" if i == 0 else "fine")) for i in range(4)), return_exceptions=True
            )
            assert isinstance(results[0], RequestRejected)
            assert not any(isinstance(result, BaseException) for result in results[1:])
            server.rule = lambda _: None
        async with opened(server) as model:
            await model.complete(ask())
            server.fail(*[bad] * 25)
            for i in range(25):
                with pytest.raises(RequestRejected):
                    await model.complete(ask(i))

    asyncio.run(run())


def test_redirects_are_not_followed(server):
    with Loopback() as other:
        server.fail(Fault(307, "", headers={"Location": f"{other.url}/chat/completions"}))
        with pytest.raises(ServerRefused, match=str(other.port)):
            complete(server)
        assert other.log == []


def test_proxies_are_used_only_with_trust_env_and_never_for_this_machine(server, monkeypatch):
    with Loopback() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        complete(server)
        complete(server, trust_env=True)
        assert proxy.log == []
        proxy.rule = lambda _: Fault(401)
        with pytest.raises(ServerRefused):
            complete("http://synth.invalid/v1", trust_env=True)
        assert proxy.log[0].headers["host"] == "synth.invalid"


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(pem), "-subj", "/CN=loop", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    return pem, key


def test_an_unknown_certificate_is_refused_and_ca_file_cures_it(certificate):
    pem, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    with Loopback(tls=context) as server:
        with pytest.raises(ServerRefused, match="ca_file"):
            complete(server)
        assert server.log == []
        assert complete(server, ca_file=str(pem))[0].text == '{"kind": "summary"}'
        with pytest.raises(ServerRefused):
            complete(server.url.replace("127.0.0.1", "localhost"), ca_file=str(pem))


def test_another_name_in_the_reply_is_told_once(server):
    server.chat = lambda _: say("{}", model="tiny-v2")
    said = Said()
    complete(server, requests=[ask(i) for i in range(5)], said=said)
    assert len(said) == 1
    assert "tiny-v2" in said[0]


def test_the_probe_finds_a_server_that_does_not_hold_replies_to_the_schema(server):
    async def probe():
        async with opened(server, "http://127.0.0.1:9/v1") as model:
            return await model.probe()

    good, dead = asyncio.run(probe())
    assert (good.reachable, good.constrained, good.problems) == (True, True, ())
    assert (good.models, good.max_model_len, good.version, good.remote) == (("tiny",), 4096, "0.32.0", False)
    assert not dead.reachable
    server.chat = lambda _: say('{"word": "sure"}')
    assert "schema" in asyncio.run(probe())[0].problems[0]
    server.chat = lambda _: say("  ", finish_reason="length")
    assert "disable_any_whitespace" in asyncio.run(probe())[0].problems[0]
    server.models = ("other",)
    assert asyncio.run(probe())[0].problems


def test_a_missing_key_is_told_before_any_request(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(JobError, match="NO_SUCH_KEY"):
        VllmServer(model="tiny", base_urls=["http://h"], api_key_env="NO_SUCH_KEY").open(ClientSettings())


def test_slots_follow_the_job_or_the_number_of_servers(server):
    async def slots(**client):
        async with opened(server, server.url.replace("127.0.0.1", "localhost"), client=client) as model:
            return model.slots

    assert asyncio.run(slots()) == 2048
    assert asyncio.run(slots(concurrency=7)) == 7


@pytest.mark.slow
def test_many_requests_in_flight_cost_no_more_each_than_few():
    with Loopback() as server:
        server.latency = 0.2

        async def cost(count):
            async with opened(server, client={"concurrency": count, "request_timeout": 60.0}) as model:
                await model.complete(ask())
                before = time.thread_time()
                await asyncio.gather(*(model.complete(ask(i)) for i in range(count)))
                return (time.thread_time() - before) / count

        few, many = asyncio.run(cost(50)), asyncio.run(cost(800))
        assert many < 3 * few + 0.001


ENGINE = 'vllm:num_requests_{what}{{engine="{number}",model_name="tiny"}} 0.0\n'


def engines(count):
    """A rule for a server of so many data-parallel engines."""
    page = "".join(ENGINE.format(what=what, number=n) for what in ("running", "waiting") for n in range(count))
    return lambda seen: Fault(200, page) if seen.path == "/metrics" else None


def test_each_passage_stays_with_one_of_the_engines_behind_a_url_and_all_get_some(server):
    server.rule = engines(3)
    server.latency = 0.2

    async def run():
        async with opened(server) as model:
            for slot in range(2):
                await gathered(model.complete(ask(n, f"passage {n}", slot)) for n in range(6))

    asyncio.run(run())
    ranks = {n: [p.headers["x-data-parallel-rank"] for p in server.posts if f"passage {n}" in p.text] for n in range(6)}
    assert all(first == second for first, second in ranks.values())
    assert sorted(first for first, _ in ranks.values()) == ["0", "0", "1", "1", "2", "2"]


def test_a_server_with_one_engine_or_without_metrics_gets_no_rank(server):
    server.rule = engines(1)
    complete(server)
    server.rule = lambda seen: Fault(404) if seen.path == "/metrics" else None
    complete(server)
    assert not any("x-data-parallel-rank" in seen.headers for seen in server.posts)


def test_a_probe_counts_the_engines(server):
    server.rule = engines(2)

    async def probed():
        async with opened(server) as model:
            return await model.probe()

    assert asyncio.run(probed())[0].engines == 2


def test_a_lone_surrogate_goes_out_and_comes_back_as_it_was(server):
    server.chat = lambda _: say("half \ud83d of a pair")
    (reply,) = complete(server, requests=[ask(0, "what is \ud800 here?")])
    assert server.posts[0].body["messages"][1]["content"] == "what is \ud800 here?"
    assert reply.text == "half \ud83d of a pair"
