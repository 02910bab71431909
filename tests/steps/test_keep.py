"""Other rules over stored scores: views beside the default one, and the default one exchanged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import Died, Machine, running_on

from synth.cli import main
from synth.errors import JobError, OutputError, SystemFault
from synth.results.keep import apply
from synth.rules import Rules, ruleset
from synth.shards import Origin, OutputFolder
from synth.steps import keep
from synth.steps import keep as runner
from synth.steps.keep import View, built_aside, keep_shard

JOB = """\
corpus: {{path: {corpus}}}
personas: null
llm: {{use: extractive}}
scores: [{{use: length}}, {{use: copying}}]
keep: {{length_error: {{max: 5}}}}
run: {{shard_size: 4}}
"""
TOPICS = ("glass", "copper", "salt", "wool", "paper", "timber", "marble", "amber", "cork", "linen")
SHARDS = 3
COSINE = "scores/cosine-00000000"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three shards without any model, and a cosine that some other pass might have left beside it."""
    base = tmp_path_factory.mktemp("finished")
    corpus = base / "corpus.jsonl"
    text = "The {0} trade of the northern harbours grew when {0} merchants built a warehouse beside the river in 1872."
    corpus.write_text("".join(json.dumps({"id": topic, "text": text.format(topic)}) + "\n" for topic in TOPICS))
    job = base / "job.yaml"
    job.write_text(JOB.format(corpus=corpus))
    out = base / "out"
    assert main(["run", str(job), "-o", str(out), "--json"]) == 0
    add_scores(OutputFolder.open(out, write=True))
    return out


def add_scores(folder):
    rng = np.random.default_rng(3)
    generated = folder.step("generated")
    for index in sorted(generated.done()):
        ids = generated.read(index).table["id"]
        scores = {"id": ids, "cosine": rng.random(len(ids)), "query_cluster": rng.integers(0, 4, len(ids))}
        commit(folder.step(COSINE), index, pa.table(scores))


def commit(step, index, table):
    rows = table.num_rows
    step.commit(index, table, Origin(identity="c", input="", first=index * 4, rows_in=rows, rows_out=rows, schema="1"))


@pytest.fixture
def out(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "out"))


def rules(**keep):
    parsed, problems = Rules.parse(keep, None)
    assert not problems
    return parsed


def opened(path):
    return OutputFolder.open(path, write=True)


def rows(path, step):
    return pa.concat_tables(pq.read_table(file) for file in sorted((path / step).glob("*.parquet")))


def scored(path):
    return dict(zip(rows(path, COSINE)["id"].to_pylist(), rows(path, COSINE)["cosine"].to_pylist(), strict=True))


def state(path, *left_out):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in left_out
    }


def test_a_named_view_holds_what_the_rules_keep_and_the_rest_lies_in_rejected(out):
    done = apply(opened(out), rules(cosine={"above": 0.5}), "half")
    cosine = scored(out)
    assert set(rows(out, "views/half")["id"].to_pylist()) == {key for key, value in cosine.items() if value > 0.5}
    rejected = rows(out, "rejected/views/half")
    assert set(rejected["id"].to_pylist()) == {key for key, value in cosine.items() if value <= 0.5}
    assert set(rejected["step"].to_pylist()) == {"views/half"}
    assert set(rejected["reason"].to_pylist()) == {"cosine above 0.5"}
    assert {"query", "passage", "cosine", "copied_share", "failed"} <= set(rejected.column_names)
    assert (done.rows, done.kept + done.rejected, done.made) == (len(cosine), len(cosine), SHARDS)


def test_a_rejected_row_names_the_first_rule_it_broke_and_all_of_them(out):
    apply(opened(out), rules(cosine={"above": 0.5}, query_cluster={"below": 0}), "none")
    for row in rows(out, "rejected/views/none").to_pylist():
        broken = [] if row["cosine"] > 0.5 else ["cosine above 0.5"]
        assert row["failed"] == [*broken, "query_cluster below 0"]
        assert row["reason"] == row["failed"][0]
        assert row["detail"] == "; ".join(row["failed"])


