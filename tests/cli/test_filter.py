from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import WIDTH

from synth.cli import main
from synth.cli.filter import target
from synth.errors import InputError, JobError
from synth.runners import local
from synth.runners.progress import Counters
from synth.runs.run import OpenRun
from synth.scores import PairBatch
from synth.scores.cosine import Cosine
from synth.shards import StepFolder
from synth.stage import Services
from synth.steps import ingest

SHARED = Path(__file__).parents[2].parent / "shared"
READY = "scores=[{use: cosine, query_vector: qv, passage_vector: pv}]"
ENGLISH = ("-s", "data.query_language=en", "-s", "data.passage_language=en")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vector(text):
    digest = hashlib.sha256(text.encode()).digest()
    return [each / 255 - 0.4 for each in digest[:8]]


def rows(count):
    made = [
        {"query": f"which river is number {n}", "passage": f"River number {n} runs to the sea."} for n in range(count)
    ]
    for n, row in enumerate(made):
        row |= {"qv": vector(row["query"]), "pv": vector(row["passage"]), "n": n, "tags": [f"t{n}"], "id": f"mine-{n}"}
    return made


def jsonl(path, lines):
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return str(path)


def table(folder, step="generated"):
    files = sorted((folder / step).glob("*.parquet"))
    return pa.concat_tables((pq.read_table(file) for file in files), promote_options="permissive")


def shards(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("????????.parquet"))}


def run(*words):
    return main(["filter", *map(str, words)])


def balance(folder):
    totals = json.loads((folder / "index" / "pairs.json").read_text())
    made = table(folder)
    refused = table(folder, "rejected/generated").num_rows if (folder / "rejected" / "generated").is_dir() else 0
    used = set(zip(made["source"].to_pylist(), made["source_row"].to_pylist(), strict=True))
    assert totals["rows_in"] == len(used) + refused == totals["rows_used"] + totals["rejected"]
    dropped = table(folder, "rejected/kept").num_rows if (folder / "rejected" / "kept").is_dir() else 0
    assert made.num_rows == table(folder, "kept").num_rows + dropped == totals["pairs"]
    return made


def test_existing_pairs_are_scored_and_kept_and_lose_no_column(place, capsys):
    given = rows(25)
    given[3]["passage"] = None
    data = jsonl(place / "mine.jsonl", given)
    code = run(data, "-o", "out", *ENGLISH, "-s", READY, "-s", "run.shard_size=10", "--above", "cosine=0")
    assert code == 0
    assert "columns 'query' and 'passage'; 25 rows in 1 file" in capsys.readouterr().err
    made = balance(place / "out")
    assert made["id"].to_pylist() == [f"{n}-0" for n in range(24)]
    for pair in made.to_pylist():
        row = given[pair["source_row"]]
        assert pair["input_id"] == row["id"]
        assert {name: pair[name] for name in ("query", "passage", "qv", "pv", "n", "tags")} == {
            name: row[name] for name in ("query", "passage", "qv", "pv", "n", "tags")
        }
    kept = table(place / "out", "kept").to_pylist()
    a, b = (np.array([row[name] for row in kept]) for name in ("qv", "pv"))
    wanted = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.allclose([row["cosine"] for row in kept], wanted, atol=1e-12)
    assert 0 < len(kept) < 24
    assert min(row["cosine"] for row in kept) > 0
    refused = table(place / "out", "rejected/kept").to_pylist()
    assert all(row["n"] == row["source_row"] and row["cosine"] <= 0 and row["failed"] for row in refused)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_pass_that_was_killed_goes_on_to_the_same_bytes(place, stop_after, monkeypatch):
    data = jsonl(place / "mine.jsonl", rows(25))
    words = ("-o", "out", *ENGLISH, "-s", READY, "-s", "run.shard_size=10", "--above", "cosine=0")
    assert run(data, "-o", "whole", *words[2:]) == 0
    commit, done = StepFolder.commit, []

    def dying(self, index, *rest, **more):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(index)
        return commit(self, index, *rest, **more)

    monkeypatch.setattr(StepFolder, "commit", dying)
    assert run(data, *words) == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert not (place / "out" / "index" / "pairs.json").exists()
    assert run(data, *words) == 0
    assert shards(place / "out") == shards(place / "whole")
    assert main(["run", "out"]) == 0
    assert shards(place / "out") == shards(place / "whole")


