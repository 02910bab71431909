"""What an embedder reads of long texts: known, unknown, and said by `synth check` before a run."""

import json

import pytest
from asking import asked, described
from loopback import Loopback, bag_of_words
from running import job_dict, write_job

from synth.cli import main
from synth.embed.openai import OpenAIEmbedder
from synth.embed.vllm_server import VllmServerEmbedder

WORDS = 40
"""Words that the server reads, some 240 characters."""


@pytest.fixture
def server():
    with Loopback() as started:
        yield started


def silently(server):
    server.embed = lambda text: bag_of_words(" ".join(text.split()[:WORDS]))


def openly(server):
    server.max_model_len = WORDS


def corpus(folder, words):
    """Three passages of so many words."""
    rows = [{"id": f"d{n}", "text": " ".join(f"w{n}{i:03}" for i in range(words))} for n in range(3)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def check(folder, server, use, capsys, **embed):
    where = {"base_url": server.url} if use == "openai" else {"base_urls": [server.url]}
    served = {"use": use, "model": "tiny", **where, **embed}
    job = write_job(folder, job_dict(server.url, folder, embed=served, llm={"use": "extractive"}))
    code = main(["check", str(job), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0, found
    return [text for text in found["warnings"] if "only in part" in text]


CASES = [("openai", silently), ("openai", openly), ("vllm_server", openly)]
cases = pytest.mark.parametrize(("use", "limit"), CASES, ids=lambda each: getattr(each, "__name__", each))


@cases
def test_check_says_which_passages_the_embedder_does_not_read_to_their_ends(use, limit, server, tmp_path, capsys):
    limit(server)
    corpus(tmp_path, 200)
    (warning,) = check(tmp_path, server, use, capsys)
    assert "reads 3 of the 3 passages" in warning
    assert "Set corpus.max_chars to 200 or use" in warning
    assert check(tmp_path, server, use, capsys, truncate="error") == [warning]


@cases
def test_check_says_nothing_where_all_is_read(use, limit, server, tmp_path, capsys):
    limit(server)
    corpus(tmp_path, WORDS - 12)
    assert check(tmp_path, server, use, capsys) == []
    server.embed, server.max_model_len = bag_of_words, 4096
    corpus(tmp_path, 200)
    assert check(tmp_path, server, use, capsys) == []


def test_people_are_told_too(server, tmp_path, capsys):
    silently(server)
    corpus(tmp_path, 200)
    served = {"use": "openai", "model": "tiny", "base_url": server.url}
    job = write_job(tmp_path, job_dict(server.url, tmp_path, embed=served, llm={"use": "extractive"}))
    assert main(["check", str(job)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "warning: embed: tiny reads 3 of the 3 passages" in out
    assert "apart from the warnings all is well; next:" in out


@pytest.mark.parametrize(
    ("kind", "url", "silent"),
    [
        (OpenAIEmbedder, "http://h/v1", True),
        (OpenAIEmbedder, None, False),
        (OpenAIEmbedder, "https://eu.api.openai.com/v1", False),
        (VllmServerEmbedder, "http://h/v1", False),
    ],
)
def test_only_servers_known_to_refuse_long_texts_cut_none_silently(kind, url, silent):
    assert described(kind, url).silent is silent


def test_what_such_a_server_accepts_may_be_cut(server):
    server.max_model_len = 4
    encoded = asked(OpenAIEmbedder, server.url, ["a b", "a b c d e f g"])
    assert encoded.silent
    assert encoded.truncated.tolist() == [False, True]
    assert not asked(VllmServerEmbedder, server.url, ["a b"]).silent
