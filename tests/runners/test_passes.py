"""How often a run decodes its shards: once for all scorers and for the rules, and to the same bytes as one by one."""

from collections import Counter

import pytest
from running import completion, job_dict, run, write_corpus, write_job

from synth.shards import OutputFolder, StepFolder
from synth.steps import keep

FOUR = [{"use": "cosine"}, {"use": "language"}, {"use": "length"}, {"use": "copying"}]


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 20)
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """Whole-shard reads, by step and index."""
    found = Counter()
    read = StepFolder.read

    def counted(self, index):
        found[self.name, index] += 1
        return read(self, index)

    monkeypatch.setattr(StepFolder, "read", counted)
    return found


def write(place, server, **more):
    return write_job(place, job_dict(server.url, place, **more))


def test_four_scorers_and_the_rules_read_each_shard_once(place, server, reads):
    run(write(place, server, scores=FOUR), place / "out")
    assert {index for _, index in reads} == {0, 1, 2}
    assert {index: sum(n for (_, i), n in reads.items() if i == index) for index in range(3)} == {0: 2, 1: 2, 2: 2}
    assert {name for name, _ in reads} == {"passages", "generated"}


def test_a_finished_run_reads_no_shard(place, server, reads):
    job = write(place, server, scores=FOUR)
    run(job, place / "out")
    reads.clear()
    run(job, place / "out")
    assert not reads


def test_a_new_scorer_reads_each_pair_once_and_the_scores_that_are_there(place, server, reads):
    run(write(place, server, scores=FOUR[:2]), place / "out")
    reads.clear()
    run(write(place, server, scores=FOUR), place / "out")
    assert {n for (name, _), n in reads.items() if name == "generated"} == {1}
    assert {name.partition("-")[0] for name, _ in reads} == {"generated", "scores/cosine", "scores/language"}


def test_rules_applied_to_scores_in_memory_and_to_stored_ones_give_the_same_bytes(place, server):
    everything = {"cosine": {"above": -1}}  # rejected rows name their view, and so would not be the same
    run(write(place, server, scores=FOUR, keep=everything), place / "out")
    folder = OutputFolder.open(place / "out", write=True)
    record = keep.record_of(folder, "kept")
    again = keep.View("views/again", record.rules, record.scores)
    keep.carry_out(folder, again, keep.ready(folder, record.scores))
    of_view = {path.name: path.read_bytes() for path in (place / "out" / "views" / "again").iterdir()}
    of_run = {path.name: path.read_bytes() for path in (place / "out" / "kept").iterdir()}
    assert len(of_run) == 3
    assert of_view == of_run


def test_scorers_of_the_whole_pass_share_one_read_of_a_shard(place, server, reads):
    scorers = [{"use": "near_duplicate"}, {"use": "round_trip"}]
    run(write(place, server, scores=scorers, keep={}), place / "out")
    # Once for each index, once for the two scorers together, once for the rules.
    assert {n for (name, _), n in reads.items() if name == "generated"} == {4}