def test_a_share_of_a_job_array_does_its_shards_and_then_the_others(place):
    words = (*ENGLISH, "-s", READY, "-s", "run.shard_size=10")
    data = jsonl(place / "pairs.jsonl", rows(35))
    assert run(data, "-o", "whole", *words) == 0
    assert run(data, "-o", "out", *words, "--shard", "2/3") == 0
    assert shards(place / "out") == shards(place / "whole")
    assert run(data, "-o", "out", *words, "--shard", "3-3") == 2


def test_changed_data_are_refused_and_new_rules_are_not(place, capsys):
    data = jsonl(place / "mine.jsonl", rows(12))
    assert run(data, "-o", "out", *ENGLISH, "-s", READY, "--above", "cosine=0") == 0
    before = shards(place / "out" / "generated")
    assert run(data, "-o", "out", *ENGLISH, "-s", READY, "--above", "cosine=0.3") == 0
    assert shards(place / "out" / "generated") == before
    assert table(place / "out", "kept")["cosine"].to_numpy().min() > 0.3
    jsonl(place / "mine.jsonl", rows(13))
    assert run(data, "-o", "out", *ENGLISH, "-s", READY) == 4
    assert "inputs.0.sha256" in capsys.readouterr().err


def test_new_thresholds_ask_the_server_nothing(place, server):
    """Neither as a view, nor in the same folder, nor by the command line of before with another rule."""
    served = ("--embed-url", server.url, "--embed-model", "tiny")
    words = ("-o", "out", *ENGLISH, *served, "-s", "scores=[{use: cosine}]", "-s", "run.shard_size=10")
    data = jsonl(place / "mine.jsonl", [{"query": row["query"], "passage": row["passage"]} for row in rows(25)])
    assert run(data, *words, "--above", "cosine=0.9") == 0
    asked = len(server.log)
    assert asked > 0
    assert main(["keep", "out", "--above", "cosine=0.2", "--as", "mild"]) == 0
    assert main(["keep", "out", "--above", "cosine=0.3"]) == 0
    assert run(data, *words, "--above", "cosine=0.55") == 0
    assert main(["sweep", "out", "--json"]) == 0
    assert len(server.log) == asked
    assert set(table(place / "out", "views/mild")["cosine"].to_pylist()) >= set(
        table(place / "out", "kept")["cosine"].to_pylist()
    )
    balance(place / "out")


def test_the_label_is_found_again_under_its_own_name(place, capsys):
    given = [row | {"good": row["n"] % 2} for row in rows(12)]
    data = jsonl(place / "mine.jsonl", given)
    assert run(data, "-o", "out", *ENGLISH, "-s", READY, "--label-column", "good", "--above", "cosine=0") == 0
    capsys.readouterr()
    assert main(["sweep", "out", "--label-column", "good"]) == 0
    assert "AUC against" in capsys.readouterr().out