def test_a_named_view_touches_nothing_but_itself_and_asks_no_model(out):
    before = state(out, "README.md")
    apply(opened(out), rules(cosine={"above": 0.5}), "half")
    after = state(out, "README.md", "views")
    fresh = [name for name in after if name not in before]
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(("rejected/views/", ".rejects/views/", "index/rules-")) for name in fresh)


def test_the_same_rules_again_write_nothing(out, capsys):
    command = ["keep", str(out), "--above", "cosine=0.5", "--as", "half"]
    assert main(command) == 0
    before = state(out)
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert state(out) == before


def test_the_default_view_is_exchanged_with_its_rejected_rows(out):
    folder = opened(out)
    old = rows(out, "kept")["id"].to_pylist()
    reader = os.open(out / "kept", os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = apply(folder, rules(cosine={"above": 0.5}), None)
        still = [name for name in sorted(os.listdir(reader)) if name.endswith(".parquet")]  # noqa: PTH208 - the folder that was opened
        seen = 0
        for name in still:
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=reader), "rb") as file:
                seen += pq.read_metadata(file).num_rows
    finally:
        os.close(reader)
    assert seen == len(old), "who opened the old view keeps it"
    kept = rows(out, "kept")["id"].to_pylist()
    assert set(kept) == {key for key, value in scored(out).items() if value > 0.5}
    assert set(kept) | set(rows(out, "rejected/kept")["id"].to_pylist()) == set(scored(out))
    assert done.swapped
    assert keep.record_of(folder, "kept").rules == rules(cosine={"above": 0.5})


def test_earlier_rules_come_back(out):
    before = {name: content for name, content in state(out).items() if name.startswith(("kept/", "rejected/kept/"))}
    original = keep.record_of(opened(out), "kept").rules
    apply(opened(out), rules(copied_share={"max": 0.26}), None)
    apply(opened(out), original, None)
    after = {name: content for name, content in state(out).items() if name.startswith(("kept/", "rejected/kept/"))}
    assert after == before


def test_resuming_the_folder_goes_on_under_the_rules_of_kept(out, capsys):
    apply(opened(out), rules(length_error={"max": 0}), None)
    before = state(out, "README.md", "tmp", "logs")
    assert main(["run", str(out), "--json"]) == 0
    capsys.readouterr()
    assert state(out, "README.md", "tmp", "logs") == before


def test_a_name_in_use_is_refused_with_the_rules_it_stands_for(out):
    apply(opened(out), rules(cosine={"above": 0.5}), "half")
    with pytest.raises(JobError, match=r"the view half holds other rules: cosine above 0\.5"):
        apply(opened(out), rules(cosine={"above": 0.6}), "half")


def test_the_cure_for_a_name_in_use_can_be_followed_at_once(out, capsys):
    words = ["keep", str(out), "--as", "strict", "--above"]
    assert main([*words, "cosine=0.5"]) == 0
    assert main([*words, "cosine=0.6"]) == 2
    cure = capsys.readouterr().err.partition("that view first: synth ")[2]
    assert main(cure.split()) == 0
    assert main([*words, "cosine=0.6"]) == 0


@pytest.mark.parametrize("name", ["kept", "generated", "../x", ".x", "a/b", "", "train"])
def test_names_that_cannot_be_views(out, name):
    with pytest.raises(JobError, match="cannot be the name of a view"):
        apply(opened(out), rules(cosine={"above": 0.5}), name)


def test_a_column_that_is_not_stored_is_an_error_before_anything_is_written(out):
    before = state(out)
    with pytest.raises(JobError, match="column reranker does not exist"):
        apply(opened(out), rules(reranker={"above": 0.5}), "good")
    assert state(out) == before


@pytest.mark.parametrize("name", [None, "half"])
def test_all_groups_without_a_threshold_are_named_before_anything_is_written(out, name):
    clusters = sorted(set(map(str, rows(out, COSINE)["query_cluster"].to_pylist())))
    first = clusters[0]
    before = state(out)
    with pytest.raises(JobError) as caught:
        apply(opened(out), rules(cosine={"above": {"by": "query_cluster", first: 0.5}}), name)
    assert [f"query_cluster {each}" in str(caught.value) for each in clusters] == [each != first for each in clusters]
    assert state(out) == before
    given = dict.fromkeys(clusters, 0.5) | {"by": "query_cluster"}
    assert apply(opened(out), rules(cosine={"above": given}), name).rows == len(scored(out))


