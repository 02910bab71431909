"""A path is a name: only `corpus.path` and `data.path` may be patterns, and there a name that exists comes first."""

import json
import shutil
from pathlib import Path

import pytest
from exporting import pairs
from running import rows

import synth
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
    for other, some in (("axb", few[:2]), (name, few)):
        (tmp_path / other).mkdir()
        pairs(tmp_path / other, some, size=4, negatives=0)
    for other in ("runs1", "whatx", "bx"):
        shutil.copytree(tmp_path / "axb", tmp_path / other)
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


TEXT = "The ferry to the island leaves the harbour at seven every morning and returns at noon."
PAIR = {"query": "when does the ferry leave", "passage": TEXT}


def job(path, *, pairs=False):
    section = {"data": {"path": path}} if pairs else {"corpus": {"path": path}, "llm": {"use": "extractive"}}
    return section | {"personas": None, "scores": [{"use": "length"}], "keep": {}, "run": {"shard_size": 2}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of texts, one of pairs, and links to the first and into it."""
    monkeypatch.chdir(tmp_path)
    for name in ("notes/deep", "data/deep"):
        Path(name).mkdir(parents=True)
        Path(name, "one.txt").write_text(TEXT)
        Path(name, "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    Path("link").symlink_to("notes")
    return tmp_path


def everything(place):
    return sorted(str(path) for path in place.rglob("*"))


@pytest.mark.parametrize(
    ("path", "out", "pairs"),
    [
        ("notes", "notes/out", False),
        ("notes", "notes", False),
        ("notes", "notes/deep/a/b", False),
        ("notes/", "link/out", False),
        ("link", "notes/out", False),
        (".", "outputs/one", False),
        ("notes/**/*.txt", "notes", False),
        ("notes/**/*.md", "notes/out", False),
        ("data/**/*.jsonl", "data/out", True),
        ("data/*/*/*.parquet", "data/out", True),
        ("data/*/*", "data/out", True),
        ("notes/deep/one.txt", "notes", False),
        ("notes/deep/*.txt", "notes", False),
        ("link/deep/one.txt", "notes", False),
        ("data/deep/pairs.jsonl", "data/deep/pairs.jsonl", True),
        ("data/deep", "data/deep/filtered", True),
    ],
)
def test_an_output_folder_among_the_inputs_is_refused_before_anything_is_written(path, out, pairs, place, capsys):
    Path("job.yaml").write_text(json.dumps(job(path, pairs=pairs) | {"out": out}))
    before = everything(place)
    assert main(["run", "job.yaml"]) == 2
    assert "Choose another folder with -o." in capsys.readouterr().err
    assert main(["check", "job.yaml", "--offline"]) == 2
    assert "job.yaml:1: out: " in capsys.readouterr().out
    assert everything(place) == before


@pytest.mark.parametrize(
    ("path", "out", "pairs"),
    [
        ("data/deep/*.jsonl", "data/deep/out", True),
        ("data/*/*.jsonl", "data/out", True),
        ("notes/*/*.txt", "notes/out", False),
        ("notes/deep/one.txt", "notes/deep/out", False),
        ("notes", "notes/.synth/out", False),
        ("notes", "notes-out", False),
    ],
)
def test_an_output_folder_whose_files_are_no_inputs_may_be_near_them(path, out, pairs, place):
    (place / "job.yaml").write_text(json.dumps(job(path, pairs=pairs) | {"embed": None}))
    assert main(["run", "job.yaml", "-o", out]) == 0
    assert main(["run", "job.yaml", "-o", out]) == 0
    assert main(["verify", out]) == 0


def test_a_link_to_a_file_of_the_output_folder_is_no_input(place, capsys):
    (place / "job.yaml").write_text(json.dumps(job("notes")))
    assert main(["run", "job.yaml", "-o", "out"]) == 0
    (place / "notes/copy.txt").symlink_to("../out/README.md")
    assert main(["run", "job.yaml", "-o", "out"]) == 2
    assert "this input is in the output folder out" in capsys.readouterr().err


def test_filter_mine_export_and_python_keep_apart_too(tmp_path, monkeypatch, capsys):
    out = pairs(tmp_path, negatives=0)
    monkeypatch.chdir(tmp_path)
    for words in (
        ["filter", "out", "-o", "out"],
        ["filter", "out", "-o", "out/filtered"],
        ["filter", "pairs.jsonl", "-o", "."],
        ["mine", "out", "--corpus", "out/kept/*.parquet"],
        ["mine", "out", "--corpus", "."],
    ):
        assert main(words) == 2, words
        assert "Choose another folder with -o." in capsys.readouterr().err
    Path("in").mkdir()
    Path("pairs.jsonl").rename("in/pairs.jsonl")
    assert main(["filter", "in", "-o", "more", "-s", "embed=null", "-s", "scores=[{use: length}]"]) == 0
    assert main(["export", "more", "--to", "jsonl", "-o", "in/files"]) == 2
    assert "in/files: is inside the input in" in capsys.readouterr().err
    with pytest.raises(JobError, match="is inside the input"):
        synth.filter("in", out="in/out", embed=None, scores=["length"], progress=False)
    assert sorted(path.name for path in Path("in").iterdir()) == ["pairs.jsonl"]
    assert (out / "kept").is_dir()