def test_several_folders_of_any_layout_and_files_make_one_pass(place, capsys):
    words = ("-s", "scores=[{use: copying}]", "-s", "run.shard_size=5")
    for name in ("one", "two"):
        given = [{"query": f"{name} {row['query']}", "passage": row["passage"]} for row in rows(7)]
        assert run(jsonl(place / f"{name}.jsonl", given), "-o", f"{name}/out", *words) == 0
    capsys.readouterr()
    assert run("one/out", "one.jsonl", "two/out", "two.jsonl", "-o", "all", *words) == 0
    said = capsys.readouterr().err
    assert said.count("shards of synth") == 2
    assert "one: columns 'query' and 'passage'; 14 rows in 2 files" in said
    made = balance(place / "all")
    assert Counter(made["source"].to_pylist()) == {"out": 7, "one": 14, "out-2": 7}
    assert len(set(zip(made["source"].to_pylist(), made["source_row"].to_pylist(), strict=True))) == 28


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--above", "nosuch=1"), "keep: nosuch: column nosuch does not exist"),
        (("--min", "querry_language=1"), "Did you mean query_language?"),
        (
            ("-s", "scores=[{use: cosine, query_vector: a, passage_vector: b}]"),
            "scores: cosine: column 'a' does not exist",
        ),
    ],
)
def test_a_column_that_nobody_makes_is_told_before_a_model_is_asked(place, server, capsys, words, said):
    data = jsonl(place / "mine.jsonl", [row | {"label": 1} for row in rows(5)])
    assert run(data, "-o", "out", "--embed-url", server.url, "--embed-model", "tiny", *words) == 2
    assert said in capsys.readouterr().err
    assert not server.posts
    assert not (place / "out" / "scores").exists()


def test_groups_without_a_threshold_are_told_before_a_model_is_asked(place, server, capsys):
    given = [{"query": f"a river {n}", "passage": f"The river {n}.", "kind": "abc"[n % 3]} for n in range(9)]
    data = jsonl(place / "mine.jsonl", given)
    rules = ("-s", "keep={cosine: {above: {by: kind, a: 0.5}}}", "-s", "run.shard_size=2")
    assert run(data, "-o", "out", "--embed-url", server.url, "--embed-model", "tiny", *rules) == 2
    assert "keep: cosine: above: no value for kind b; kind c, and no default" in capsys.readouterr().err
    assert not server.log


def test_files_that_do_not_fit_together_leave_the_folder_free(place, capsys):
    jsonl(place / "a.jsonl", [{"query": "a query", "passage": "a passage", "n": 1}])
    (place / "b.csv").write_text("query,passage,n\nb query,b passage,one\n")
    words = ("a.jsonl", "b.csv", "-o", "out", "-s", "scores=[{use: copying}]")
    assert run(*words) == 3
    assert "b.csv: field n: string, but int64" in capsys.readouterr().err
    assert run(*words, "-s", "data.carry=[]") == 0