def test_two_folders_with_the_same_column_are_not_chosen_between(out):
    folder = opened(out)
    for index in range(SHARDS):
        commit(folder.step("scores/cosine-11111111"), index, folder.step(COSINE).read(index).table)
    with pytest.raises(JobError, match=r"both scores/cosine-00000000 and scores/cosine-11111111 hold"):
        apply(folder, rules(cosine={"above": 0.5}), "half")


def test_the_default_view_is_not_swapped_under_a_run_at_work(out):
    folder = opened(out)
    journal = folder.step("generated").claim(SHARDS)
    try:
        with pytest.raises(OutputError, match="a run is at work"):
            apply(folder, rules(cosine={"above": 0.5}), None)
        apply(folder, rules(cosine={"above": 0.5}), "half")
    finally:
        journal.close()


def test_unique_compares_all_shards_after_the_other_rules(out):
    unique = {"by": "query_cluster", "best": "cosine"}
    apply(opened(out), rules(copied_share={"max": 1}, cosine={"below": 0.9}, unique=unique), "best")
    best: dict[int, tuple[float, str]] = {}
    for row in rows(out, COSINE).to_pylist():  # brute force, in the order of positions
        if row["cosine"] < 0.9 and row["cosine"] > best.get(row["query_cluster"], (-1.0, ""))[0]:
            best[row["query_cluster"]] = (row["cosine"], row["id"])
    assert sorted(rows(out, "views/best")["id"].to_pylist()) == sorted(key for _, key in best.values())
    assert "best cosine per query_cluster" in rows(out, "rejected/views/best")["reason"].to_pylist()


def test_unique_gives_ties_to_the_lower_position_across_shards(tmp_path):
    folder = OutputFolder.open(tmp_path / "out", write=True)
    for index in range(2):
        ids = [f"{index * 2 + n}-0" for n in range(2)]
        commit(folder.step("generated"), index, pa.table({"id": ids}))
        commit(folder.step(COSINE), index, pa.table({"id": ids, "cosine": [0.5, 0.5], "query_cluster": [1, None]}))
    view = View("views/u", rules(unique={"by": "query_cluster", "best": "cosine"}), (COSINE,), competing=(0, 1))
    runner.fill(folder, view, range(2))
    assert rows(folder.path, "views/u")["id"].to_pylist() == ["0-0", "1-0", "3-0"]


@pytest.mark.slow
def test_several_processes_write_the_same_bytes_as_one(out, tmp_path):
    other = Path(shutil.copytree(out, tmp_path / "other"))
    wanted = rules(cosine={"above": 0.3}, unique={"by": "query_cluster", "best": "cosine"})
    apply(opened(out), wanted, "view", workers=1)
    apply(opened(other), wanted, "view", workers=2)
    assert views_of(out) == views_of(other)


def test_a_folder_is_not_resumed_without_a_scorer_that_its_view_reads(out, capsys):
    apply(opened(out), rules(cosine={"above": 0.5}), None)
    assert main(["run", str(out)]) == 2
    assert "does not make: cosine" in capsys.readouterr().err


