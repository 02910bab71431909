"""What of the environment reaches a server: the key that the job names, and nothing else."""

import pytest
from asking import asked
from loopback import Fault, Loopback

from synth.embed.openai import OpenAIEmbedder
from synth.embed.vllm_server import VllmServerEmbedder
from synth.errors import ServerRefused
from synth.llm.openai import OpenAI
from synth.llm.vllm_server import VllmServer
from synth.rerank.chat_logprobs import ChatLogprobsReranker
from synth.rerank.vllm_server import VllmServerReranker

KINDS = [OpenAI, VllmServer, OpenAIEmbedder, VllmServerEmbedder, ChatLogprobsReranker, VllmServerReranker]
AMBIENT = {
    "OPENAI_ORG_ID": "org-1",
    "OPENAI_PROJECT_ID": "proj-1",
    "OPENAI_ADMIN_KEY": "sk-admin-1",
    "OPENAI_API_KEY": "sk-openai-1",
    "OPENAI_CUSTOM_HEADERS": "X-Tenant: tenant-1\nAuthorization: Bearer ambient-1",
    "OPENAI_BASE_URL": "http://ambient.invalid/v1",
    "VLLM_API_KEY": "sk-vllm-1",
    "HF_TOKEN": "hf-1",
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of aiohttp, for the openai package
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}")


@pytest.fixture
def server():
    with Loopback() as started:
        likely = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -3.0}]
        listed = {"content": [likely[0] | {"top_logprobs": likely}]}
        verdict = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop", "logprobs": listed}
        scored = Fault(200, {"data": [{"index": 0, "score": 0.9}]})
        judged = Fault(200, {"model": "tiny", "choices": [verdict]})
        started.rule = lambda seen: (
            scored if seen.path == "/v1/score" else judged if "logprobs" in (seen.body or {}) else None
        )
        yield started


@every
@pytest.mark.parametrize("options", [{}, {"api_key_env": None}, {"api_key_env": "MY_KEY"}], ids=str)
def test_only_the_key_that_the_job_names_is_sent(kind, options, server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-mine-1")
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    asked(kind, server.url, **options)
    for seen in server.log:
        assert seen.headers.get("authorization") == ("Bearer sk-mine-1" if options.get("api_key_env") else None)
        sent = " ".join(f"{name}: {value}" for name, value in seen.headers.items()) + seen.text
        assert not [
            value
            for value in ("org-1", "proj-1", "admin", "tenant", "ambient", "sk-o", "sk-v", "hf-1")
            if value in sent
        ]
        assert not [
            name for name in seen.headers if name.startswith(("openai-", "x-stainless-os", "x-stainless-runtime"))
        ]


@every
def test_a_proxy_gets_its_own_credentials_and_the_server_none(kind, server, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine synth.invalid login me password netrc-1\nmachine 127.0.0.1 login me password netrc-2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_bytes(netrc.read_bytes())
    monkeypatch.setenv("MY_KEY", "sk-mine-1")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1").replace("//", "//proxy-user:proxy-pw@"))
    asked(kind, "http://synth.invalid/v1", trust_env=True, api_key_env="MY_KEY")
    asked(kind, "http://synth.invalid/v1", trust_env=True)
    posts = [seen.headers for seen in server.posts]
    assert [headers.get("authorization") for headers in posts] == ["Bearer sk-mine-1", None]
    assert {headers["proxy-authorization"] for headers in posts} == {"Basic cHJveHktdXNlcjpwcm94eS1wdw=="}


@every
def test_a_proxy_that_refuses_is_shown_without_its_credentials(kind, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1").replace("//", "//proxy-user:proxy-pw@"))
    server.rule = lambda _: Fault(407, {"error": {"message": "proxy authentication required"}})
    with pytest.raises(ServerRefused, match="407") as caught:
        asked(kind, "http://synth.invalid/v1", trust_env=True)
    assert "proxy-pw" not in str(caught.value)


@pytest.mark.parametrize("url", [None, "https://api.openai.com/v1", "https://eu.api.openai.com"])
def test_the_key_of_openai_is_named_for_openai_alone(url):
    assert OpenAI(model="m", base_url=url).api_key_env == "OPENAI_API_KEY"
    assert OpenAI(model="m", base_url=url, api_key_env=None).api_key_env is None
    assert OpenAI(model="m", base_url="https://openai.com.example/v1").api_key_env is None
