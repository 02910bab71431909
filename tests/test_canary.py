"""T13: a key that is easy to recognise goes through runs that fail in every way; it must stand nowhere afterwards."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from loopback import Fault, Loopback
from running import completion, job_dict, write_corpus, write_job

from synth.cli import main

pytestmark = pytest.mark.faults

KEY = "sk-canary-7f/3+Zq=9Kd%41-tweet"
ROOT = Path(__file__).parents[1]
WAIT = threading.Event()


def forms(secret):
    """The secret as it may be written: plain, in URLs, in JSON, in hex, in base64 at each place in a group of three."""
    plain = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret.encode()).decode()
        plain.add(coded[4 * (shift > 0) : -4].rstrip("="))
        plain.add(coded[4 * (shift > 0) : -4].replace("+", "-").replace("/", "_"))
    return sorted(plain)


def test_the_search_finds_the_secret_in_every_form():
    for text in (KEY, quote(KEY, safe=""), base64.b64encode(f"user:{KEY}".encode()).decode(), KEY.encode().hex()):
        assert any(form in text for form in forms(KEY)), text


class Told:
    """Runs commands with the key in the environment and keeps what they print."""

    def __init__(self, folder):
        self.folder = folder
        self.said = []

    def here(self, *arguments):
        """In this process, which is quicker."""
        output, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            code = main([str(each) for each in arguments])
        self.said += [output.getvalue(), error.getvalue()]
        return code

    def __call__(self, *arguments, kill_after=None):
        environment = os.environ | {"CANARY": KEY, "OPENAI_LOG": "debug", "PYTHONASYNCIODEBUG": "1"}
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder)])}
        command = [sys.executable, "-m", "synth", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if kill_after is not None:
            kill_after()
            process.kill()
        output, error = process.communicate(timeout=90)
        self.said += [output, error]
        return process.returncode


def echoing(server):
    """Errors of every kind that give the request's key back, in all its forms."""

    def body(seen):
        sent = seen.headers.get("authorization", "")
        shown = [sent, quote(sent, safe=""), base64.b64encode(sent.encode()).decode(), json.dumps(dict(seen.headers))]
        key = sent.removeprefix("Bearer ")
        shown += [quote(key, safe=""), base64.b64encode(key.encode()).decode()]
        return {"error": {"message": f"not with {' '.join(shown)}", "code": "x"}}

    faults = {3: 500, 5: 429, 7: 503, 9: 400, 11: 400, 13: 422}

    def rule(seen):
        number = len(server.posts)
        return Fault(faults[number], body(seen)) if seen.method == "POST" and number in faults else None

    def refuse(seen):
        return Fault(401, body(seen)) if seen.method == "POST" else None

    return rule, refuse


CRASHING = '''
import pyarrow as pa
from synth.scores import ScoreColumn, Scorer


class Crashing(Scorer):
    """Fails where nobody expects it."""

    outputs = (ScoreColumn("never", pa.float64()),)

    async def score(self, batch, services):
        raise ZeroDivisionError(f"in the middle of it, with {services}")
'''


@pytest.mark.parametrize("use", ["vllm_server", "openai"])
def test_the_key_stands_in_no_file_and_no_stream(tmp_path, use, monkeypatch):
    monkeypatch.setenv("CANARY", KEY)
    write_corpus(tmp_path / "docs.jsonl", 20)
    (tmp_path / "crashing.py").write_text(CRASHING)
    told = Told(tmp_path)
    with Loopback() as server:
        server.chat = completion
        served = {"use": use, "model": "tiny", "api_key_env": "CANARY"}
        served |= {"base_urls": [server.url]} if use == "vllm_server" else {"base_url": server.url}
        settings = job_dict(server.url, tmp_path, llm=served, embed=served)
        job = write_job(tmp_path, settings | {"run": {"shard_size": 4, "concurrency": 2}})
        out = tmp_path / "out"
        rule, refuse = echoing(server)

        assert told.here("check", job) == 0
        assert told.here("check", job, "--json") == 0
        assert told.here("preview", job, "-n", "1") == 0
        server.log.clear()
        server.rule = refuse
        assert told.here("run", job, "-o", out) == 5
        assert told.here("check", job) == 5
        server.log.clear()
        server.rule = rule
        reached = lambda: wait_for(lambda: len(server.posts) > 25)  # noqa: E731 - reads as what it is
        assert told("run", job, "-o", out, kill_after=reached) == -9
        assert told("run", job, "-o", out) == 0
        crashing = write_job(tmp_path, settings | {"scores": [{"use": "crashing:Crashing"}], "keep": {}})
        assert told("run", crashing, "-o", tmp_path / "crashed") == 1
        assert any("ZeroDivisionError" in text for text in told.said)
        for more in ("status", "verify", "show"):
            assert told.here(more, out) == 0
        assert told.here("show", out, "--rejected", "-n", "50") == 0
        assert {seen.headers.get("authorization") for seen in server.posts} == {f"Bearer {KEY}"}

    found = [f"{place}: {form}" for place, text in everything(tmp_path, told) for form in forms(KEY) if form in text]
    assert found == []


def wait_for(condition):
    """Until a condition holds that the server's thread brings about."""
    for _ in range(6000):
        if condition():
            return

        WAIT.wait(0.01)
    raise AssertionError("it never came to that")


def everything(folder, told):
    """Every stream, every file as it lies on the disk, and every Parquet file unpacked, metadata and cells."""
    for n, text in enumerate(told.said):
        yield f"stream {n}", text
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield str(path.relative_to(folder)), path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield f"{path} unpacked", json.dumps(table.to_pylist(), default=str, ensure_ascii=False)
            yield f"{path} metadata", str(table.schema.metadata)
