"""Whole runs: what goes in is accounted for, a stop costs no call twice, and only what changed is made anew."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import polars as pl
import pyarrow.parquet as pq
import pytest
from loopback import Fault, bag_of_words, say
from running import audit, completion, contents, footer, job_dict, passage, rows, run, shards, write_corpus, write_job

from synth.cli.run import run_target as command
from synth.errors import InputError, JobError, OutputError, ServerRefused, TooManyUnusable
from synth.pipeline import resolve


@pytest.fixture
def place(tmp_path, server):
    """A folder with a corpus of 20 passages and a job over the loopback server."""
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 20)
    return tmp_path


GONE = Fault(307, headers={"Location": "http://127.0.0.1:9/elsewhere"})
"""A redirect is refused at once and ends the run."""


def write(place, server, **more):
    return write_job(place, job_dict(server.url, place, **more))


def chats(server):
    return [json.dumps(seen.body, sort_keys=True) for seen in server.posts if "messages" in seen.body]


def embedded(server):
    return [text for seen in server.posts if "input" in seen.body for text in seen.body["input"]]


def test_every_passage_is_accounted_for_from_the_files_alone(place, server):
    run(write(place, server), place / "out")
    pairs = audit(place / "out")
    assert len(pairs) == 40
    assert [int(footer(path)["in"]) for path in shards(place / "out", "generated")] == [16, 16, 8]
    assert len(set(chats(server))) == len(chats(server)), "no call is made twice"
    assert (place / "out" / "README.md").exists()
    assert list((place / "out" / "wip").iterdir()) == list((place / "out" / "tmp").iterdir()) == []


@pytest.mark.slow
def test_two_runs_of_a_job_give_the_same_bytes(place, server):
    job = write(place, server)
    run(job, place / "a")
    run(job, place / "b", "run.concurrency=1")
    assert contents(place / "a") == contents(place / "b")


def test_a_finished_run_costs_nothing_when_run_again(place, server):
    job = write(place, server)
    run(job, place / "out")
    before, calls = contents(place / "out"), len(server.posts)
    run(job, place / "out")
    assert len(server.posts) == calls
    assert contents(place / "out") == before


@pytest.mark.slow
def test_resuming_after_a_stop_asks_nothing_twice(place, server):
    job = write(place, server)
    run(job, place / "clean")
    clean = Counter(chats(server))
    server.log.clear()
    for allowed in (7, 31, 50):
        server.rule = lambda _, n=allowed: GONE if len(chats(server)) > n else None
        with pytest.raises(ServerRefused):
            run(job, place / "out")
    server.rule = lambda _: None
    answered = Counter(chats(server))
    run(job, place / "out")
    asked = Counter(chats(server))
    assert contents(place / "out") == contents(place / "clean")
    assert set(asked) == set(clean)
    repeated = sum(asked.values()) - len(asked)
    assert repeated <= 3 * 4 * 5, "only calls that were refused or in flight come again"
    assert len(answered) < len(clean)


@pytest.mark.slow
def test_new_rules_rebuild_kept_and_cost_no_call(place, server):
    run(write(place, server), place / "out")
    everything = len(rows(place / "out", "generated"))
    calls = len(server.posts)
    sizes = []
    for threshold in (0.99, -1.0, 0.99, -1.0):
        run(write(place, server, keep={"cosine": {"above": threshold}}), place / "out")
        audit(place / "out")
        sizes.append(len(rows(place / "out", "kept")))
        assert len(rows(place / "out", "rejected/kept")) == everything - sizes[-1]
    assert sizes == [0, everything, 0, everything]
    assert len(server.posts) == calls


@pytest.mark.slow
def test_a_reader_of_kept_sees_whole_files_while_the_rules_change(place, server):
    run(write(place, server), place / "out")
    opened = os.open(place / "out" / "kept", os.O_RDONLY)
    before = sorted(os.listdir(opened))  # noqa: PTH208 - the folder that was opened, whatever its name is now
    run(write(place, server, keep={"cosine": {"above": 0.99}}), place / "out")
    assert sorted(os.listdir(opened)) == before  # noqa: PTH208 - as above
    os.close(opened)
    assert pl.scan_parquet(place / "out" / "kept" / "*.parquet").collect().height == 0


@pytest.mark.slow
def test_a_new_scorer_computes_itself_only(place, server):
    run(write(place, server), place / "out")
    before = contents(place / "out")
    calls = len(server.posts)
    run(write(place, server, scores=[{"use": "cosine"}, {"use": "length"}, {"use": "copying"}]), place / "out")
    after = contents(place / "out")
    assert len(server.posts) == calls
    assert {n: b for n, b in after.items() if not n.startswith(("kept", "rejected/kept"))}.items() >= {
        n: b for n, b in before.items() if not n.startswith(("kept", "rejected/kept"))
    }.items()
    assert "copied_share" in pq.read_schema(shards(place / "out", "kept")[0]).names
    audit(place / "out")


def test_carried_columns_stay_and_clashes_are_renamed(place, server):
    write_corpus(place / "docs.jsonl", 9, topic="topic", query="an own query", title="an own title", cosine="c")
    corpus = {
        "name": "docs",
        "path": str(place / "docs.jsonl"),
        "language": "en",
        "carry": ["topic", "query", "title", "cosine"],
    }
    run(write(place, server, corpus=corpus), place / "out")
    audit(place / "out")
    row = rows(place / "out", "kept")[-1]
    number = row["passage_id"].removeprefix("d")
    assert row["topic"] == f"topic {number}"
    assert row["input_query"] == f"an own query {number}"
    assert row["input_title"] == f"an own title {number}"
    assert row["input_cosine"] == f"c {number}"
    assert isinstance(row["cosine"], float)
    assert row["query"].startswith("what does report")


def test_a_shard_of_which_nothing_is_usable_has_no_rows_and_all_columns(place, server):
    poisoned = [passage(n) for n in range(8, 16)]
    server.chat = lambda b: (
        say("I will not.") if any(p in b["messages"][-1]["content"] for p in poisoned) else completion(b)
    )
    run(write(place, server), place / "out")
    audit(place / "out")
    empty = [pq.read_table(path) for path in shards(place / "out", "generated")][1]
    assert empty.num_rows == 0
    assert empty.schema.equals(pq.read_table(shards(place / "out", "generated")[0]).schema)
    rejected = [row for row in rows(place / "out", "rejected/generated") if row["reason"] == "refusal"]
    assert len(rejected) == 16
    assert all(len(row["attempts"]) == 3 and row["attempts"][0]["reply"] == "I will not." for row in rejected)
    assert pl.scan_parquet(place / "out" / "kept" / "*.parquet").collect().height > 0


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_small_inputs_finish(place, server, count):
    write_corpus(place / "docs.jsonl", count)
    run(write(place, server), place / "out")
    assert len(audit(place / "out")) == 2 * count


@pytest.mark.slow
def test_rejected_rows_of_step_zero_are_counted(place, server):
    lines = (place / "docs.jsonl").read_text().splitlines()
    lines[3:3] = ["{broken", json.dumps({"id": "e", "text": " "}), lines[0]]
    (place / "docs.jsonl").write_text("\n".join(lines))
    run(write(place, server), place / "out")
    audit(place / "out")
    reasons = Counter(row["reason"] for row in rows(place / "out", "rejected/passages"))
    assert reasons == {"json": 1, "empty": 1, "duplicate": 1}
    totals = json.loads((place / "out" / "index" / "passages.json").read_text())
    assert (totals["rows_in"], totals["passages"], totals["rejected"]) == (23, 20, 3)


@pytest.mark.parametrize("content", ["", '{"id": "a", "text": ""}\n'])
def test_an_input_without_passages_is_no_run(place, server, content):
    (place / "docs.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        run(write(place, server), place / "out")
    assert caught.value.exit_code == 3
    assert not server.posts


def test_too_many_unusable_items_end_in_six_with_everything_written(place, server):
    server.chat = lambda _: say("I will not.")
    with pytest.raises(TooManyUnusable, match="40 of 40 items are unusable") as caught:
        run(write(place, server, limits={"max_unusable_share": 0.5}), place / "out")
    assert caught.value.exit_code == 6
    assert audit(place / "out") == []


@pytest.mark.slow
def test_a_passage_that_cannot_be_embedded_costs_itself_only(place, server):
    bad = {passage(3), passage(12)}
    server.embed = lambda text: [float("nan")] * 64 if text in bad else bag_of_words(text)
    run(write(place, server), place / "out")
    audit(place / "out")
    unusable = rows(place / "out", "rejected/generated")
    assert [(row["id"], row["reason"]) for row in unusable] == [
        (f"{n}-{slot}", "embedding") for n in (3, 12) for slot in (0, 1)
    ]


def test_a_query_that_cannot_be_embedded_has_no_cosine_and_is_not_kept(place, server):
    server.embed = lambda text: None if text.startswith("what does report 5 ") else bag_of_words(text)
    run(write(place, server), place / "out")
    audit(place / "out")
    dropped = rows(place / "out", "rejected/kept")
    assert {row["passage_id"] for row in dropped if row["cosine"] is None} == {"d5"}


def test_other_settings_are_refused_and_named(place, server):
    run(write(place, server), place / "out")
    with pytest.raises(OutputError) as caught:
        run(write(place, server, seed=4), place / "out")
    assert caught.value.exit_code == 4
    assert "seed: 3 -> 4" in str(caught.value)


@pytest.mark.slow
def test_the_folder_of_a_run_is_enough_to_go_on(place, server):
    job = write(place, server)
    server.rule = lambda _: GONE if len(chats(server)) > 9 else None
    with pytest.raises(ServerRefused):
        run(job, place / "out")
    server.rule = lambda _: None
    job.unlink()
    command(resolve(place / "out", None, (), None), as_json=True)
    assert len(audit(place / "out")) == 40
    with pytest.raises(JobError):
        resolve(place / "nowhere", None, (), None)


def test_all_replies_are_kept_when_asked_for(place, server):
    run(write(place, server, run={"shard_size": 8, "concurrency": 4, "keep_replies": "all"}), place / "out")
    logged = [
        json.loads(line)
        for path in sorted((place / "out" / "logs" / "replies").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len({each["call"] for each in logged}) == len(chats(server))


@pytest.mark.slow
def test_the_folder_loads_as_a_data_set(place, server, monkeypatch):
    run(write(place, server), place / "out")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(str(place / "out"), cache_dir=str(place / "cache"))
    (split,) = loaded.values()
    assert split.num_rows == len(rows(place / "out", "kept"))
    assert split.select_columns(["query", "passage"])[0]["query"]


def started(place):
    command = [sys.executable, "-m", "synth", "run", place / "job.yaml", "-o", place / "out"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def after(server, calls, fault=None):
    """An event that is set at the chat call of that number; from there on the server answers with `fault`."""
    reached = threading.Event()

    def rule(_):
        if len(chats(server)) < calls:
            return None
        reached.set()
        return fault

    server.rule = rule
    return reached


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_drains_and_the_next_run_goes_on(place, server, number, code):
    server.latency = 0.02
    job = write(place, server)
    reached = after(server, 10)
    process = started(place)
    assert reached.wait(60)
    process.send_signal(number)
    begun = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert time.monotonic() - begun < 10
    assert f"synth run {place / 'out'}" in output
    asked = len(chats(server))
    assert asked < 80
    server.latency = 0
    run(job, place / "out")
    audit(place / "out")
    assert len(set(chats(server))) == len(chats(server)), "what was in flight was waited for"


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once_and_loses_nothing(place, server):
    job = write(place, server)
    reached = after(server, 13, Fault(500, delay=20))
    process = started(place)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    assert any("stopping:" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    process.wait(timeout=10)
    process.stdout.close()
    assert time.monotonic() - begun < 1
    assert process.returncode == 130
    server.rule = lambda _: None
    run(job, place / "out")
    audit(place / "out")


def test_personas_may_have_an_embedder_of_their_own(place, server):
    server.models = ("tiny", "multilingual")
    own = {"use": "vllm_server", "model": "multilingual", "base_urls": [server.url]}
    people = {"path": str(place / "people.txt"), "top_k": 3, "min_similarity": -1}
    run(write(place, server, personas={**people, "embed": own}), place / "out")
    asked = {model: set() for model in ("tiny", "multilingual")}
    for seen in server.posts:
        if "input" in seen.body:
            asked[seen.body["model"]].update(seen.body["input"])
    passages = {row["text"] for row in rows(place / "out", "passages")}
    assert {text for text in asked["multilingual"] if text.startswith("a person")}
    assert not {text for text in asked["tiny"] if text.startswith("a person")}
    assert passages <= asked["multilingual"] & asked["tiny"]
    with pytest.raises(OutputError, match=r"embed\.model"):
        run(write(place, server, personas=people), place / "out")


def test_a_job_whose_personas_have_an_embedder_needs_no_other(place, server):
    server.models = ("tiny", "multilingual")
    own = {"use": "vllm_server", "model": "multilingual", "base_urls": [server.url]}
    people = {"path": str(place / "people.txt"), "top_k": 3, "embed": own}
    run(write(place, server, personas=people, embed=None, scores=[{"use": "length"}], keep=None), place / "out")
    assert len(audit(place / "out")) == 40
