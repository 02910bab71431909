"""Several processes on one folder: they share the work, survive each other's death, and end together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from loopback import Fault, say
from running import audit, completion, contents, job_dict, passage, rows, run, shards, write_corpus, write_job

from synth.cli.app import parse_shard
from synth.cli.run import run_target as command
from synth.cli.stopping import seconds_until
from synth.errors import JobError
from synth.pipeline import RunArgs, resolve
from synth.runners.progress import Share
from synth.verify import verify

many = pytest.mark.faults
"""Starts several runs: with the other kills, not with the unit tests."""


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 24)
    return tmp_path


def write(place, server, **more):
    return write_job(place, job_dict(server.url, place, run={"shard_size": 4, "concurrency": 4}, **more))


def chats(server):
    return [json.dumps(seen.body, sort_keys=True) for seen in server.posts if "messages" in seen.body]


def started(place, *more, out="out", **environment):
    arguments = [sys.executable, "-m", "synth", "run", str(place / "job.yaml"), "-o", str(place / out), *more]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def ended(process, within=60):
    output, _ = process.communicate(timeout=within)
    return process.returncode, output


def children(pid):
    """Worker processes of a run, by number."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            line = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(status.parent.name))
    return sorted(found)


def until(condition, seconds=60):
    """Ask again and again; what it says in the end."""
    end = time.monotonic() + seconds
    tick = threading.Event()
    while not (found := condition()) and time.monotonic() < end:
        tick.wait(0.02)
    return found


@pytest.mark.slow
def test_workers_share_the_work_and_write_what_one_process_writes(place, server):
    job = write(place, server)
    run(job, place / "one")
    clean = contents(place / "one")
    server.log.clear()
    server.latency = 0.01
    code, output = ended(started(place, "--workers", "3"))
    assert code == 0, output
    assert contents(place / "out") == clean
    assert len(set(chats(server))) == len(chats(server)), "no call is made twice"
    assert list((place / "out" / "wip").iterdir()) == list((place / "out" / "tmp").iterdir()) == []


@many
def test_a_dead_workers_shards_are_taken_up_again(place, server):
    write(place, server)
    server.latency = 0.05
    process = started(place, "--workers", "2")
    assert until(lambda: len(chats(server)) > 12)
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    server.latency = 0
    code, output = ended(process)
    assert code == 0, output
    assert f"worker {victim} died (signal 9)" in output
    audit(place / "out")
    assert len(chats(server)) - len(set(chats(server))) <= 4, "only calls in flight are repeated"


@many
def test_a_shard_that_kills_is_given_up_and_the_rest_is_finished(place, server):
    """A scorer of the user's own that takes its process down at one passage."""
    (place / "deadly.py").write_text(
        "import os\n"
        "import pyarrow as pa\n"
        "from synth.scores import ScoreColumn, Scorer\n"
        "class Deadly(Scorer):\n"
        "    '''Dies.'''\n"
        "    outputs = (ScoreColumn('deadly', pa.float64()),)\n"
        "    async def score(self, batch, services):\n"
        "        if any('number 9 ' in text for text in batch.documents):\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return pa.table([pa.nulls(batch.pairs.num_rows, pa.float64())], schema=self.columns())\n"
    )
    write(place, server, scores=[{"use": "length"}, {"use": "deadly:Deadly"}], keep={"length_error": {"max": 9}})
    process = started(place, "--workers", "2", PYTHONPATH=str(place))
    code, output = ended(process)
    assert code == 1, output
    assert "3 processes died on shard 00000002" in output
    assert [path.stem for path in shards(place / "out", "kept")] == [f"{n:08d}" for n in (0, 1, 3, 4, 5)]
    assert len(shards(place / "out", "generated")) == 6
    again = [body for body, count in Counter(chats(server)).items() if count > 1]
    generated = [f"report number {n} " for n in range(8, 12)]
    assert not any(text in body for body in again for text in generated), "what was generated is not asked again"
    assert len(again) <= 3 * 4, "of the next shard no more than each process had in flight when it died"


