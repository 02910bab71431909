"""A path is a name: only `corpus.path` and `data.path` may be patterns, and there a name that exists comes first."""

import json
from pathlib import Path

import pytest
from exporting import pairs
from running import rows

from synth import Run
from synth.cli import main
from synth.errors import JobError
from synth.sources import Corpus, PairData, ReadLimits, inspect, inspect_pairs

ODD = ["a*b", "runs[1]", "what?", "[!a]x"]
LIMITS = ReadLimits()


@pytest.mark.parametrize("name", ODD)
def test_every_command_takes_an_output_folder_as_a_name(name, tmp_path, monkeypatch, capsys):
    """Whatever its own name would match: neighbours of such names are there."""
    few = [{"query": f"where is town {n}", "passage": f"Town {n} is in the north, by lake {n}."} for n in range(6)]
    for other, some in ((name, few), *((near, few[:2]) for near in ("axb", "runs1", "whatx", "bx"))):
        (tmp_path / other).mkdir()
        pairs(tmp_path / other, some, size=4, negatives=0)
    monkeypatch.chdir(tmp_path / name)
    capsys.readouterr()
    assert Run("out").kept().height == 6
    assert main(["show", "out", "-n", "50", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert main(["show", "out", "--id", "5-0", "--where", "cosine > -1"]) == 0
    for words in (
        ["keep", "out", "--above", "cosine=0.1", "--as", "other"],
        ["sweep", "out", "--examples"],
        ["mine", "out", "--range", "0:5", "--num-negatives", "1", "--max-score", "null"],
        ["export", "out", "--to", "sentence-transformers", "-o", "files"],
        ["run", "out"],
        ["status", "out"],
        ["gc", "out"],
        ["verify", "out", "--deep"],
    ):
        assert main(words) == 0, words
    assert {row["id"] for row in rows("out", "mined")} == {f"{n}-0" for n in range(6)}
    assert list(Path("files/data").glob("train-*.parquet"))


def test_an_export_that_datasets_cannot_open_by_its_path_is_told(tmp_path, capsys):
    out = pairs(tmp_path, negatives=0)
    assert main(["export", str(out), "--to", "hub", "-o", str(tmp_path / "files[1]")]) == 0
    assert "for a pattern; move the files" in capsys.readouterr().err
    assert main(["export", str(out), "--to", "hub", "-o", str(tmp_path / "files")]) == 0
    assert "for a pattern" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ODD)
def test_a_pattern_begins_after_the_last_folder_that_exists(name, tmp_path):
    for folder in (tmp_path / name / "in [x]", tmp_path / "axb" / "in x"):
        folder.mkdir(parents=True)
        for n in range(2):
            row = {"query": "where is it", "passage": "It is here.", "text": f"A text of {folder.parent.name}, {n}."}
            (folder / f"{n}.jsonl").write_text(json.dumps(row) + "\n")
    for base, path in ((tmp_path / name, "*/*.jsonl"), (tmp_path, f"{name}/in [x]/[01].jsonl")):
        found = inspect([Corpus(path=path)], base, LIMITS)
        assert [Path(file.path).parent for file in found] == [tmp_path / name / "in [x]"] * 2
        (found,) = inspect_pairs([PairData(path=path)], base, LIMITS)
        assert len(found.files) == 2
    with pytest.raises(JobError, match="no file or folder"):
        inspect([Corpus(path="none.jsonl")], tmp_path / name, LIMITS)
    with pytest.raises(JobError, match="nothing matches"):
        inspect([Corpus(path="none*.jsonl")], tmp_path / name, LIMITS)
