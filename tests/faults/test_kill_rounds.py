"""A run with a target, killed with -9 at random moments: the same rounds, the same bytes."""

import random

import pytest
from loopback import Loopback
from running import contents, job_dict, shards, write_corpus, write_job

from synth.cli import main

from .extractive_server import Server, write_templates
from .test_kill_run import IN_FLIGHT, Count, finish, kill_at_random, start

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = 20


def test_twenty_kills_of_a_run_with_a_target(tmp_path):
    rng = random.Random(20)  # noqa: S311 - when to kill
    write_corpus(tmp_path / "docs.jsonl", 60)
    with Loopback() as server:
        server.chat = Server("en").answer
        count = Count(server)
        job = job_dict(server.url, tmp_path) | {
            "task": {"use": "retrieval", "prompts": str(write_templates(tmp_path / "prompts"))},
            "scores": [{"use": "length"}, {"use": "copying"}, {"use": "round_trip"}],
            "keep": {"copied_share": {"below": 0.25}},
            "run": {"shard_size": 16, "concurrency": IN_FLIGHT},
            "target": {"kept": 100, "by": {"question_type": "even"}, "hard": True},
        }
        path = write_job(tmp_path, job)
        finish(path, tmp_path / "clean")
        clean, calls = count.chats(), len(server.posts)
        server.log.clear()
        kills = 0
        while kills < KILLS:
            process = start(path, tmp_path / "out")
            within = max(1, 2 * (calls - len(server.posts)) // (KILLS - kills + 2))
            if not kill_at_random(process, count, within, rng):
                break
            kills += 1
        count.at = -1
        finish(path, tmp_path / "out")
        asked = count.chats()
    repeated = sum(asked.values()) - len(asked)
    rounds = len(list((tmp_path / "clean").glob("job.*.json")))
    print(  # noqa: T201 - the figures are what the test is for
        f"\n{rounds} rounds, {len(shards(tmp_path / 'out', 'generated'))} shards, {sum(clean.values())} calls without "
        f"kills; {kills} kills: {sum(asked.values())} calls, {repeated} repeated (at most {IN_FLIGHT * kills})"
    )
    assert kills == KILLS
    assert rounds > 2
    assert set(asked) == set(clean)
    assert repeated <= IN_FLIGHT * kills
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    for record in (tmp_path / "clean").glob("job*.json"):
        assert (tmp_path / "out" / record.name).read_bytes() == record.read_bytes()
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
