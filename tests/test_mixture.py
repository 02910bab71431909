"""A job with `tasks`: one run for each, over parts of the corpus that share no row, as if each had a job of its own."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from faults.extractive_server import Server
from loopback import Loopback
from running import contents, job_dict, rows, write_corpus, write_job

import synth
from synth.cli import main
from synth.document import load_document
from synth.errors import JobError
from synth.mixture import entries
from synth.shipped import shipped
from synth.sources.readers import Part

TASKS = [
    {"use": "retrieval", "share": 2, "queries_per_passage": 2, "keep": {"cosine": {"above": 0.1}}},
    {"use": "sts", "share": 1, "scores": [{"use": "cosine"}, {"use": "length"}]},
    {"use": "classification", "share": 1, "labels": ["boats", "trades", "plants"], "scores": []},
]
NAMES = ["retrieval", "sts", "classification"]
PASSAGES = 30


def job_of(place, url, tasks=TASKS, **more):
    """The job file: 30 passages, and servers whose model fills in whatever is asked."""
    write_corpus(place / "docs.jsonl", PASSAGES)
    job = job_dict(url, place) | {"tasks": tasks, "personas": None} | more
    for key in ("task", "scores", "keep"):
        job.pop(key, None)
    return write_job(place, job)


@pytest.fixture(scope="module")
def served():
    with Loopback() as server:
        server.chat = Server("en").answer
        yield server


@pytest.fixture(scope="module")
def out(served, tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    assert main(["run", str(job_of(place, served.url)), "-o", str(place / "out"), "--json"]) == 0
    return place / "out"


def test_shares_are_those_of_the_items_and_no_passage_is_in_two_tasks(out):
    items = {name: synth.open_run(out / name).summary.items for name in NAMES}
    assert items == {"retrieval": 22, "sts": 9, "classification": 10}, "two queries for each of eleven passages"
    used = Counter(row["id"] for name in items for row in rows(out / name, "passages"))
    assert used == {f"d{n}": 1 for n in range(PASSAGES)}


def test_each_is_the_run_of_a_job_with_this_task_and_part(served, out):
    start, end = json.loads((out / "sts" / "job.json").read_bytes())["job"]["part"]
    assert (start, end) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    own = job_dict(served.url, out.parent, personas=None, task={"use": "sts"}, part=[start, end])
    own["scores"] = TASKS[1]["scores"]
    del own["keep"]
    (out.parent / "own").mkdir()
    path = write_job(out.parent / "own", own)
    assert main(["run", str(path), "-o", str(out.parent / "own-out"), "--json"]) == 0
    assert contents(out.parent / "own-out") == contents(out / "sts")


def test_the_folder_resumes_and_verifies_and_says_which_runs_it_has(served, out, capsys):
    asked = len(served.posts)
    assert main(["run", str(out)]) == 0
    table = capsys.readouterr().out.partition("all tasks")[2]
    assert re.search(r"retrieval +22 +\d+ +\d+ +50% +54% +\d+%", table)
    assert len(served.posts) == asked, "nothing is left to ask"
    assert main(["verify", str(out), "--deep", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert [*found] == NAMES
    assert main(["show", str(out)]) == 4
    assert f"Name one: {out}/classification, {out}/retrieval, {out}/sts" in capsys.readouterr().err


def test_a_run_that_is_gone_is_missed(served, out, tmp_path, capsys):
    for name in ("retrieval", "classification"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "job.json").write_bytes((out / name / "job.json").read_bytes())
    for command in ("run", "verify"):
        assert main([command, str(tmp_path / "out")]) == 4
        assert "a run of its job is missing; there are: retrieval, classification." in capsys.readouterr().err
    changed = [{**TASKS[0], "share": 3}, *TASKS[1:]]
    path = job_of(
        tmp_path, served.url, changed, corpus={"name": "docs", "path": str(out.parent / "docs.jsonl"), "language": "en"}
    )
    assert main(["run", str(path), "-o", str(out)]) == 4
    assert "part.1: 0.333" in capsys.readouterr().err


def test_check_preview_and_plan_say_it_of_each_task(served, tmp_path, capsys):
    path = str(job_of(tmp_path, served.url))
    assert main(["check", path, "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert {name: each["data"]["expected_passages"] for name, each in checked["tasks"].items()} == {
        "retrieval": 11,
        "sts": 9,
        "classification": 10,
    }
    assert main(["preview", path, "-n", "1", "--json"]) == 0
    tried = json.loads(capsys.readouterr().out)["tasks"]
    assert [*tried] == NAMES
    assert all(each["passages"][0]["calls"] for each in tried.values())
    assert len({each["passages"][0]["passage"]["id"] for each in tried.values()}) == 3
    wanted = tried["sts"]["passages"][0]["passage"]["id"]
    assert main(["preview", path, "--id", wanted, "--json"]) == 0
    assert [*json.loads(capsys.readouterr().out)["tasks"]] == ["sts"]
    assert main(["preview", path, "--id", "nowhere"]) == 2
    capsys.readouterr()
    assert main(["plan", path]) == 0
    assert "all tasks: 41 items" in capsys.readouterr().out


def test_a_sample_is_divided_too(served, tmp_path):
    path = job_of(tmp_path, served.url)
    runs = synth.run_tasks(path, out=tmp_path / "out", sample=6, progress=False)
    assert {name: run.passages().height for name, run in runs.items()} == {
        "retrieval": 2,
        "sts": 2,
        "classification": 2,
    }
    assert runs["sts"].path == tmp_path / "out.sample-6" / "sts"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": {"use": "sts"}}, "task: cannot be given beside `tasks`. Remove it, or `tasks`."),
        ({"budget": {"tokens": 5}}, "budget: cannot be given beside `tasks`. Put it into the entries"),
        ({"tasks": {"use": "sts"}}, "tasks: expects a list of tasks with their shares"),
        ({"tasks": [{"use": "sts"}]}, "tasks.0.share: is required and not given"),
        ({"tasks": [TASKS[1], TASKS[1]]}, "tasks.1.name: has the name 'sts', as another entry has"),
        ({"tasks": [{"use": "sts", "share": 1, "name": "a/b"}]}, "tasks.0.name: "),
        (
            {"tasks": [{"use": "stss", "share": 1}, {"use": "sts", "share": 1, "triples": 2}]},
            "tasks.1.triples: 2 is out",
        ),
        ({"tasks": [{"use": "sts", "share": 1, "scores": [{"use": "cosines"}]}]}, "tasks.0.scores.0.use: "),
    ],
)
def test_mistakes_are_named_where_they_stand(change, said, tmp_path, capsys):
    path = job_of(tmp_path, "http://localhost:1/v1")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change, sort_keys=False))
    assert main(["run", str(path), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert re.search(r"job\.yaml:\d+: ", told)
    assert not (tmp_path / "out").exists()


def test_functions_for_one_job_say_what_to_call(tmp_path):
    path = job_of(tmp_path, "http://localhost:1/v1")
    with pytest.raises(JobError, match=r"tasks: make a run each.*synth\.run_tasks"):
        synth.run(path, progress=False)
    with pytest.raises(JobError, match="has no `tasks`"):
        synth.run_tasks(write_job(tmp_path, job_dict("http://localhost:1/v1", tmp_path)), progress=False)


@pytest.mark.parametrize("rows_in_all", [10, 1000, 4181])
def test_parts_have_their_share_of_any_number_of_rows_and_of_any_stretch(rows_in_all):
    bounds = (0.0, 0.2, 0.25, 0.7, 1.0)
    parts = [Part(*each, seed=11) for each in pairwise(bounds)]
    for first in (0, 12_345):
        numbers = range(first, first + rows_in_all)
        found = [sum(n in part for n in numbers) for part in parts]
        assert sum(found) == rows_in_all
        assert all(abs(got - rows_in_all * (part.end - part.start)) < 4 for got, part in zip(found, parts, strict=True))
    assert {n for n in range(50) if n in Part(0, 0.5, 1)} != {n for n in range(50) if n in Part(0, 0.5, 2)}


def test_the_shipped_job_runs(served, tmp_path, monkeypatch):
    job = shipped("configs", "recipe-all.yaml")
    monkeypatch.chdir(job.parents[1])
    model = json.dumps({"use": "vllm_server", "model": "tiny", "base_urls": [served.url]})
    settings = [part for key in ("llm", "embed") for part in ("-s", f"{key}={model}")]
    settings += ["-s", "limits.max_unusable_share=1"]
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--sample", "12", *settings, "--json"]) == 0
    asked = [*entries(load_document(Path(job)))]
    assert asked == ["retrieval", "bitext", "sts", "classification"]
    assert all(rows(tmp_path / "out.sample-12" / name, "passages") for name in asked)
    assert main(["verify", str(tmp_path / "out.sample-12")]) == 0
