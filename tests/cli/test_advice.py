"""A run that keeps nothing says which rule dropped most, and a command that keeps some."""

import json
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
