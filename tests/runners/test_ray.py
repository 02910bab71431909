"""`--runner ray`: the workers are actors of a Ray cluster, here one of its own on this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from running import audit, completion, contents, job_dict, run, write_corpus, write_job

from synth.errors import JobError
from synth.runners.ray_cluster import Cluster

LONGEST = 300
"""Seconds: a Ray of its own takes twenty to start on a busy machine."""


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 32)
    write_job(tmp_path, job_dict(server.url, tmp_path, run={"shard_size": 4, "concurrency": 4}))
    return tmp_path


@pytest.fixture
def started(place):
    """Starts `synth run --runner ray` on two workers; gives the process, whose output is a pipe."""
    running = []

    def start():
        command = [sys.executable, "-m", "synth", "run", str(place / "job.yaml"), "-o", str(place / "out")]
        process = subprocess.Popen(
            [*command, "--runner", "ray", "--workers", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def chats(server):
    return [seen.text for seen in server.posts if "messages" in seen.body]


def until(condition, seconds=200):
    end, tick = time.monotonic() + seconds, threading.Event()
    while not (found := condition()) and time.monotonic() < end:
        tick.wait(0.02)
    return found


def workers_of(driver):
    """Actors at work for a process, by number: children of its raylet under a name of Ray's."""
    actors = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::RayWorker" in read(path)]
    return [pid for pid in actors if parent(parent(pid)) == driver]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def parent(pid):
    fields = read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(JobError, match=r"synth\[ray\]"), Cluster():
        pass


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
def test_a_killed_actor_is_replaced_and_the_shards_are_those_of_one_process(place, server, started):
    pytest.importorskip("ray")
    run(place / "job.yaml", place / "one")
    clean = contents(place / "one")
    server.log.clear()
    server.latency = 0.1
    process = started()
    assert until(lambda: len(chats(server)) > 16)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, output
    assert re.search(r"worker \d \(.*\) died", output), output
    assert contents(place / "out") == clean
    audit(place / "out")
    assert len(chats(server)) - len(set(chats(server))) <= 4, "only calls in flight are repeated"
    assert list((place / "out" / "wip").iterdir()) == list((place / "out" / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
def test_an_interrupt_drains_the_actors_and_a_local_run_goes_on(place, server, started):
    pytest.importorskip("ray")
    server.latency = 0.1
    process = started()
    assert until(lambda: len(chats(server)) > 16)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, output
    run(place / "job.yaml", place / "out")
    audit(place / "out")
    assert len(set(chats(server))) == len(chats(server)), "what was in flight was waited for"
