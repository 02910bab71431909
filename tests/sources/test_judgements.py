"""Pairs that come with judgements: recognised, announced, and those judged 0 or less are not kept."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import rows

import synth
from synth.cli import main

SHARED = Path(__file__).parents[2].parent / "shared"
TEXT = "The ferry to the island number {} leaves the harbour at seven every morning."
QUICK = ("-s", "embed=null", "-s", "scores=[{use: length}]", "-s", "data.query_language=en", "-s", "run.shard_size=4")


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(name, values, *, queries=None, columns=("query", "passage")):
    """A pair for each value of the column `name`; every query is asked twice unless they are given."""
    queries = queries or [f"when does ferry {n // 2} leave" for n in range(len(values))]
    texts = [TEXT.format(n) for n in range(len(values))]
    return [dict(zip((*columns, name), row, strict=True)) for row in zip(queries, texts, values, strict=True)]


def run(lines, *words):
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["filter", "pairs.jsonl", "-o", "out", *QUICK, *words]) == 0


def kept(step="kept"):
    return [row["source_row"] for row in rows("out", step)]


JUDGEMENTS = {
    "binary": ("label", [1, 0, 1, 0, 1], [0, 2, 4]),
    "signs": ("label", [1, -1, 1, -1, 0], [0, 2]),
    "booleans": ("is_relevant", [True, False, None, True, False], [0, 2, 3]),
    "grades": ("relevance", [3, 0, 2, 1, 0], [0, 2, 3]),
    "shares": ("Relevance", [0.5, 0, 1, 0.25, 0.0], [0, 2, 3]),
    "words": ("label", ["true", "False", "", "yes", "no"], [0, 2, 3]),
    "floats with gaps": ("label", [1.0, math.nan, 0.0, 1.0, 0.0], [0, 1, 3]),
    "all of one kind": ("is_duplicate", [0, 0, 0, 0, 1], [4]),
}


@pytest.mark.parametrize("kind", JUDGEMENTS)
@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_pairs_judged_0_or_less_fail_a_rule_that_is_named_and_counted(kind, form, capsys):
    name, values, wanted = JUDGEMENTS[kind]
    lines = made(name, values)
    if form == "jsonl":
        run([{key: value for key, value in line.items() if value not in (None, math.nan)} for line in lines])
    else:
        table = pa.Table.from_pylist(lines)
        pq.write_table(table, "pairs.parquet")
        given = [",".join(map(str, lines[0]))]
        given += [",".join("" if v in (None, math.nan) else str(v) for v in line.values()) for line in lines]
        Path("pairs.csv").write_text("\n".join(given) + "\n")
        assert main(["filter", f"pairs.{form}", "-o", "out", *QUICK]) == 0
    said = capsys.readouterr()
    assert f"label from {name!r}, 0 or less is not relevant (the rule `label above 0`)" in said.err
    assert f"{5 - len(wanted)} by the rule: label above 0" in " ".join(said.out.split())
    assert kept() == wanted
    assert {row["reason"] for row in rows("out", "rejected/kept")} == {"label above 0"}
    assert all(row["label"] is None or row["label"] > 0 for row in rows("out", "kept"))
    assert main(["verify", "out", "--deep"]) == 0


CLASSES = {
    "many": ("label", [n % 77 for n in range(154)], "more than 11 different values, taken for classes"),
    "few, one for each query": ("label", [0, 1, 2, 3], "'label' (0, 1, 2, 3) taken for classes"),
    "text": ("label", ["sport", "news", "sport", "0"], "'label' holds text, taken for classes"),
    "scores": ("relevance", [n / 40 - 0.2 for n in range(20)], "taken for classes or scores"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_and_scores_are_no_judgements_and_it_says_what_it_assumed(kind, capsys):
    name, values, said = CLASSES[kind]
    lines = made(name, values, queries=[f"question {n}" for n in range(len(values))])
    run(lines)
    assert said in capsys.readouterr().err
    assert kept() == list(range(len(values)))
    own = "input_label" if name == "label" else name
    assert [row[own] for row in rows("out", "kept")] == values
    assert "label" not in rows("out", "kept")[0]


def test_classes_of_inference_are_no_judgements(capsys):
    lines = made("label", [0, 1, 2, 0], columns=("premise", "hypothesis"))
    run(lines)
    assert "taken for classes" in capsys.readouterr().err
    assert len(kept()) == 4


def test_few_grades_of_one_query_are_judgements_and_it_says_so(capsys):
    run(made("label", [0, 3, 2, 0, 1, 0]))
    assert "'label' (0, 1, 2, 3) taken for grades, as a query has several: data.label changes that" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert kept() == [1, 2, 4]


def test_the_rule_can_be_switched_off_or_replaced_and_stays_so(capsys):
    lines = made("label", [1, 0, 1, 0, 1, 0])
    run(lines, "-s", "keep.label=null")
    assert kept() == list(range(6))
    assert main(["run", "out"]) == 0
    assert kept() == list(range(6))
    assert main(["keep", "out", "--min", "length=1"]) == 0
    assert kept() == list(range(6))
    run(lines)
    assert kept() == [0, 2, 4]
    assert main(["run", "out"]) == 0
    assert kept() == [0, 2, 4]
    assert main(["keep", "out", "--min", "length=1"]) == 0
    assert kept() == [0, 2, 4]
    assert main(["keep", "out", "--min", "length=1", "--as", "again"]) == 0
    assert kept("views/again") == [0, 2, 4]
    Path("rules.yaml").write_text("label: null\nlength: {min: 1}\n")
    assert main(["keep", "out", "--rules", "rules.yaml", "--as", "all"]) == 0
    assert len(kept("views/all")) == 6
    run(lines, "--max", "label=0")
    assert kept() == [1, 3, 5]
    capsys.readouterr()
    assert main(["filter", "pairs.jsonl", "-o", "plain", *QUICK, "-s", "data.label=null"]) == 0
    assert "label above 0" not in capsys.readouterr().err
    assert [row["input_label"] for row in rows("plain", "kept")] == [1, 0, 1, 0, 1, 0]


def test_the_rule_joins_the_others_of_the_job(server):
    lines = made("label", [1, 0, 1, 0])
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    served = ("--embed-url", server.url, "--embed-model", "tiny", "-s", "scores=[{use: cosine}]")
    for name, words in (("a", ["--above", "cosine=-1"]), ("b", ["-s", "keep.cosine.above=-1"]), ("c", [])):
        assert main(["filter", "pairs.jsonl", "-o", name, *served, *words]) == 0
        assert {row["label"] for row in rows(name, "kept")} <= {1.0}
        assert {row["reason"] for row in rows(name, "rejected/kept") if row["label"] == 0} == {"label above 0"}


def test_several_entries_have_judgements_of_their_own():
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made("label", [1, 0])))
    Path("b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made("shop", ["x", "y"])))
    job = {"data": [{"path": "a.jsonl"}, {"path": "b.jsonl"}], "scores": [{"use": "length"}]}
    Path("job.yaml").write_text(json.dumps(job))
    assert main(["check", "job.yaml", "--offline"]) == 0
    found = synth.run("job.yaml", out="out", progress=False)
    assert found.kept()["label"].to_list() == [1.0, None, None]
    assert found.summary.dropped == {"label above 0": 1}


def test_an_export_names_the_label_that_left_pairs_out(capsys):
    run(made("label", [0, 0, 1, 0]), "-s", "keep.label=null")
    capsys.readouterr()
    assert main(["export", "out", "--to", "jsonl", "-o", "files"]) == 0
    assert "3 pairs left out: label 0 or less, judged not relevant" in capsys.readouterr().out
    run(made("label", [0, 0, 0, 1]), "--max", "label=0", "-o", "none")
    assert main(["export", "none", "--to", "jsonl", "-o", "files"]) == 2
    assert "kept: 3 of 3 pairs have label 0 or less" in capsys.readouterr().err


def test_a_sweep_finds_the_column_under_the_name_that_it_had(capsys):
    run(made("relevance", [1, 0, 2, 0]), "-s", "keep.label=null")
    for name in ("relevance", "label"):
        capsys.readouterr()
        assert main(["sweep", "out", "--score", "length", "--label-column", name]) == 0
        assert "AUC against" in capsys.readouterr().out
    assert main(["sweep", "out", "--score", "length", "--label-column", "lable"]) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_no_known_negative_of_real_data_is_kept():
    path = SHARED / "data" / "pairs" / "flag_nq.parquet"
    assert main(["filter", str(path), "-o", "out", *QUICK, "-s", "run.shard_size=1000"]) == 0
    assert len(kept()) == 10
    assert len(rows("out", "rejected/kept")) == 979
