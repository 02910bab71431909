"""A run that keeps nothing says which rule dropped most, and a command that keeps some."""

import json
import math
import re
import shlex

import pytest
from loopback import Loopback, say

from synth.cli import main

SCORES = "scores=[{use: length}, {use: copying}, {use: language}]"


@pytest.fixture
def filtered(tmp_path, monkeypatch, capsys):
    """Filter nine pairs of 3 to 11 words; returns standard output."""
    monkeypatch.chdir(tmp_path)
    pairs = [
        {"query": " ".join(["which", "river", *["runs"] * n]), "passage": f"River {n} runs to the sea."}
        for n in range(1, 10)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def run(*flags, out="out"):
        assert main(["filter", "pairs.jsonl", "-o", out, *flags, "-s", SCORES]) == 0
        return capsys.readouterr().out

    return run


def follow(said, capsys):
    """Run the command that the advice gives; returns how many pairs it promises and how many it keeps."""
    line = next(each for each in said.splitlines() if "would be kept by: " in each)
    promised, _, command = line.partition(" would be kept by: synth ")
    assert main([*shlex.split(command), "--json"]) == 0
    return int(promised), json.loads(capsys.readouterr().out)["kept"]


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--min", "length=12"], "'length at least 12' drops 9 of 9"),
        (["--below", "length=3"], "'length below 3' drops 9 of 9"),
        (["--min", "length=12", "--is", "query_language=en"], "'length at least 12' drops 9 of 9"),
        (["--is", "query_language=de", "--max", "length=7"], "'query_language is de' drops 9 of 9"),
        (["--below", "copied_share=0.01", "--above", "length=4"], "'copied_share below 0.01' drops 9 of 9"),
    ],
)
def test_the_command_keeps_some_and_as_many_as_it_says(filtered, capsys, flags, rule):
    said = filtered(*flags)
    assert f"no pair was kept: the rule {rule}" in said
    promised, kept = follow(said, capsys)
    assert promised == kept > 0


def test_a_threshold_points_to_the_sweep(filtered):
    assert "what each threshold keeps: synth sweep " in filtered("--min", "length=12")


def test_rules_that_drop_everything_together_are_all_named(filtered):
    said = filtered("--min", "length=12", "--below", "copied_share=0.01")
    assert "drops 9 of 9" in said
    assert "dropped by others: " in said
    assert "would be kept" not in said


def test_other_rules_say_so_too(filtered, capsys):
    assert "no pair was kept" not in filtered("--min", "length=4")
    assert main(["keep", "out", "--min", "length=100", "--as", "long"]) == 0
    promised, kept = follow(capsys.readouterr().out, capsys)
    assert promised == kept > 0


@pytest.fixture
def ranked(tmp_path, monkeypatch, capsys):
    """Filter 40 pairs with cosines from 0.40 to 0.79, each with its own passage first; returns standard output."""
    monkeypatch.chdir(tmp_path)

    def vector(text):
        numbered = re.search(r"number (\d+)", text)
        number = int(numbered[1]) if numbered else 40  # the embedder is tried with other texts first
        found = [0.0] * 42
        found[number] = 1.0 if text.startswith("Passage") else 0.4 + number / 100
        found[41] = math.sqrt(1 - found[number] ** 2)
        return found

    with Loopback() as server:
        server.embed = vector
        served = ("--embed-url", server.url, "--embed-model", "tiny", "-s", "run.shard_size=15")

        def run(*flags, count=40, scores="[{use: cosine}, {use: round_trip}]", out="out"):
            rows = [{"query": f"which is number {n}", "passage": f"Passage number {n} is here."} for n in range(count)]
            (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            assert main(["filter", "pairs.jsonl", "-o", out, *served, "-s", f"scores={scores}", *flags]) == 0
            return capsys.readouterr().out

        yield run


def test_a_cosine_that_drops_what_is_found_first_is_called_too_strict(ranked, capsys):
    said = " ".join(ranked("--above", "cosine=0.7", "--above", "round_trip_margin=0").split())
    assert "'cosine above 0.7' drops 31 of 40 queries that find their passage first" in said
    assert "found first by 100% of the queries, among three by 100% (of 40 passages)" in said
    command = re.search(r"cosine above (\S+) keeps 95% of them: synth (keep .*?round_trip_margin=0)", said)
    assert main([*shlex.split(command[2]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] >= 0.95 * 40
    assert "disagree" not in ranked("--above", "cosine=0.55", out="other")


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ({"count": 19}, ["--above", "cosine=0.7"]),
        ({"scores": "[{use: cosine}]"}, ["--above", "cosine=0.7"]),
        ({}, ["--below", "cosine=0.5"]),
        ({}, ["--below", "round_trip_rank=4"]),
    ],
)
def test_it_says_nothing_without_ranks_passages_or_such_a_rule(ranked, more, flags):
    assert "disagree" not in ranked(*flags, **more)


def test_few_passages_and_a_draw_are_named_in_the_summary(ranked):
    said = " ".join(ranked(count=12).split())
    assert "(of 12 passages, too few to tell much)" in said
    said = " ".join(ranked(scores="[{use: round_trip, among: 30}]", out="drawn").split())
    assert "(of 31 drawn passages)" in said


def test_check_says_what_the_last_run_showed(ranked, tmp_path, capsys):
    rules = {"cosine": {"above": 0.7}}
    ranked("--above", "cosine=0.7")
    job = {"data": {"path": "pairs.jsonl"}, "out": "out", "scores": [{"use": "cosine"}, {"use": "round_trip"}]}
    job["embed"] = {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"}
    for keep, found in ((rules, True), ({"round_trip_rank": {"below": 4}}, False)):
        (tmp_path / "job.yaml").write_text(json.dumps(job | {"keep": keep}))
        assert main(["check", "job.yaml", "--offline", "--json"]) == 0
        said = " ".join(json.loads(capsys.readouterr().out)["warnings"])
        assert ("cosine and rank disagree" in said) is found
        assert ("suits Qwen3-Embedding" in said) is found
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "number 1", "passage": "Passage number 1"}) + "\n")
    assert main(["check", "job.yaml", "--offline", "--json"]) == 0
    assert "a rank among so few passages tells little" in capsys.readouterr().out


def test_a_run_without_a_pair_points_to_the_replies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text(json.dumps({"id": "a", "text": "A passage about ferries and tides."}))
    with Loopback() as server:
        server.chat = lambda _: say("I am sorry, I cannot help with this.")
        job = {
            "corpus": {"path": "docs.jsonl", "language": "en"},
            "personas": None,
            "llm": {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]},
            "task": {"use": "retrieval", "question_types": {"summary": 1}, "difficulties": None},
            "scores": [{"use": "length"}],
            "limits": {"max_unusable_share": 1},
            "out": "my out",
        }
        (tmp_path / "job.yaml").write_text(json.dumps(job))
        assert main(["run", "job.yaml"]) == 0
    said = capsys.readouterr().out
    assert "no pair was made: 1 items ended as 'refusal'" in said
    assert "read the replies: synth show '" in said
