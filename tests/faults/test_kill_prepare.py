"""A run killed with -9 while its labels are proposed, and once more later: the same bytes, and nothing asked twice."""

import json
import subprocess
import sys
import threading
from collections import Counter

import pytest
from loopback import Loopback, say
from running import contents, job_dict, write_corpus, write_job

from synth.cli import main

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
PASSAGES, IN_FLIGHT = 24, 4


def answer(body):
    """Labels made of the sample's own words; the first reply is too short a list, so a second one is asked for."""
    parts = body["response_format"]["json_schema"]["schema"]["properties"]
    if "Label" in parts:
        names = parts["Label"]["enum"]
        return say(json.dumps({"Label": names[body["seed"] % len(names)], "Misleading": names[:4]}))
    count = 3 if body["seed"] == answer.first else 7
    labels = [
        {"Label": f"kind {n} of {body['seed'] % 997}", "Definition": f"What is of kind {n}."} for n in range(count)
    ]
    return say(json.dumps({"Task": "Find the kind that a report is of, among those of the sample", "Labels": labels}))


def start(job, out):
    command = [sys.executable, "-m", "synth", "run", job, "-o", out, "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def killed(server, job, out, at):
    """A run that is killed as soon as the server has had so many requests."""
    reached = threading.Event()
    server.rule = lambda _: reached.set() if len(server.posts) >= at else None
    process = start(job, out)
    assert reached.wait(60)
    process.kill()
    process.communicate()
    server.rule = lambda _: None


def test_kills_while_labels_are_proposed_and_later(tmp_path):
    with Loopback() as server:
        server.chat, server.latency = answer, 0.05
        write_corpus(tmp_path / "docs.jsonl", PASSAGES)
        job = job_dict(
            server.url, tmp_path, task={"use": "classification", "sample": 8}, scores=[{"use": "length"}], keep=None
        )
        job |= {"personas": None, "run": {"shard_size": 8, "concurrency": IN_FLIGHT}}
        del job["embed"]
        path = write_job(tmp_path, job)
        answer.first = None
        server.rule = lambda seen: setattr(answer, "first", answer.first or seen.body["seed"]) if seen.body else None
        assert main(["run", str(path), "-o", str(tmp_path / "clean")]) == 0
        clean = [json.dumps(each.body, sort_keys=True) for each in server.posts]
        assert len(clean) == 2 + PASSAGES

        server.log.clear()
        out = tmp_path / "out"
        killed(server, path, out, 1)  # before the first reply
        killed(server, path, out, 3)  # at the second question, whose predecessor is in the journal
        assert not (out / "prepared.json").exists()
        killed(server, path, out, 12)  # among the items
        assert (out / "prepared.json").read_bytes() == (tmp_path / "clean" / "prepared.json").read_bytes()
        pair = [start(path, out), start(path, out)]  # two processes take the labels that are there
        for process in pair:
            process.communicate(timeout=60)
        assert {process.returncode for process in pair} <= {0, 75}
        assert main(["run", str(path), "-o", str(out)]) == 0
        asked = Counter(json.dumps(each.body, sort_keys=True) for each in server.posts)
    assert set(asked) == set(clean)
    assert asked.total() - len(asked) <= 2 + IN_FLIGHT, "only what was in flight is asked again"
    assert contents(out) == contents(tmp_path / "clean")
    assert main(["verify", str(out), "--deep"]) == 0


def test_two_processes_agree_on_one_proposal(tmp_path):
    with Loopback() as server:
        server.chat, server.latency = answer, 0.05
        answer.first = None
        write_corpus(tmp_path / "docs.jsonl", PASSAGES)
        job = job_dict(
            server.url, tmp_path, task={"use": "classification", "sample": 8}, scores=[{"use": "length"}], keep=None
        )
        job |= {"personas": None, "run": {"shard_size": 4, "concurrency": IN_FLIGHT, "workers": 3}}
        del job["embed"]
        path = write_job(tmp_path, job)
        process = start(path, tmp_path / "out")
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told.decode()
        proposals = [each for each in server.posts if "Labels" in json.dumps(each.body["response_format"])]
    assert len(proposals) == 1
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
