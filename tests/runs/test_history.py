"""What a run is recorded as is read once, however many steps and shards use it."""

import json
import subprocess
import sys

import pytest
from running import completion, job_dict, write_corpus, write_job

COUNTING = """
import json, re, sys

def seen(event, args):
    if event == "open" and (found := re.search(r"/(job([.][0-9]+)?[.]json)$", str(args[0]))):
        opened.append(found[1])

opened, counts = [], []
sys.addaudithook(seen)
from synth.cli import main
for command in json.loads(sys.argv[1]):
    opened.clear()
    assert main(["run", *command]) == 0
    counts.append({name: opened.count(name) for name in sorted(set(opened))})
print(json.dumps(counts))
"""


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 4)
    write_job(tmp_path, job_dict(server.url, tmp_path))
    return tmp_path


def test_a_run_and_a_resume_open_the_record_of_their_job_at_most_twice(place):
    """Once to read it, once for the lock under which the inputs are read."""
    edited = ["job.yaml", "-o", "out", "--continue", "-s", "llm.temperature=0.9"]
    commands = [["job.yaml", "-o", "out"], ["out"], edited, ["out"]]
    program = [sys.executable, "-c", COUNTING, json.dumps(commands)]
    done = subprocess.run(program, cwd=place, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [
        {"job.json": 2},
        {"job.json": 2},
        {"job.2.json": 1, "job.json": 2},
        {"job.2.json": 1, "job.json": 2},
    ]