@many
def test_an_error_of_one_worker_ends_all_with_its_code(place, server):
    write(place, server)
    server.rule = lambda _: Fault(401, {"error": "no"}) if len(chats(server)) > 20 else None
    code, output = ended(started(place, "--workers", "2"))
    assert code == 5, output
    assert "error:" in output
    assert "Resume with: synth run" in output


@many
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_drains_all_workers(place, server, number, code):
    write(place, server)
    server.latency = 0.05
    process = started(place, "--workers", "2")
    assert until(lambda: len(chats(server)) > 10)
    process.send_signal(number)
    found, output = ended(process)
    assert found == code, output
    assert "stopping:" in output
    asked = len(chats(server))
    server.latency = 0
    run(place / "job.yaml", place / "out")
    audit(place / "out")
    assert asked < len(chats(server)) == len(set(chats(server))), "what was in flight was waited for"


@many
def test_a_second_signal_ends_all_workers_at_once(place, server):
    write(place, server)
    reached = threading.Event()

    def stuck(_):
        if len(chats(server)) < 10:
            return None
        reached.set()
        return Fault(500, delay=20)

    server.rule = stuck
    process = started(place, "--workers", "2")
    assert reached.wait(60)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert any("stopping:" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.wait(timeout=10)
    assert time.monotonic() - begun < 1
    assert process.returncode == 75
    process.stdout.close()
    assert until(lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in workers), 5)


@many
def test_workers_leave_when_the_first_process_dies(place, server):
    write(place, server)
    server.latency = 0.05
    process = started(place, "--workers", "2")
    assert until(lambda: len(chats(server)) > 10)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.stdout.close()
    process.wait()
    assert until(lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in workers), 20)
    server.latency = 0
    run(place / "job.yaml", place / "out")
    audit(place / "out")
    assert len(chats(server)) == len(set(chats(server))), "they drained: nothing in flight was lost"


@many
def test_two_runs_of_a_job_at_once_share_its_folder(place, server):
    job = write(place, server)
    run(job, place / "one")
    clean = contents(place / "one")
    server.log.clear()
    server.latency = 0.02
    both = [started(place, "--shard", f"{n}/2") for n in range(2)]
    ends = [ended(process) for process in both]
    codes = sorted(code for code, _ in ends)
    assert codes in ([0, 0], [0, 75]), ends
    assert contents(place / "out") == clean
    assert len(set(chats(server))) == len(chats(server))
    for code, output in ends:
        assert code == 0 or "another process is still working" in output


@many
def test_scorers_over_all_shards_are_run_by_one_process(place, server):
    """near_duplicate waits for all shards, and `unique` for its clusters."""
    keep = {"length_error": {"max": 9}, "unique": {"by": "query_cluster", "best": "length_error"}}
    job = write(place, server, scores=[{"use": "length"}, {"use": "near_duplicate"}], keep=keep)
    run(job, place / "one")
    clean = contents(place / "one")
    code, output = ended(started(place, "--workers", "2"))
    assert code == 0, output
    assert contents(place / "out") == clean


