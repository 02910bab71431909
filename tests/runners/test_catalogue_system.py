"""A bad machine, each case through a whole run: every row of the catalogue with its stated result.

The numbers are those of docs/reliability.md; `ELSEWHERE` says where the rest is tried.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import Machine, running_on
from loopback import Fault
from running import audit, completion, contents, job_dict, write_corpus, write_job

from synth.cli import main

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "Y1": ("faults/test_every_write.py", "test_every_write_that_fails_once_is_told_and_the_next_run_completes"),
    "Y4 kill": ("faults/test_kill_loop.py", "test_twenty_kills_of_two_processes_under_mixed_faults"),
    "Y4 power": (
        "faults/test_power_loss.py",
        "test_power_loss_at_any_moment_of_a_run_leaves_whole_shards_and_keeps_what_was_done",
    ),
    "Y5": ("runners/test_run.py", "test_a_signal_drains_and_the_next_run_goes_on"),
    "Y5 twice": ("runners/test_run.py", "test_a_second_interrupt_leaves_at_once_and_loses_nothing"),
    "Y6": ("faults/test_kill_loop.py", "test_twenty_kills_of_two_processes_under_mixed_faults"),
    "Y7": ("check/test_catalogue_configs.py", "test_f22_another_identity_names_the_keys"),
    "Y13": ("runners/test_workers.py", "test_a_dead_workers_shards_are_taken_up_again"),
    "Y13 thrice": ("runners/test_workers.py", "test_a_shard_that_kills_is_given_up_and_the_rest_is_finished"),
    "Y17": ("faults/test_memory.py", "test_a_hundred_thousand_rows_pass_in_512_mb"),
    "Y9": ("servers/test_servers.py", "test_retry_after_in_all_its_forms"),
}


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 12)
    return tmp_path


def write(place, server):
    return write_job(place, job_dict(server.url, place, personas=None))


@pytest.mark.parametrize(
    ("label", "error", "cure"),
    [
        ("write tmp", "ENOSPC", "Free"),
        ("write wip", "ENOSPC", "Free"),
        ("write tmp", "EDQUOT", "then run"),
        ("fsync tmp", "EIO", "then run"),
        ("fsync generated", "EIO", "then run"),
        ("link generated", "EIO", "then run"),
    ],
    ids=["Y1 full: shard", "Y1 full: journal", "Y3 quota", "Y3 fsync of a file", "Y3 fsync of a folder", "Y3 link"],
)
def test_a_disk_that_refuses_ends_in_7_and_the_same_command_goes_on(place, server, capsys, label, error, cure):
    job, out = write(place, server), place / "out"
    arguments = ["run", str(job), "-o", str(out), "--json"]
    with running_on(Machine(out, lambda _number, each: each == label, f"refuse:{error}")):
        assert main(arguments) == 7
    said = capsys.readouterr().err
    assert str(out) in said
    assert cure in said
    assert main(arguments) == 0
    audit(out)
    assert list((out / "tmp").iterdir()) == []


def test_y2_an_output_folder_that_cannot_be_made_ends_before_the_first_request(place, server, capsys):
    job = write(place, server)
    (place / "file").write_text("not a folder")
    for out in ("/sys/synth-out", place / "file" / "out"):
        assert main(["run", str(job), "-o", str(out)]) in (4, 7)
        assert str(out) in capsys.readouterr().err
    assert server.posts == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_y2_a_folder_without_permission(place, server, capsys):
    job = write(place, server)
    (place / "locked").mkdir(mode=0o500)
    assert main(["run", str(job), "-o", str(place / "locked" / "out")]) == 7
    assert "locked" in capsys.readouterr().err
    assert server.posts == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["Y5 SIGTERM", "Y5 SIGHUP"])
def test_y5_a_signal_drains_and_ends_in_75(place, server, number):
    job = write(place, server)
    server.rule = lambda _: Fault(503) if len([s for s in server.posts if "messages" in s.body]) > 6 else None
    command = [sys.executable, "-m", "synth", "run", str(job), "-o", str(place / "out"), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr)
    assert any("overloaded" in line for line in lines)
    process.send_signal(number)
    assert any("stopping" in line for line in lines)
    server.rule = lambda _: None
    assert process.wait(40) == 75
    process.stderr.close()
    assert main(["run", str(job), "-o", str(place / "out"), "--json"]) == 0
    audit(place / "out")


def test_y5_nobody_reads_the_output_and_the_run_goes_on(place, server):
    job = write(place, server)
    command = [sys.executable, "-m", "synth", "run", str(job), "-o", str(place / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    audit(place / "out")


def test_y9_a_wall_clock_that_jumps_changes_nothing(place, server, monkeypatch):
    job = write(place, server)
    assert main(["run", str(job), "-o", str(place / "a"), "--json"]) == 0
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86_400)
    assert main(["run", str(job), "-o", str(place / "b"), "--json"]) == 0
    assert contents(place / "a") == contents(place / "b")


def test_y12_an_output_folder_that_is_deleted_during_the_run(place, server, capsys):
    job, out = write(place, server), place / "out"
    gone = []

    def rule(seen):
        if "messages" in (seen.body or {}) and len(server.posts) > 12 and not gone:
            gone.append(shutil.rmtree(out))

    server.rule = rule
    assert main(["run", str(job), "-o", str(out)]) == 7
    assert str(out) in capsys.readouterr().err
    assert gone


def test_y18_processes_are_spawned_never_forked():
    for path in (ROOT / "synth").rglob("*.py"):
        source = path.read_text("utf-8")
        assert not re.search(r"os\.fork|get_context\(\s*[\"']fork|set_start_method|get_context\(\)", source), path
        for call in re.findall(r"(?:ProcessPoolExecutor|multiprocessing\.Pool)\((?:[^()]|\([^()]*\))*\)", source):
            assert "mp_context" in call, f"{path}: {call}"


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_is_tried_elsewhere_is_there(number):
    name, function = ELSEWHERE[number]
    assert f"def {function}(" in (Path(__file__).parents[1] / name).read_text("utf-8")


def test_every_row_of_the_catalogue_has_its_test():
    numbers = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 17, 18}
    assert {int(name.split()[0][1:]) for name in ELSEWHERE} | {2, 3, 12, 18} == numbers
