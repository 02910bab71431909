"""`synth relabel` killed with -9 among its model calls: the same bytes, and only calls in flight asked again."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from exporting import pairs
from loopback import Loopback, say
from running import shards

from synth.cli import main

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
IN_FLIGHT = 4
VERDICTS = ("answers", "partly", "no")


def answer(body):
    """A verdict by the passage's own text, with its first words as the quote."""
    passage = re.search(r"<passage>\n(.*)\n</passage>", body["messages"][-1]["content"])[1]
    return say(json.dumps({"Quote": passage[:20], "Verdict": VERDICTS[len(passage) % 3]}))


def bytes_of(out):
    """All shards of the step and their rejected rows."""
    steps = ("relabelled", "rejected/relabelled")
    return {f"{step}/{path.name}": path.read_bytes() for step in steps for path in shards(out, step)}


def test_kills_among_the_calls(tmp_path):
    with Loopback() as server:
        server.chat, server.latency = answer, 0.02
        out = pairs(tmp_path, negatives=0, size=8)
        shutil.copytree(out, tmp_path / "clean")
        llm = f"{{use: openai, model: tiny, base_url: '{server.url}', api_key_env: null}}"
        command = [sys.executable, "-m", "synth", "relabel", "--pool", "3", "--json"]
        command += ["-s", f"run.concurrency={IN_FLIGHT}"]
        command += ["--reranker", "{use: 'mining:Verdicts'}", "--negative-below", "0.05", "--llm", llm]
        place = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

        def start(folder):
            return subprocess.Popen([*command, folder], env=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def finished(folder):
            _, told = (process := start(folder)).communicate(timeout=120)
            assert process.returncode == 0, told.decode()

        finished(tmp_path / "clean")
        clean = Counter(json.dumps(each.body, sort_keys=True) for each in server.posts)
        assert clean.total() > 200
        server.log.clear()
        for at in (3, 40, 41, 150):
            reached = threading.Event()
            server.rule = lambda _, at=at, reached=reached: reached.set() if len(server.posts) >= at else None
            process = start(out)
            assert reached.wait(60)
            process.kill()
            process.communicate()
            server.rule = lambda _: None
        finished(out)
        asked = Counter(json.dumps(each.body, sort_keys=True) for each in server.posts)
    assert set(asked) == set(clean)
    assert asked.total() - clean.total() <= 4 * IN_FLIGHT, "only what was in flight is asked again"
    assert len(bytes_of(tmp_path / "clean")) > 8
    assert bytes_of(out) == bytes_of(tmp_path / "clean")
    assert main(["verify", str(out), "--deep"]) == 0
