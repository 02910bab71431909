"""A budget in the job: a run stops before it is exceeded, and goes on under a higher one."""

import json

import pytest
from loopback import Loopback
from running import completion, contents, job_dict, run, write_corpus, write_job

from synth.cli import main
from synth.errors import JobError, Stopped
from synth.job import load_job

SLOTS = 4


class Counting(Loopback):
    """Counts the tokens of all calls, four bytes each."""

    largest = tokens = calls = 0

    def __init__(self):
        super().__init__()
        self.chat = self.answer

    def answer(self, body):
        answer = completion(body)
        size = sum(len(message["content"].encode()) for message in body["messages"]) // 4
        answer["usage"] = {"prompt_tokens": size, "completion_tokens": 20}
        self.calls += 1
        self.tokens += size + 20
        self.largest = max(self.largest, size + 20)
        return answer


@pytest.fixture
def server():
    with Counting() as started:
        yield started


@pytest.fixture
def job(tmp_path, server):
    write_corpus(tmp_path / "docs.jsonl", 16)
    return write_job(tmp_path, job_dict(server.url, tmp_path))


def test_a_run_stops_before_its_budget_is_exceeded_and_goes_on_under_a_higher_one(job, server, tmp_path):
    run(job, tmp_path / "whole")
    whole, server.tokens = server.tokens, 0
    out = tmp_path / "out"
    for limit, new in ((whole // 3, True), (whole // 3, False), (whole // 2, True)):  # rows and journals count
        before = server.tokens
        with pytest.raises(Stopped, match=rf"budget.tokens: .* of {limit:,} is used.*-s budget.tokens=") as stopped:
            run(job, out, f"budget.tokens={limit}")
        assert stopped.value.exit_code == 75
        assert limit - server.largest < server.tokens <= limit
        assert (server.tokens > before) == new
    run(job, out, f"budget.tokens={2 * whole}")
    assert server.tokens == whole
    assert contents(out) == contents(tmp_path / "whole")


def test_calls_that_are_larger_than_expected_exceed_it_by_one_for_each_slot_at_most(job, server, tmp_path):
    def growing(body):
        answer = server.answer(body)
        if server.calls > 10:
            answer["usage"]["prompt_tokens"] += 8000
            server.tokens += 8000
        return answer

    server.chat = growing
    with pytest.raises(Stopped, match=r"budget\.tokens"):
        run(job, tmp_path / "out", "budget.tokens=60000")
    assert server.calls > 10
    assert server.tokens <= 60000 + SLOTS * (8000 + server.largest)


@pytest.mark.slow
def test_workers_share_one_budget(job, server, tmp_path):
    server.latency = 0.5  # as calls take: workers report every half second
    out, limit = tmp_path / "out", 40_000
    settings = ["run.workers=2", "run.concurrency=2"]
    with pytest.raises(Stopped, match=r"budget\.tokens"):
        run(job, out, f"budget.tokens={limit}", *settings)
    assert limit - 4 * SLOTS * server.largest <= server.tokens <= limit + SLOTS * server.largest
    spent = server.tokens
    with pytest.raises(Stopped, match=r"budget\.tokens"):
        run(job, out, f"budget.tokens={spent}", *settings)
    assert server.tokens == spent


def test_money_and_hours_have_limits_too(job, server, tmp_path):
    with pytest.raises(Stopped, match=r"budget\.cost: .* of 3 is used"):
        run(job, tmp_path / "money", "budget.cost=3", "budget.price=[100, 10, 200]")
    output = server.calls * 20
    assert 2.7 < ((server.tokens - output) * 100 + output * 200) / 1e6 <= 3
    for _ in range(2):
        with pytest.raises(Stopped, match=r"budget\.hours"):
            run(job, tmp_path / "hours", "budget.hours=1e-9")
    taken = [json.loads(each.read_text())["seconds"] for each in (tmp_path / "hours/logs/hours").iterdir()]
    assert len(taken) == 2
    assert main(["verify", str(tmp_path / "hours")]) == 0
    with pytest.raises(JobError, match="cost needs `price"):
        load_job(job, ["budget.cost=3"])


def test_a_budget_is_no_part_of_what_a_run_is(job, tmp_path):
    run(job, tmp_path / "out", "budget.tokens=1000000")
    run(job, tmp_path / "out", "budget.tokens=5")
    assert main(["verify", str(tmp_path / "out")]) == 0
