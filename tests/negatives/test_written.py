"""Written negatives: requirements first, one missed by each, a share beside mined ones, and what tells them apart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mining
import pytest
from mining import FACETS, facet, required, said
from test_mine import bytes_of, mine, pairs, texts

from synth.cli import main
from synth.errors import UnusableReply
from synth.negatives.written import read_facets, read_negatives
from synth.stage import ChatReply
from synth.steps.mine import separability


@pytest.fixture(autouse=True)
def _nobody_was_asked():
    mining.asked.clear()


def written(*replies, **more):
    llm = {"use": "mining:Writer", "replies": list(replies)}
    return {"use": "written", "llm": json.dumps(llm), **more}


def prompts(kind):
    return [text for name, text in mining.asked if name == kind]


def test_each_misses_one_requirement_and_says_which(tmp_path):
    reply = said("A ferry to Porto sails in June.", "The tram of Porto has a new bell.")
    out = pairs(tmp_path)
    options = written(
        "no JSON", reply, written_share="0.4", num_negatives="5", absolute_margin="null", max_score="null"
    )
    for row in mine(out, options):
        sources = [each["source"] for each in row["negatives"]]
        assert sources.count("written") <= 2
        assert len(sources) == 5
        for each in row["negatives"]:
            assert (each["facet"] is None) == (each["source"] == "mined")
        ours = [each for each in row["negatives"] if each["source"] == "written"]
        assert {each["facet"] for each in ours} <= {"place", "hour", "price"}, "critical ones come first"
        assert {each["facet_type"] for each in ours} <= {"other_thing", "other_condition", "other_aim"}
    assert len(prompts("facets")) == 80
    assert len(prompts("negatives")) == 160, "each pair again after a reply without JSON"
    assert all(text.count("<sample>") == 3 for text in prompts("negatives"))
    assert all(text.count("Misses ") == 2 for text in prompts("negatives"))


def test_they_are_checked_like_any_other(tmp_path):
    out = pairs(tmp_path, list(texts())[:3])
    query = next(texts())[0]
    reply = said(f"{query} is asked by many.", "A ferry to Porto sails in June.", f"{query} {query}")
    more = {"written_share": "1", "num_negatives": "3", "absolute_margin": "0.3", "max_score": "0.9"}
    first = mine(out, written(reply, **more))[0]
    (negative,) = (each for each in first["negatives"] if each["source"] == "written")
    assert (negative["passage"], negative["rank"]) == ("A ferry to Porto sails in June.", None)
    assert negative["passage_id"] == f"written:{first['id']}:1"
    refused = {each["reason"]: each["count"] for each in first["refused"]}
    assert refused["absolute_margin"] >= 2


def test_without_a_usable_reply_there_are_mined_ones_only(tmp_path):
    out = pairs(tmp_path)
    for row in mine(out, written("never JSON")):
        assert {each["source"] for each in row["negatives"]} == {"mined"}
        assert {"reason": "not_written", "count": 1} in row["refused"]


def test_the_summary_says_whether_they_can_be_told_from_mined_ones(tmp_path, capsys):
    out = pairs(tmp_path)
    capsys.readouterr()
    open_to_all = {"absolute_margin": "null", "max_score": "null", "near": "null"}
    mine(out, written(said("Zz qq zz qq. {query} zz qq zz."), **open_to_all))
    found = json.loads(capsys.readouterr().out)
    assert found["written"] == 80
    assert found["written_auc"] > 0.95, "these are all of a kind"
    assert found["negatives"] == 240


def test_what_a_linear_model_can_tell():
    np = pytest.importorskip("numpy")
    rng = np.random.default_rng(0)
    labels, groups = np.repeat([0, 1], 100), [str(n % 40) for n in range(200)]
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    assert 0.35 < separability(vectors, labels, groups) < 0.65
    vectors[:, 0] += 4 * labels
    assert separability(vectors, labels, groups) > 0.95


def test_the_same_command_does_nothing_and_its_words_say_the_share(tmp_path, capsys):
    out = pairs(tmp_path)
    llm = json.dumps({"use": "mining:Writer", "replies": [said("A ferry to Porto sails in June.")]})
    command = ["mine", str(out), "--use", "written", "--llm", llm, "--range", "0:20", "--num-negatives", "3"]
    assert main(command) == 0
    assert "written negatives: too few to tell" in capsys.readouterr().out
    before, asked = bytes_of(out), len(mining.asked)
    assert main(command) == 0
    assert (bytes_of(out), len(mining.asked)) == (before, asked)


def test_they_are_exported_like_any_other(tmp_path):
    out = pairs(tmp_path)
    free = {"absolute_margin": "null", "max_score": "null", "near": "null"}
    mine(out, written(said("Zz {query} qq."), **free))
    for name in ("jsonl", "sentence-transformers", "flagembedding"):
        assert main(["export", str(out), "--to", name, "-o", str(tmp_path / name), "--json"]) == 0
    found = [json.loads(line) for line in (tmp_path / "jsonl" / "train.jsonl").read_text("utf-8").splitlines()]
    assert {each["source"] for row in found for each in row["negatives"]} == {"mined", "written"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (required(facet("a", True), facet("b", True)), "empty"),
        (required(*(facet("." * n, True) for n in range(8))), "empty"),
        (required(*(facet(name, True, "other") for name in "abcd")), "enum"),
        (required(*(facet(name, "yes") for name in "abcd")), "type"),
        (required("a", "b", "c", "d"), "type"),
        ('{"Need": "x"}', "key"),
        ('{"Facets": "x"}', "type"),
    ],
)
def test_requirements_that_cannot_be_used(text, reason):
    with pytest.raises(UnusableReply) as caught:
        read_facets(ChatReply(text, "stop", "m"))
    assert caught.value.reason == reason


def test_replies_are_read_in_their_order():
    assert [each.facet for each in read_facets(ChatReply(FACETS, "stop", "m"))] == ["place", "tone", "hour", "price"]
    assert read_negatives(ChatReply(said("a", " ", "b", "..."), "stop", "m"), 4) == ["a", "", "b", ""]


def test_a_second_signal_ends_it_while_a_model_of_this_process_computes(tmp_path):
    out = pairs(tmp_path, list(texts())[:3])
    command = [sys.executable, "-m", "synth", "mine", str(out), "--use", "written", "--llm", "{use: mining:Deep}"]
    environment = os.environ | {"PYTHONPATH": str(Path(mining.__file__).parent)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in ("thinking", "stopping: "):
            assert any(each.startswith(line) for each in process.stderr), "it ended before"
            process.terminate()
        assert process.wait(30) == 75