def test_rules_and_sweeps_know_a_scorer_under_its_other_name(place, capsys):
    data = jsonl(place / "mine.jsonl", rows(12))
    scorers = "scores=[{use: length, as: words}, {use: copying, as: taken}]"
    assert run(data, "-o", "out", "-s", scorers, "-s", "keep={words_error: {max: 0.5}}") == 0
    assert table(place / "out", "kept").num_rows == 12  # no length was asked, and that is no fault
    assert main(["keep", "out", "--max", "words_error=0.5", "--as", "same"]) == 0
    assert table(place / "out", "views/same").num_rows == 12
    assert main(["keep", "out", "--max", "taken=7"]) == 2
    assert "outside of taken's range" in capsys.readouterr().err
    assert main(["sweep", "out", "--score", "taken", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lower_is_better"]


def test_every_score_is_shown_as_one_and_a_found_language_is_not_called_asked(place, capsys):
    data = jsonl(
        place / "mine.jsonl", [{"query": row["query"], "passage": row["passage"], "shop": "a"} for row in rows(3)]
    )
    assert run(data, "-o", "out", *ENGLISH, "-s", "scores=[{use: self_contained}, {use: copying, as: taken}]") == 0
    said = [capsys.readouterr().out]
    assert main(["show", "out", "-n", "1"]) == 0
    said.append(capsys.readouterr().out)
    for text in said:
        shown = dict(line.split(None, 1) for line in text.splitlines() if line[:1].isalpha() and " " in line)
        assert shown["scores"].startswith("self_contained true, taken 0.")
        assert "shop a" in shown["columns"]
        assert shown["language"] == "en"
        assert "asked" not in shown


def test_long_names_of_scorers_stand_apart_from_what_is_said_of_them(place, capsys):
    scorers = "scores=[{use: length}, {use: copying, as: copying_of_whole_runs}]"
    assert run(jsonl(place / "mine.jsonl", rows(3)), "-o", "out", "-s", scorers) == 0
    capsys.readouterr()
    for command in ("status", "verify"):
        assert main([command, "out"]) == 0
        (line,) = (each for each in capsys.readouterr().out.splitlines() if "copying_of_whole" in each)
        assert line.split()[1] == "1/1"
    assert main(["sweep", "out", "--score", "copying_of_whole_runs", "--at", "0.123456"]) == 0
    (line,) = (each for each in capsys.readouterr().out.splitlines() if "runs < 0.123456" in each)
    assert line.split("0.123456")[1].startswith(" ")


def test_labels_of_a_text_file_are_words_and_scorers_of_yes_and_no_have_an_auc(place, capsys):
    words = ["1", "0", "True", "false", "", "0.5"]
    lines = [f"what is number {n} in the passage,it is {n},{word}\n" for n, word in enumerate(words)]
    (place / "pairs.csv").write_text("query,passage,good\n" + "".join(lines))
    assert run("pairs.csv", "-o", "out", "-s", "scores=[{use: self_contained}, {use: copying}]") == 0
    capsys.readouterr()
    assert main(["sweep", "out", "--score", "copied_share", "--label-column", "good", "--at", "0.99", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["auc"]) == {"copied_share", "self_contained"}
    assert found["cuts"][0]["recall"] == 1.0
    assert main(["sweep", "out", "--score", "copied_share", "--label-column", "query"]) == 2
    assert "contains text that is not a label" in capsys.readouterr().err


def test_files_of_a_scorer_are_found_again_from_anywhere(place, monkeypatch):
    data = jsonl(place / "mine.jsonl", rows(4))
    jsonl(place / "held-out.jsonl", [{"query": "which river is number 2"}])
    scores = "scores=[{use: contamination, files: [held-out.jsonl], jaccard: 1}]"
    assert run(data, "-o", "out", *ENGLISH, "-s", scores, "--is", "contaminated=false") == 0
    assert table(place / "out", "rejected/kept")["query"].to_pylist() == ["which river is number 2"]
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    before = shards(place / "out")
    next(place.glob("out/scores/*/00000000.parquet")).unlink()
    assert main(["run", str(place / "out")]) == 0
    assert shards(place / "out") == before


def test_columns_named_like_scores_are_carried_aside(place):
    given = [row | {"cosine": 9.5, "label": "x", "reason": "why", "input_id": n} for n, row in enumerate(rows(4))]
    data = jsonl(place / "mine.jsonl", given)
    assert run(data, "-o", "out", *ENGLISH, "-s", READY, "--above", "cosine=-1") == 0
    made = table(place / "out").to_pylist()
    assert [row["input_cosine"] for row in made] == [9.5] * 4
    assert [row["input_label"] for row in made] == ["x"] * 4
    assert [(row["input_id"], row["input_input_id"]) for row in made] == [(n, f"mine-{n}") for n in range(4)]
    assert all(row["cosine"] <= 1 for row in table(place / "out", "kept").to_pylist())


def test_scores_of_an_earlier_run_are_used_when_they_were_made_alike(place):
    data = jsonl(place / "mine.jsonl", rows(9))
    words = (*ENGLISH, "-s", READY, "-s", "keep={}")
    assert run(data, "-o", "first", *words, "-s", "run.shard_size=4") == 0
    mark = next((place / "first" / "scores").iterdir()).name
    assert run("first", "-o", "second", *words, "-s", "run.shard_size=5") == 0
    assert [path.name for path in (place / "second" / "scores").iterdir()] == [mark]
    stored = [table(place / name, f"scores/{mark}") for name in ("first", "second")]
    # with shards of another size the shuffled partners would be others: these are the stored values
    assert stored[0].drop_columns("id").equals(stored[1].drop_columns("id"))
    made = table(place / "second")
    assert made["n"].to_pylist() == list(range(9))
    assert made["input_source"].to_pylist() == ["mine"] * 9
    assert made["source"].to_pylist() == ["first"] * 9


def test_a_sample_is_a_folder_of_its_own(place):
    data = jsonl(place / "mine.jsonl", rows(50))
    assert run(data, "-o", "out", *ENGLISH, "-s", READY, "-s", "keep={}", "--sample", "5") == 0
    assert balance(place / "out.sample-5")["n"].to_pylist() == [5, 15, 25, 35, 45]


def test_a_job_file_says_the_same(place, capsys):
    data = jsonl(place / "mine.jsonl", rows(6))
    job = {
        "data": {"path": data, "query_language": "en", "passage_language": "en"},
        "scores": [{"use": "cosine", "query_vector": "qv", "passage_vector": "pv"}],
        "keep": {"cosine": {"above": 0}},
        "out": "out",
    }
    (place / "filter.yaml").write_text(json.dumps(job))
    assert main(["filter", "-c", "filter.yaml"]) == 0
    assert main(["run", "filter.yaml", "-o", "again"]) == 0
    assert shards(place / "out") == shards(place / "again")
    capsys.readouterr()
    for words in (
        ["status", "out", "--json"],
        ["show", "out"],
        ["show", "out", "--rejected"],
        ["show", "out", "--id", "0-0"],
    ):
        assert main(words) == 0, words
        assert capsys.readouterr().out
    card = (place / "out" / "README.md").read_text()
    assert "6 pairs from 6 rows of mine" in card


def test_check_reads_the_data_as_a_run_would_and_knows_the_columns(place, capsys):
    given = rows(30)
    given[3]["query"] = " "
    job = {"data": {"path": jsonl(place / "mine.jsonl", given)}, "embed": None, "keep": {"n": {"above": 3}}}
    job |= {"scores": [{"use": "cosine", "query_vector": "qv", "passage_vector": "pv"}]}
    (place / "filter.yaml").write_text(json.dumps(job))
    assert main(["check", "filter.yaml", "--offline"]) == 0
    said = capsys.readouterr().out
    assert "columns 'query' and 'passage'; 30 rows in 1 file" in said
    assert "30, all looked at: 29 pairs" in said
    assert "rejected   1 (empty 1)" in said
    assert main(["check", "filter.yaml", "--offline", "-s", "keep.m={above: 3}"]) == 2
    assert "column m does not exist" in capsys.readouterr().out
    assert main(["check", "filter.yaml", "--offline", "-s", "data.query=qury"]) == 3
    assert "Did you mean 'query'?" in capsys.readouterr().out
    assert main(["preview", "filter.yaml"]) == 2


def test_check_tells_what_indexes_take_and_asks_the_model_of_a_judge(place, server, capsys):
    served = {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]}
    job = {"data": {"path": jsonl(place / "mine.jsonl", rows(30))}, "embed": served}
    job |= {
        "scores": [{"use": "cosine"}, {"use": "round_trip"}, {"use": "near_duplicate"}, {"use": "judge", "llm": served}]
    }
    (place / "filter.yaml").write_text(json.dumps(job))
    assert main(["check", "filter.yaml"]) == 0
    said = capsys.readouterr().out
    assert f"round_trip: up to {30 * (2 * WIDTH + 16) / 1000:.1f} kB on disk" in said
    assert "near_duplicate: up to 150.0 kB on disk" in said
    assert "scores.3.llm vllm_server tiny at" in " ".join(said.split())
    assert main(["check", "filter.yaml", "--offline"]) == 0
    assert "round_trip: a vector in half precision of each passage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"corpus": {"path": "x"}}, "corpus: belongs to a job that generates"),
        ({"task": {"use": "retrieval"}}, "task: belongs to a job that generates"),
        ({"scores": [{"use": "judge"}]}, "needs a language model"),
        ({"scores": [{"use": "judge", "llm": {"use": "extractive"}}]}, "understands nothing"),
        ({"scores": [{"use": "judge"}], "llm": {"use": "extractive"}}, "understands nothing"),
        ({"scores": [{"use": "cosine"}]}, "needs an embedder"),
        ({"scores": [{"use": "cosine", "query_vector": "qv"}]}, "go together"),
        ({"data": [{"path": "a", "instruction": "x"}, {"path": "b", "instruction": "y"}]}, "several instructions"),
    ],
)
def test_jobs_that_cannot_be(job, more, said):
    with pytest.raises(JobError, match=said):
        job(json.dumps({"data": {"path": "a"}, "scores": [], "keep": {}} | more))