@many
def test_a_pass_over_existing_data_is_shared(tmp_path):
    lines = [{"query": f"what does report {n} say", "passage": passage(n)} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = {
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "scores": [{"use": "length"}, {"use": "copying"}],
        "keep": {"copied_share": {"max": 1}},
        "run": {"shard_size": 5, "workers": 2},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    code, output = ended(started(tmp_path))
    assert code == 0, output
    assert len(rows(tmp_path / "out", "kept")) == 60
    report = verify(tmp_path / "out", deep=True)
    assert report.complete
    assert report.sound


@many
def test_rejected_items_are_asked_again_by_workers(place, server):
    job = write(place, server)
    poisoned = [passage(n) for n in range(0, 24, 5)]
    server.chat = lambda body: say("I will not.") if any(t in json.dumps(body) for t in poisoned) else completion(body)
    run(job, place / "out")
    server.chat = completion
    command(resolve(job, place / "out", (), None), as_json=True, args=RunArgs(workers=2, retry=True))
    report = verify(place / "out", deep=True)
    assert report.sound
    assert report.complete
    assert next(step.retried for step in report.steps if step.step == "generated") == 10


@many
def test_a_deadline_drains_and_the_next_run_goes_on(place, server):
    write(place, server)
    server.latency = 0.1
    code, output = ended(started(place, "--deadline", "6s"))
    assert code == 75, output
    assert "stopping for the deadline" in output
    server.latency = 0
    run(place / "job.yaml", place / "out")
    audit(place / "out")
    assert len(set(chats(server))) == len(chats(server))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_signal_while_the_inputs_are_read_ends_the_run_at_once(place, server, number, code):
    """The run waits for its turn to read, as long as somebody else is at it."""
    import fcntl

    job = write(place, server)
    run(job, place / "out")
    (place / "out" / "index" / "passages.json").unlink()
    with (place / "out" / "job.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = started(place)
        assert any("waiting for another process" in line for line in process.stdout)
        process.send_signal(number)
        begun = time.monotonic()
        found, output = ended(process)
    assert time.monotonic() - begun < 2
    assert found == code, output
    assert "Resume with: synth run" in output


@many
def test_a_signal_while_a_model_of_this_process_computes(place, server):
    """A thread that computes is not waited for: what it makes is in no journal."""
    (place / "slow.py").write_text(
        "import asyncio, time\n"
        "from synth.embed.sentence_transformers import SentenceTransformersEmbedder\n"
        "class Slow(SentenceTransformersEmbedder):\n"
        "    '''Computes for a minute.'''\n"
        "    def open(self, client, instruction):\n"
        "        return Encoder()\n"
        "class Encoder:\n"
        "    async def encode(self, texts, role):\n"
        "        print('computing', flush=True)\n"
        "        await asyncio.to_thread(time.sleep, 60)\n"
        "    async def close(self):\n"
        "        pass\n"
    )
    write(place, server, embed={"use": "slow:Slow"})
    for signals in (1, 2):
        process = started(place, PYTHONPATH=str(place))
        assert any("computing" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert any("stopping:" in line for line in process.stdout)
        begun = time.monotonic()
        if signals == 2:
            process.send_signal(signal.SIGTERM)
        code, output = ended(process)
        assert code == 75, output
        assert time.monotonic() - begun < (1 if signals == 2 else 6)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h30m", 12600), ("90", 90), ("1d2h3m4s", 93784), ("45s", 45), ("17:45", 4500), ("16:29", 86400 - 60)],
)
def test_deadlines(text, seconds):
    assert seconds_until(text, time.struct_time((2025, 5, 1, 16, 30, 0, 3, 121, 0))) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "3x", "25:00", "h", "-5"])
def test_no_deadlines(text):
    with pytest.raises(JobError, match="not a duration"):
        seconds_until(text)


def test_shares_of_an_array():
    assert parse_shard("1/4") == (1, 4)
    assert parse_shard("4/4") == (0, 4)
    for text in ("4", "5/4", "a/4", "1/0", "-1/4"):
        with pytest.raises(JobError, match="expected I/N"):
            parse_shard(text)


def test_a_process_takes_its_own_shards_first_and_then_all_others():
    everything = list(range(10))
    for share in (Share(1, 3), Share(1, 3, worker=1, workers=2), Share()):
        assert sorted(share.order(everything)) == everything
    assert Share(1, 3).order(everything)[:3] == [1, 4, 7]
    assert Share(0, 1, 1, 2).order(everything) == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert Share(1, 3).order(everything, {8, 4})[:2] == [4, 8]
    assert Share(only=(3,)).order(everything) == [3]
