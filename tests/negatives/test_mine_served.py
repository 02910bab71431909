"""The miner with an embedder and a reranker behind a loopback server, and killed with -9 between their answers."""

import json
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress

import mining
import pytest
from aiohttp import web
from faults import Died, Machine, output, running_on
from loopback import Loopback
from running import rows, run, write_job

from synth.cli.mine import mine_run as mine
from synth.errors import SystemFault
from synth.runners.mining import MineArgs

THINGS = ("ferry", "bakery", "glacier", "violin", "orchard", "quarry")
PLACES = ("Bergen", "Porto", "Graz", "Lviv")
OPTIONS = {"range": "0:20", "num_negatives": "3", "max_score": "null", "absolute_margin": "null", "near": "null"}


_WRITING = "(open|write|fsync|close|link|unlink|mkdir|rename|replace) (index|mined|rejected|wip|tmp|[.])"
CALLS = {action: re.compile(_WRITING) for action in ("die", "refuse:ENOSPC")} | {
    "die after": re.compile("write|link|unlink|mkdir|rename|replace"),
    "tear": re.compile("write"),
}


ROUND = 12 * 3
"""Pairs in flight at once: those of a shard, three candidates each."""


class Server(Loopback):
    """Also answers /v1/score: the verdict stands in the document, `P=0.95`, else it is 0.1."""

    def _serve(self, seen):
        if (seen.method, seen.path) != ("POST", "/v1/score"):
            return super()._serve(seen)
        found = [re.search(r"P=([\d.]+\d)", text) for text in seen.body["documents"]]
        data = [{"index": n, "score": float(each[1]) if each else 0.1} for n, each in enumerate(found)]
        return web.json_response({"model": seen.body["model"], "data": data[::-1]})

    def scored(self):
        """Requests to the reranker, by what was asked."""
        return Counter(json.dumps(each.body, sort_keys=True) for each in self.posts if each.path == "/v1/score")


def texts():
    for n, (thing, place) in enumerate((thing, place) for thing in THINGS for place in PLACES):
        mark = {1: " P=0.95", 2: " P=0.6", 7: " P=0.5"}.get(n, "")
        yield f"when was the {thing} of {place} founded", f"The {thing} of {place} is {n * 37} years old.{mark}"


def pairs(folder, size=6, **job):
    """A finished pass over 24 pairs in four shards."""
    lines = [{"query": query, "passage": passage} for query, passage in texts()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    base = {"data": {"path": str(folder / "pairs.jsonl"), "instruction": "Find the year."}}
    base |= {"embed": {"use": "mining:Bag"}, "scores": [{"use": "length"}], "keep": {}, "run": {"shard_size": size}}
    run(write_job(folder, base | job), folder / "out")
    return folder / "out"


def served(url):
    return {"use": "vllm_server", "model": "tiny", "base_urls": [url]}


def made(out):
    """What mining left for its readers: shards, rejected rows, the index; not what a killed one left aside."""
    kept = re.compile(r"(mined|rejected/mined|index)/(?!.*\btmp/)")
    return {name: content for name, content in output(out).items() if kept.match(name)}


def shards(out):
    return {name: content for name, content in made(out).items() if name.endswith(".parquet")}


def test_a_served_reranker_rejects_and_promotes(tmp_path):
    with Server() as server:
        out = pairs(tmp_path, embed=served(server.url))
        options = OPTIONS | {"reranker": json.dumps(served(server.url) | {"batch_size": 5})}
        mine(out, MineArgs(options=options), as_json=True)
        asked = [each.body for each in server.posts if each.path == "/v1/score"]
    assert asked
    assert all(len(body["queries"]) == len(body["documents"]) <= 5 for body in asked)
    assert {body["instruction"] for body in asked} == {"Find the year."}
    found = rows(out, "mined")
    assert {each["reranker"] for row in found for each in row["negatives"]} == {0.1, 0.5}  # 0.5 is not above 0.5
    assert {each["reranker"] for row in found for each in row["extra_positives"]} == {0.95}
    assert {"reranker", "promoted"} <= {each["reason"] for row in found for each in row["refused"]}
    assert {len(row["negatives"]) for row in found} == {3}


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", CALLS)
def test_a_fault_at_any_system_call_changes_no_byte(tmp_path, action):
    options = MineArgs(options=OPTIONS | {"reranker": "{use: 'mining:Verdicts'}", "on_short": "drop"})
    base, clean, out = pairs(tmp_path, size=12), tmp_path / "clean", tmp_path / "again"
    shutil.copytree(base, clean)
    mining.asked.clear()
    with running_on(Machine(clean)) as machine:
        mine(clean, options, as_json=True)
    expected, labels = made(clean), machine.labels
    calls = len([each for each in mining.asked if each[0] == "pair"])
    numbers = [n for n, label in enumerate(labels, 1) if CALLS[action].match(label)]
    assert len(numbers) > 20
    for number in numbers:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base, out)
        mining.asked.clear()
        machine = Machine(out, lambda count, _, at=number: count == at, action)
        with suppress(Died, SystemFault, BaseExceptionGroup), running_on(machine):  # a group where a task died
            mine(out, options, as_json=True)
        mine(out, options, as_json=True)
        assert made(out) == expected, labels[number - 1]
        again = len([each for each in mining.asked if each[0] == "pair"]) - calls
        assert again <= ROUND, f"more than what was in flight was asked again: {labels[number - 1]}"


class Count:
    """Sets its event at the POST of a given number."""

    def __init__(self, server):
        self.server, self.reached, self.at = server, threading.Event(), -1
        server.rule = self

    def __call__(self, _seen):
        if len(self.server.posts) >= self.at >= 0:
            self.reached.set()

    def arm(self, more):
        self.reached.clear()
        self.at = len(self.server.posts) + more


def started(out, reranker):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items() if name != "near"]
    command = [sys.executable, "-m", "synth", "mine", str(out), *flags, "--reranker", reranker, "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_at_random_the_bytes_are_the_same_and_answers_are_not_asked_for_again(tmp_path):
    rng = random.Random(5)  # noqa: S311 - when to kill
    with Server() as server:
        base = pairs(tmp_path, embed=served(server.url))
        reranker = json.dumps(served(server.url) | {"batch_size": 2})
        clean, out = tmp_path / "clean", tmp_path / "again"
        for folder in (clean, out):
            shutil.copytree(base, folder)
        before = server.scored()
        _, told = started(clean, reranker).communicate(timeout=300)
        once = server.scored() - before
        assert once, told.decode()
        kills, count = 0, Count(server)
        before = server.scored()
        while True:
            count.arm(rng.randint(1, max(2, once.total() // 4)))
            process = started(out, reranker)
            while process.poll() is None and not count.reached.wait(0.02):
                pass
            if process.poll() is not None:
                break
            process.kill()
            process.communicate()
            kills += 1
        assert process.returncode == 0, process.stderr.read().decode()
        process.communicate()
        asked = server.scored() - before
    assert kills >= 3
    assert shards(out) == shards(clean)
    assert len(shards(out)) >= 4
    assert asked.keys() == once.keys()
    assert asked.total() - once.total() <= 8 * kills  # so many requests are in flight at once
