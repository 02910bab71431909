"""A target on kept pairs: rounds aimed at what is short, in one folder that resumes and verifies like any other."""

import json
from collections import Counter
from pathlib import Path

import pytest
from running import completion, contents, job_dict, rows, run, write_corpus, write_job

import synth
from synth.cli import main
from synth.errors import JobError, Stopped
from synth.job import load_job
from synth.shards import StepFolder
from synth.verify import verify

PASSAGES = 40


def write(folder, server, target, **more):
    write_corpus(folder / "docs.jsonl", PASSAGES)
    job = job_dict(server.url, folder) | {
        "llm": {"use": "extractive"},
        "task": {"use": "retrieval"},
        "scores": [{"use": "length"}, {"use": "copying"}],
        "keep": {"copied_share": {"below": 0.6}},
        "target": target,
    }
    return write_job(folder, job | more)


@pytest.fixture
def status(capsys):
    def read(out):
        capsys.readouterr()
        assert main(["status", str(out), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["target"]

    return read


def test_every_cell_of_a_target_is_filled(tmp_path, server, status, capsys):
    types = {"keywords": 1, "yes_or_no": 2, "summary": 1}
    job = write(tmp_path, server, {"kept": 60, "by": {"question_type": types, "difficulty": "even"}})
    run(job, tmp_path / "out")
    kept = rows(tmp_path / "out", "kept")
    found = status(tmp_path / "out")
    assert found["ended"] == "the target is reached"
    assert found["kept"] == len(kept)
    assert Counter(row["question_type"] for row in kept) == {
        cell["value"]: cell["kept"] for cell in found["cells"] if cell["column"] == "question_type"
    }
    for cell in found["cells"]:
        assert cell["wanted"] <= cell["kept"] <= cell["wanted"] + 5
    assert {cell["value"]: cell["wanted"] for cell in found["cells"]} == {
        "keywords": 15,
        "yes_or_no": 30,
        "summary": 15,
        **dict.fromkeys(("high_school", "university", "phd"), 20),
    }
    assert max(Counter(row["passage_id"] for row in kept).values()) <= 4
    assert found["covered"] == found["clusters"] == PASSAGES // 5
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
    capsys.readouterr()
    by_revision = Counter(row["revision"] for row in kept)
    assert by_revision == {each["revision"]: each["kept"] for each in found["rounds"] if each["kept"]}
    assert "ended: the target is reached" in (tmp_path / "out" / "README.md").read_text()
    section = synth.open_run(tmp_path / "out").report().as_json()["sections"]["target"]
    assert section["figures"]["kept"] == len(kept)
    assert [row["kept"] for row in section["tables"]["rounds"]] == [each["kept"] for each in found["rounds"]]
    assert [row["wanted"] for row in section["tables"]["cells"]] == [each["wanted"] for each in found["cells"]]
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "resume with" not in (said := capsys.readouterr().out)
    assert "ended: the target is reached" in said


def test_a_stopped_run_goes_on_in_its_round_and_gives_the_same_bytes(tmp_path, server, monkeypatch):
    target = {"kept": 50, "by": {"question_type": "even"}}
    job = write(tmp_path, server, target, keep={"copied_share": {"below": 0.2}})
    run(job, tmp_path / "whole")
    commit, made = StepFolder.commit, []

    def committed(self, *args, **more):
        commit(self, *args, **more)
        made.append(self.name)
        if made.count("generated") == 4:
            raise Stopped("as if killed")

    monkeypatch.setattr(StepFolder, "commit", committed)
    for _ in range(2):
        made.clear()
        with pytest.raises(Stopped):
            run(job, tmp_path / "out")
    monkeypatch.undo()
    run(job, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    plans = [path.name for path in (tmp_path / "whole").glob("job.*.json")]
    assert len(plans) > 2
    for name in (*plans, "index/clusters-40.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_ends_with_the_reason_and_what_is_short(tmp_path, server, status):
    few = {"kept": 60, "by": {"question_type": "even"}, "stop": {"rounds": 1}}
    run(write(tmp_path, server, few), tmp_path / "rounds")
    found = status(tmp_path / "rounds")
    assert found["ended"] == "stop.rounds: 1 rounds are done"
    assert found["kept"] <= 30
    hopeless = {"keep": {"length_error": {"below": 0}}}  # of which there is none
    run(write(tmp_path, server, {"kept": 60}, **hopeless), tmp_path / "gain")
    found = status(tmp_path / "gain")
    assert found["ended"] == "stop.gain: round 1 added 0 pairs, below 1.0% of the target"
    assert found["cells"] == [{"column": "", "value": "", "wanted": 60, "kept": 0, "asked": 30}]
    once = {"kept": 40, "per_passage": {"max": 1}, "stop": {"rounds": 100, "gain": 0}}
    run(write(tmp_path, server, once), tmp_path / "once")
    found = status(tmp_path / "once")
    assert found["ended"] == "the target is reached"
    kept = Counter(row["passage_id"] for row in rows(tmp_path / "once", "kept"))
    assert set(kept.values()) == {1}
    assert len(kept) == PASSAGES


@pytest.mark.parametrize(
    ("target", "more", "what"),
    [
        ({"kept": 161}, {}, "target.kept is 161, but 40 passages give at most 160 pairs. Lower it"),
        ({"kept": 9, "by": {"form": "even"}}, {}, "target.by.form: the task retrieval cannot plan this column. It can"),
        ({"kept": 9, "by": {"question_type": {"why": 1}}}, {}, "'why' is not one of keywords"),
        ({"kept": 9, "by": {"query_language": "even"}}, {}, "`even` needs values that the task names. Write them"),
        ({"kept": 9, "by": {"query_language": {"German": 1}}}, {}, "write de for German"),
        ({"kept": 9, "by": {"question_type": {"keywords": 0}}}, {}, "target.by.question_type.keywords"),
        ({"kept": 9, "hard": True}, {}, "target.hard: needs the score round_trip"),
        ({"kept": 9}, {"embed": None, "personas": None, "scores": []}, "target: needs an embedder"),
        ({"kept": 9, "by": {"grade": "even"}}, {"task": {"use": "sts"}}, "sts cannot plan this column. Leave `by` out"),
    ],
)
def test_a_target_that_cannot_be_met_is_refused_at_the_start(tmp_path, server, capsys, target, more, what):
    job = write(tmp_path, server, target, **more)
    with pytest.raises(JobError) as refused:
        run(job, tmp_path / "out")
    assert what in f"{refused.value} {refused.value.hint}"
    assert main(["check", str(job), "--offline"]) == 2
    assert what in " ".join(capsys.readouterr().out.split())


def test_existing_pairs_have_no_target(tmp_path, server):
    job = write(tmp_path, server, {"kept": 9}, data={"path": "pairs.jsonl"}, corpus=None, task=None, personas=None)
    with pytest.raises(JobError, match="target: belongs to a job that generates, this one works on `data`"):
        load_job(job)


def test_hard_goes_on_at_passages_that_their_queries_find_too_easily(tmp_path, server):
    more = {"scores": [{"use": "round_trip"}], "keep": {"round_trip_rank": {"below": 4}}, "personas": None}
    run(write(tmp_path, server, {"kept": 80, "hard": True, "stop": {"rounds": 2}}, **more), tmp_path / "out")
    embedded = Counter(text for each in server.posts if "input" in each.body for text in each.body["input"])
    assert {embedded[row["text"]] for row in rows(tmp_path / "out", "passages")} == {2}  # for clusters, for ranks
    assert len(list((tmp_path / "out" / "scores").glob("round_trip-*"))) == 1
    assert verify(tmp_path / "out", deep=True).complete
    kept = rows(tmp_path / "out", "kept")
    once = Counter(row["passage_id"] for row in kept if row["revision"] == 2)
    first = {
        row["passage_id"]: row["round_trip_margin"]
        for row in kept
        if row["revision"] == 2 and once[row["passage_id"]] == 1
    }
    again = {row["passage_id"] for row in rows(tmp_path / "out", "generated") if row["revision"] == 3} & first.keys()
    left = first.keys() - again
    assert left
    assert again
    clusters = json.loads((tmp_path / "out" / "index" / "clusters-40.json").read_text())["clusters"]
    places = {row["id"]: clusters[row["position"]] for row in rows(tmp_path / "out", "passages")[:PASSAGES]}
    for chosen in again:  # of a cluster the passages with the widest margins
        beside = [each for each in left if places[each] == places[chosen]]
        assert all(first[chosen] >= first[each] for each in beside)


def test_a_budget_ends_a_round_and_says_what_is_short(tmp_path, server, capsys, status):
    server.chat = completion
    served = {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]}
    target = {"kept": 40, "by": {"question_type": {"keywords": 1, "summary": 1}}}
    job = write(tmp_path, server, target, llm=served, keep={})
    command = ["run", str(job), "-o", str(tmp_path / "out"), "-s"]
    assert main([*command, "budget.tokens=900"]) == 75
    said = " ".join(capsys.readouterr().err.split())
    assert "of 40 pairs kept in 1 of at most 6 rounds short: question_type keywords:" in said
    assert "budget.tokens" in said
    assert main([*command, "budget.tokens=90000"]) == 0
    assert status(tmp_path / "out")["ended"] == "the target is reached"


CRANFIELD = Path(__file__).parents[3] / "shared" / "data" / "retrieval" / "cranfield" / "corpus.parquet"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not CRANFIELD.exists(), reason="the Cranfield corpus is not beside this checkout")
def test_a_target_on_cranfield_and_the_clusters_that_it_covers(tmp_path, status):
    """Beside a plain run of as many calls, which takes passages in order."""
    job = {
        "seed": 7,
        "corpus": {"path": str(CRANFIELD), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "embed": {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"},
        "scores": [{"use": "length"}, {"use": "copying"}],
        "keep": {"copied_share": {"below": 0.5}},
        "run": {"shard_size": 200},
    }
    target = {"kept": 600, "by": {"question_type": "even"}}
    run(write_job(tmp_path, job | {"target": target}), tmp_path / "out")
    run(write_job(tmp_path, {key: value for key, value in job.items() if key != "embed"}), tmp_path / "plain")
    found = status(tmp_path / "out")
    for cell in found["cells"]:
        print(cell)  # noqa: T201 - the figures are what the test is for
        assert abs(cell["kept"] - cell["wanted"]) <= 0.05 * cell["wanted"]
    assert found["ended"] == "the target is reached"
    clusters = json.loads((tmp_path / "out" / "index" / "clusters-1398.json").read_text())["clusters"]
    place = {row["id"]: clusters[row["position"]] for row in rows(tmp_path / "plain", "passages")}
    calls = sum(row["attempts"] for row in rows(tmp_path / "out", "generated"))
    seen, within = 0, set()
    for row in rows(tmp_path / "plain", "generated"):
        seen += row["attempts"]
        within |= {row["id"]} if seen <= calls else set()
    covered, plain = (
        {place[row["passage_id"]] for row in rows(tmp_path / out, "kept") if out == "out" or row["id"] in within}
        for out in ("out", "plain")
    )
    print(f"{calls} calls: {len(covered)} clusters covered, in order {len(plain)}, of {len(set(clusters))}")  # noqa: T201 - as above
    assert len(covered) == found["covered"]
    assert len(covered) >= 1.3 * len(plain)


def test_a_plan_says_what_a_target_takes_at_the_yield_of_its_pilot(tmp_path, server, capsys):
    job = write(tmp_path, server, {"kept": 60, "by": {"question_type": "even"}}, keep={"copied_share": {"below": 0.2}})
    assert main(["plan", str(job), "-o", str(tmp_path / "out"), "--pilot", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    items = round(60 * found["pilot"]["pairs"] / found["pilot"]["kept"])
    assert f"target: at the pilot's yield {items:,} pairs give 60 kept ones" in " ".join(found["notes"])
    assert main(["check", str(job), "--offline"]) == 0
    assert "60 kept pairs, in at most 6 rounds" in capsys.readouterr().out


def test_rejected_items_are_not_retried_where_rounds_ask_for_others(tmp_path, server):
    job = write(tmp_path, server, {"kept": 4})
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--retry-rejected"]) == 2