@pytest.mark.parametrize(
    ("given", "job", "said"),
    [
        (((), {}), None, "no data given"),
        ((("a.jsonl",), {}), Path("f.yaml"), "a.jsonl do not go together"),
        (((), {"--query-column": "q"}), Path("f.yaml"), "--query-column do not go together"),
        ((("a.jsonl",), {"--embed-url": "http://localhost:1/v1"}), None, "--embed-url names no model"),
    ],
)
def test_command_lines_that_make_no_sense(given, job, said):
    with pytest.raises(JobError, match=said):
        target(*given, job, Path("out"), {"above": []}, (), None)


def test_flags_make_the_job_that_they_stand_for(tmp_path):
    data = ("a.jsonl", "b.csv")
    flags = {"--query-column": "frage", "--passage-column": "text", "--label-column": "gut"}
    flags |= {"--embed-url": "http://localhost:8100/v1", "--embed-model": "Qwen/Qwen3-Embedding-0.6B"}
    rules = {"above": ["cosine=0.6"], "is": ["language_ok=true"]}
    made = target(data, flags, None, tmp_path, rules, ("data.name=x",), 3).job
    entry = made.data[0]
    assert (entry.path, entry.query, entry.passage, entry.label) == (("a.jsonl", "b.csv"), "frage", "text", "gut")
    assert (entry.source, made.embed.model) == ("x", "Qwen/Qwen3-Embedding-0.6B")
    assert "cosine above 0.6" in made.rules.describe()


