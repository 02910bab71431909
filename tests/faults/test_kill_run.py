"""Whole runs killed with -9 at random moments: nothing lost, nothing doubled, only calls in flight asked again."""

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from loopback import Loopback
from running import audit, contents, job_dict, shards, write_corpus, write_job

from synth.cli import main

from .extractive_server import Server, write_templates

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

KILLS = 10
IN_FLIGHT = 8
CMRC = Path(__file__).parents[2].parent / "shared" / "data" / "retrieval" / "cmrc2018_zh"


class Count:
    """Sets its event at the POST of a given number; counts chat calls by what was asked."""

    def __init__(self, server):
        self.server = server
        self.reached = threading.Event()
        self.at = -1
        server.rule = self

    def __call__(self, _seen):
        if len(self.server.posts) >= self.at >= 0:
            self.reached.set()

    def arm(self, more):
        self.reached.clear()
        self.at = len(self.server.posts) + more

    def chats(self):
        return Counter(json.dumps(each.body, sort_keys=True) for each in self.server.posts if "messages" in each.body)


def start(job, out):
    command = [sys.executable, "-m", "synth", "run", job, "-o", out, "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(job, out):
    process = start(job, out)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told.decode()


def kill_at_random(process, count, within, rng):
    """At one of the next `within` calls and a moment after it; False when the run was done first."""
    count.arm(rng.randint(1, within))
    while process.poll() is None and not count.reached.wait(0.02):
        pass
    threading.Event().wait(rng.uniform(0, 0.03))
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def go(folder, corpus, code, slots, shard_size, *tasks):
    """A run without kills, then the same one killed ten times; prints what it took. Of several tasks: all their runs.

    A task is retrieval, with prompts that the server reads, or a mapping.
    """
    rng = random.Random(20)  # noqa: S311 - when to kill
    with Loopback() as server:
        server.chat = Server(code).answer
        count = Count(server)
        search = {"use": "retrieval", "prompts": str(write_templates(folder / "prompts"))}
        listed = [(each or search) | {"queries_per_passage": slots} for each in tasks or (None,)]
        more = {
            "task": listed[0],
            "run": {"shard_size": shard_size, "concurrency": IN_FLIGHT},
            "corpus": corpus,
        }
        job = job_dict(server.url, folder, **more)
        if tasks[1:]:
            own = {"scores": job.pop("scores"), "keep": job.pop("keep")}
            job = {**job, "tasks": [each | own | {"share": 1} for each in listed]}
            del job["task"]
        job = write_job(folder, job)
        finish(job, folder / "clean")
        clean = count.chats()
        server.log.clear()

        kills = 0
        while kills < KILLS:
            left = len(clean) - len(count.chats())
            process = start(job, folder / "out")
            if not kill_at_random(process, count, max(1, 2 * left // (KILLS - kills + 2)), rng):
                break
            kills += 1
        count.at = -1
        finish(job, folder / "out")
        asked = count.chats()
    runs = [each["use"] for each in listed] if tasks[1:] else ["."]
    pairs = [pair for run in runs for pair in audit(folder / "out" / run, slots)]
    repeated = sum(asked.values()) - len(asked)
    count_shards = sum(len(shards(folder / "out" / run, "generated")) for run in runs)
    print(  # noqa: T201 - the figures are what the test is for
        f"\n{count_shards} shards, {len(pairs)} pairs, {sum(clean.values())} calls without "
        f"kills; {kills} kills: {sum(asked.values())} calls, {repeated} repeated (at most {IN_FLIGHT * kills})"
    )
    assert kills == KILLS
    assert set(asked) == set(clean)
    assert repeated <= IN_FLIGHT * kills
    assert all(contents(folder / "out" / run) == contents(folder / "clean" / run) for run in runs)
    assert main(["verify", str(folder / "out"), "--deep"]) == 0


def test_ten_kills_of_a_run_over_an_own_corpus(tmp_path):
    write_corpus(tmp_path / "docs.jsonl", 320)
    go(tmp_path, {"name": "docs", "path": str(tmp_path / "docs.jsonl"), "language": "en"}, "en", 1, 32)


LABELS = ["boats", "trades", "plants"]


@pytest.mark.parametrize(
    ("slots", "tasks"),
    [(2, [{"use": "sts"}]), (1, [None, {"use": "bitext"}, {"use": "classification", "labels": LABELS}])],
    ids=["sts", "three tasks in one job"],
)
def test_ten_kills_of_a_run_of_other_tasks(tmp_path, slots, tasks):
    write_corpus(tmp_path / "docs.jsonl", 160)
    corpus = {"name": "docs", "path": str(tmp_path / "docs.jsonl"), "language": "en"}
    go(tmp_path, corpus, "en", slots, 16, *tasks)


@pytest.mark.slow
@pytest.mark.skipif(not CMRC.is_dir(), reason="the CMRC corpus is not beside this checkout")
def test_ten_kills_of_a_run_over_cmrc(tmp_path):
    (path,) = CMRC.glob("corpus.*")
    corpus = {"name": "cmrc", "path": str(path), "language": "zh-Hans"}
    go(tmp_path, corpus, "zh-Hans", 1, 50)
