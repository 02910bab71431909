"""Negatives that data made elsewhere brings along: in three layouts, checked like mined ones, and exported."""

import json

import mining
import pytest
from running import rows, run, write_job

from synth.cli.export import export_run as export
from synth.cli.mine import mine_run as mine
from synth.errors import JobError
from synth.negatives.given import Given as Source
from synth.results.export import ExportArgs
from synth.runners.mining import MineArgs

OPTIONS = {"use": "given", "max_score": "null", "absolute_margin": "0.01", "num_negatives": "2"}
FERRY, BAKERY, VIOLIN = (f"A text about the {each} and its keeper." for each in ("ferry", "bakery", "violin"))


def pairs(folder, lines, **job):
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    base = {"data": {"path": str(data)}, "embed": {"use": "mining:Bag"}, "scores": [{"use": "length"}], "keep": {}}
    run(write_job(folder, base | job), folder / "out")
    return folder / "out"


def said(role, text):
    return [{"role": role, "content": text}]


@pytest.mark.parametrize(
    "line",
    [
        {"query": "the ferry and its keeper", "pos": [FERRY], "neg": [BAKERY, VIOLIN]},
        {"anchor": "the ferry and its keeper", "positive": FERRY, "negative_1": BAKERY, "negative_2": VIOLIN},
        {
            "messages": said("user", "the ferry and its keeper"),
            "positive_messages": [said("user", FERRY)],
            "negative_messages": [said("user", BAKERY), said("user", VIOLIN)],
        },
    ],
)
def test_what_the_data_brings_becomes_the_rows_negatives(tmp_path, line):
    out = pairs(tmp_path, [line])
    mine(out, MineArgs(options=OPTIONS), as_json=True)
    (row,) = rows(out, "mined")
    assert [(each["passage"], each["source"], each["rank"]) for each in row["negatives"]] == [
        (BAKERY, "given", None),
        (VIOLIN, "given", None),
    ]
    assert row["negatives"][0]["passage_id"] == "given:0-0:0"
    export(out, ExportArgs("flagembedding", tmp_path / "flag"), as_json=True)
    (found,) = map(json.loads, (tmp_path / "flag/train/train.jsonl").read_text(encoding="utf-8").splitlines())
    assert (found["query"], found["pos"], found["neg"]) == ("the ferry and its keeper", [FERRY], [BAKERY, VIOLIN])


def test_they_are_checked_like_any_other(tmp_path):
    near, same = FERRY + " Indeed it has stood there since.", "the ferry and its keeper"
    neg = [FERRY, near, BAKERY + " P=0.6", VIOLIN + " P=0.95", same, "NaN", " "]
    lines = [
        {"query": "the ferry and its keeper", "pos": [FERRY], "neg": neg},
        {"query": "which bakery", "pos": [BAKERY], "neg": []},
    ]
    out = pairs(tmp_path, lines)
    mine(out, MineArgs(options=OPTIONS | {"reranker": "{use: 'mining:Verdicts'}", "num_negatives": "7"}), as_json=True)
    first, second = rows(out, "mined")
    refused = {each["reason"]: each["count"] for each in first["refused"]}
    reasons = ("positive", "near_positive", "reranker", "promoted", "absolute_margin", "no_vector")
    assert refused == dict.fromkeys(reasons, 1)
    assert (first["negatives"], [each["passage"] for each in first["extra_positives"]]) == ([], [VIOLIN + " P=0.95"])
    assert second["refused"] == [{"reason": "not_given", "count": 1}]


def test_a_positive_is_no_negative_even_with_every_rule_off(tmp_path):
    out = pairs(tmp_path, [{"query": "the ferry", "pos": [FERRY], "neg": [FERRY, BAKERY]}])
    (tmp_path / "off.yaml").write_text("near: null\nnear_cosine: null\nabsolute_margin: null\n", encoding="utf-8")
    given = {"use": "given", "max_score": "null"}
    mine(out, MineArgs(file=tmp_path / "off.yaml", options=given), as_json=True)
    (row,) = rows(out, "mined")
    assert [each["passage"] for each in row["negatives"]] == [BAKERY]


def test_other_columns_are_left_alone():
    names = ["query", "neg", "negation", "negative_1", "Negative_2", "negative_id", "input_negatives"]
    assert Source().columns(names) == ["neg", "negative_1", "Negative_2", "input_negatives"]


@pytest.fixture(autouse=True)
def _nobody_was_asked():
    mining.asked.clear()


def test_pairs_that_brought_none_are_said_before_anything_is_mined(tmp_path):
    out = pairs(tmp_path, [{"query": "the ferry and its keeper", "passage": FERRY}])
    with pytest.raises(JobError, match="the pairs have no column of negatives"):
        mine(out, MineArgs(options=OPTIONS), as_json=True)
    assert not (out / "mined").exists()