def batch(**columns):
    count = len(next(iter(columns.values())))
    ids = pa.array([f"{n}-0" for n in range(count)], pa.large_string())
    return PairBatch(pa.table({"id": ids, "query": ids, "passage": ids, **columns}))


async def scored(pairs):
    return await Cosine(query_vector="qv", passage_vector="pv").score(pairs, Services())


KINDS = [pa.list_(pa.float32(), 4), pa.list_(pa.float64()), pa.large_list(pa.float16())]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 300])
def test_ready_vectors_of_every_kind_and_in_pieces(kind, count):
    rng = np.random.default_rng(count)
    sides = [rng.standard_normal((count + 3, 4)).astype(np.float16) for _ in range(2)]
    columns = [pa.chunked_array([pa.array(side.tolist(), kind)]).slice(3) for side in sides]
    found = asyncio.run(scored(batch(qv=columns[0], pv=columns[1])))
    a, b = (side[3:].astype(np.float64) for side in sides)
    for name, other in (("cosine", b), ("cosine_shuffled", np.roll(b, -(count // 2), axis=0))):
        wanted = (a * other).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(other, axis=1)
        got = found[name].to_pylist()
        if name == "cosine_shuffled" and count == 1:
            assert got == [None]
        else:
            assert np.allclose(got, wanted, atol=1e-12)


def test_ready_vectors_may_be_whole_numbers_and_a_bad_one_is_found_in_the_data(place, capsys):
    given = [row | {"qv": [3, 4], "pv": [4, 3]} for row in rows(12)]
    words = (*ENGLISH, "-s", READY, "-s", "run.shard_size=5", "--above", "cosine=0.9")
    assert run(jsonl(place / "whole.jsonl", given), "-o", "out", *words) == 0
    assert table(place / "out", "kept")["cosine"].to_pylist() == [0.96] * 12
    given[8]["pv"] = [0, 0]
    assert run(jsonl(place / "zero.jsonl", given), "-o", "bad", *words) == 3
    assert "zero: row 9 (8-0): field pv: has NaN, infinity or only zeros" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, 2.0], [float("nan"), 1.0]], r"row 2 \(1-0\): field pv: has NaN"),
        ([[1.0, 2.0], [0.0, 0.0]], r"row 2 \(1-0\): field pv: has NaN, infinity or only zeros"),
        ([[1.0, 2.0], [1.0]], r"row 2 \(1-0\): field pv: has 1 values, the first row has 2"),
        ([[1.0, 2.0], None], r"row 2 \(1-0\): field pv: is null"),
        ([[1.0, 2.0], [1.0, None]], r"row 2 \(1-0\): field pv: has NaN"),
        ([[1.0, 2.0, 3.0]] * 2, "field pv: has 3 values, qv has 2"),
    ],
)
def test_vectors_of_which_no_cosine_can_be_taken_are_errors(vectors, said):
    with pytest.raises(InputError, match=said):
        asyncio.run(scored(batch(qv=[[1.0, 0.5], [0.5, 1.0]], pv=vectors)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", ["flag_nq", "covid_question_pairs_en"])
def test_real_pairs_pass_with_every_column(place, name):
    path = SHARED / "data" / "pairs" / f"{name}.parquet"
    assert run(path, "-o", "out", *ENGLISH, "-s", "scores=[{use: copying}]", "-s", "keep={}") == 0
    made, given = balance(place / "out"), pq.read_table(path)
    assert made.num_rows == given.num_rows
    for column in given.column_names:
        assert made[column].to_pylist() == given[column].to_pylist(), column


def layouts(place):
    """The same facts as every trainer writes them: name → (path, how many pairs, how many rejected rows)."""
    asked = [(f"which river is number {n}", f"River number {n} runs to the sea.") for n in range(6)]
    negatives = ["A hill.", "A lake."]
    flag = [{"query": q, "pos": [p, f"{p} Slowly."], "neg": negatives, "pos_scores": [1, 0.5]} for q, p in asked]
    tuples = [{"anchor": q, "positive": p, "negative_1": "A hill.", "negative_2": "A lake."} for q, p in asked]
    messages = [
        {"messages": [{"role": "user", "content": q}], "positive_messages": [[{"role": "user", "content": p}]]}
        for q, p in asked
    ]
    folder = place / "beir"
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": p} for n, (_, p) in enumerate(asked)])
    jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": q} for n, (q, _) in enumerate(asked)])
    lines = [f"q{n}\td{n}\t{n % 2}\n" for n in range(6)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return {
        "flag": (jsonl(place / "flag.jsonl", flag), 12, 0),
        "tuples": (jsonl(place / "tuples.jsonl", tuples), 6, 0),
        "messages": (jsonl(place / "messages.jsonl", messages), 6, 0),
        "beir": (str(folder), 3, 3),
    }


@pytest.mark.parametrize("kind", ["flag", "tuples", "messages", "beir"])
def test_every_layout_passes_with_one_command_and_balances(place, kind):
    data, count, rejected = layouts(place)[kind]
    words = ("-s", "scores=[{use: length}]", "-s", "run.shard_size=4", "--min", "length=1")
    assert run(data, "-o", "out", *ENGLISH, *words) == 0
    assert main(["verify", "out", "--deep"]) == 0
    made = balance(place / "out")
    assert made.num_rows == count
    totals = json.loads((place / "out" / "index" / "pairs.json").read_text())
    assert (totals["rows_in"], totals["rejected"]) == (6, rejected)
    if kind == "flag":
        assert list(zip(made["group"].to_pylist(), made["positive"].to_pylist(), strict=True)) == [
            (row, place) for row in range(6) for place in range(2)
        ]
        assert made["neg"].to_pylist() == [["A hill.", "A lake."]] * 12


def test_scorers_that_look_at_the_whole_pass_work_on_existing_data(place, server):
    given = [{"query": row["query"], "passage": row["passage"]} for row in rows(14)]
    given.append(given[3])
    data = jsonl(place / "mine.jsonl", given)
    served = ("--embed-url", server.url, "--embed-model", "tiny", "-s", "run.shard_size=5")
    unique = "keep={unique: {by: query_cluster, best: round_trip_margin}}"
    scores = "scores=[{use: near_duplicate}, {use: round_trip}]"
    assert run(data, "-o", "out", *ENGLISH, *served, "-s", scores, "-s", unique) == 0
    made = balance(place / "out")
    assert made.num_rows == len(given)
    kept = table(place / "out", "kept")
    assert len(set(kept["query_cluster"].to_pylist())) == kept.num_rows
    assert min(kept["round_trip_rank"].to_pylist()) == 1


class Phases(Counters):
    """Remembers every phase that a display could have shown."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "phase":
            self.__dict__.setdefault("told", []).append(value)


def test_the_progress_names_the_scorer_that_looks_at_the_whole_pass(place):
    data = jsonl(place / "mine.jsonl", [{"query": row["query"], "passage": row["passage"]} for row in rows(14)])
    scores = "scores=[{use: length}, {use: near_duplicate}, {use: near_duplicate, as: dup}]"
    made = target([data], {}, None, place / "out", {}, [scores, *ENGLISH[1::2], "run.shard_size=5"], None)
    opened = OpenRun.open(made.job, made.out, sample=None, notify=print)
    phases = Phases()
    asyncio.run(local.work(opened, ingest.make(opened, lambda *_: None)["shards"], phases, local.StopRequest()))
    assert phases.told == ["reading", "scoring", "scoring by near_duplicate", "scoring by dup", "applying the rules"]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 2, "does not exist"),
        ('{"number": 3}\n', 3, "no column has a usual name"),
        ('{"query": "fine"}\n{"query": \n', 3, "row 2"),
        ('{"query": "fine"}\n{"query": 7}\n', 3, "row 2: a int, not text"),
    ],
)
def test_a_contamination_file_of_no_use_is_told_before_a_model_is_asked(place, server, capsys, content, code, said):
    data = jsonl(place / "mine.jsonl", [{"query": row["query"], "passage": row["passage"]} for row in rows(5)])
    if content is not None:
        (place / "bench.jsonl").write_text(content)
    scorers = "scores=[{use: cosine}, {use: contamination, files: [bench.jsonl]}]"
    assert run(data, "-o", "out", "--embed-url", server.url, "--embed-model", "tiny", "-s", scorers) == code
    said_at_all = capsys.readouterr().err
    assert "bench.jsonl" in said_at_all
    assert said in said_at_all
    assert not server.log
    assert not (place / "out").exists()


def test_a_start_that_fails_before_it_writes_leaves_no_folder_and_none_of_those_above(place):
    (place / "mine.jsonl").write_text('{"number": 3}\n')
    assert run("mine.jsonl", "-o", "deep/er/out") == 3
    assert not (place / "deep").exists()
    (place / "mine").mkdir()
    assert run("mine.jsonl", "-o", "mine") == 3
    assert (place / "mine").is_dir()


def test_columns_that_get_another_name_are_said_before_the_start_and_by_check(place, capsys):
    given = [{"query": "a river", "passage": "The river.", "id": f"mine-{n}", "cosine": 0.5, "n": n} for n in range(3)]
    data = jsonl(place / "mine.jsonl", given)
    words = (data, "-o", "out", *ENGLISH, "-s", "scores=[{use: copying}]")
    said = "columns renamed: id as input_id, cosine as input_cosine"
    assert run(*words) == 0
    err = capsys.readouterr().err
    assert err.index("mine: columns 'query' and 'passage'") < err.index(said) < err.index("3 pairs of 3 rows")
    (place / "job.yaml").write_text(json.dumps({"data": {"path": data}, "scores": [{"use": "copying"}], "keep": {}}))
    assert main(["check", "job.yaml", "--offline"]) == 0
    assert "renamed    id as input_id, cosine as input_cosine" in capsys.readouterr().out
    assert (
        run(jsonl(place / "plain.jsonl", [{"query": "a river", "passage": "The river."}]), "-o", "two", *words[3:]) == 0
    )
    assert "columns renamed" not in capsys.readouterr().err