def test_status_show_and_card_know_the_views(out, capsys):
    assert main(["keep", str(out), "--above", "cosine=0.5", "--as", "half", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["status", str(out), "--json"]) == 0
    steps = {each["step"]: each for each in json.loads(capsys.readouterr().out)["steps"]}
    assert steps["views/half"]["rules"] == "cosine above 0.5"
    assert steps["views/half"]["rows_out"] == told["kept"]
    assert main(["show", str(out), "--view", "half", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cosine"] > 0.5
    assert main(["show", str(out), "--view", "whole"]) == 2
    card = (out / "README.md").read_text()
    assert "views/half/*.parquet" in card
    assert "`cosine above 0.5`" in card


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"above": ["cosine=0.6"]}, {"cosine": {"above": 0.6}}),
        ({"min": ["cosine=0"], "max": ["cosine=1"]}, {"cosine": {"min": 0, "max": 1}}),
        ({"is": ["language_ok=true", "difficulty=phd"]}, {"language_ok": {"is": True}, "difficulty": {"is": "phd"}}),
        ({"above": ["cosine={by: query_language, default: 0.5}"]}, None),
    ],
)
def test_flags_are_the_same_mapping_as_a_file(tmp_path, given, expected):
    keep = ruleset.mapping(given)
    assert keep == (expected or {"cosine": {"above": {"by": "query_language", "default": 0.5}}})
    for content in (keep, {"keep": keep}):
        (tmp_path / "rules.yaml").write_text(json.dumps(content))
        assert ruleset.chosen({}, tmp_path / "rules.yaml") == ruleset.chosen(given, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no rules are given"),
        (["--above", "cosine"], "expected COLUMN=VALUE"),
        (["--above", "cosine=0.5", "--above", "cosine=0.6"], "is given twice"),
        (["--above", "cosine=7"], "outside of cosine's range"),
        (["--above", "cosine=high"], "expects a number"),
        (["--rules", "nowhere.yaml"], "no such file"),
        (["--rules", "nowhere.yaml", "--min", "cosine=0"], "cannot be combined"),
    ],
)
def test_mistakes_in_rules_are_named(out, capsys, arguments, message):
    assert main(["keep", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err


def carry_out(path, name):
    """What `synth keep` does on disk, without its reports."""
    folder = opened(path)
    view = View(f"views/{name}" if name else "kept", rules(cosine={"above": 0.5}), (COSINE,))
    runner.carry_out(folder, view if name else built_aside(folder, view), range(SHARDS))


@pytest.mark.faults
@pytest.mark.parametrize("action", ["die", "die after", "refuse:EIO"])
@pytest.mark.parametrize("name", [None, "half"])
def test_a_fault_at_any_system_call_is_survived_and_a_reader_sees_old_or_new(finished, tmp_path, name, action):
    old = kept_of(views_of(finished))
    clean = Path(shutil.copytree(finished, tmp_path / "clean"))
    with running_on(Machine(clean)) as machine:
        carry_out(clean, name)
    expected = views_of(clean)
    labels = machine.labels
    for number in range(1, len(labels) + 1, 1 if action == "die" else 5):
        path = Path(shutil.copytree(finished, tmp_path / f"out{number}"))
        broken = Machine(path, lambda count, _label, number=number: count == number, action)
        with running_on(broken), contextlib.suppress(Died, SystemFault):
            carry_out(path, name)
        assert kept_of(views_of(path)) in (old, kept_of(expected))
        carry_out(path, name)
        assert views_of(path) == expected, labels[number - 1]
        shutil.rmtree(path)


def kept_of(files):
    return {key: value for key, value in files.items() if key.startswith("kept/")}


def views_of(path):
    return {key: value for key, value in state(path).items() if key.startswith(("kept/", "views/", "rejected/"))}


@pytest.mark.faults
def test_a_real_kill_in_the_middle_leaves_whole_shards_and_the_rest_follows(out):
    code = (
        "import sys, pathlib, faults; from test_keep import apply, opened, rules\n"
        "path = pathlib.Path(sys.argv[1]); seen = iter(range(1))\n"
        "when = lambda _n, label: label == 'link views' and next(seen, None) is None\n"
        "machine = faults.Machine(path, when, 'kill')\n"
        "with faults.running_on(machine): apply(opened(path), rules(cosine={'above': 0.5}), 'x')"
    )
    tests = str(Path(faults.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), tests, str(Path(tests).parent)]),
    }
    process = subprocess.run([sys.executable, "-c", code, out], env=environment, check=False)
    assert process.returncode == -9
    assert len(list((out / "views" / "x").glob("*.parquet"))) == 1
    done = apply(opened(out), rules(cosine={"above": 0.5}), "x")
    assert (done.shards, done.made) == (SHARDS, SHARDS - 1)


def test_a_shard_that_is_done_is_left_alone(out):
    folder = opened(out)
    view = View("views/v", rules(cosine={"above": 0.5}), (COSINE,))
    first = keep_shard(folder, view, 0)
    before = (out / "views" / "v" / "00000000.parquet").stat().st_mtime_ns
    assert keep_shard(folder, view, 0) == first
    assert (out / "views" / "v" / "00000000.parquet").stat().st_mtime_ns == before
