"""Shards that were damaged or removed: each command names the file, and the run makes what is missing again."""

import json
import shutil

import pytest
from exporting import pairs
from running import contents, run, shards, write_corpus, write_job

import synth
from synth.cli import main
from synth.errors import OutputError

QUICK = {
    "personas": None,
    "llm": {"use": "extractive"},
    "scores": [{"use": "length"}],
    "keep": {"length": {"min": 3}},
    "limits": {"max_unusable_share": 1},
    "run": {"shard_size": 4},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three shards whose first passages are rejected, with its job."""
    place = tmp_path_factory.mktemp("run")
    write_corpus(place / "docs.jsonl", 12)
    rows = [json.dumps({"id": "short", "text": "no"}), *(place / "docs.jsonl").read_text().splitlines()]
    (place / "docs.jsonl").write_text("".join(row + "\n" for row in rows))
    job = QUICK | {"seed": 1, "corpus": {"path": str(place / "docs.jsonl"), "language": "en"}}
    run(write_job(place, job), place / "out")
    assert main(["keep", str(place / "out"), "--min", "length=1", "--as", "all"]) == 0
    return place


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished / "out", tmp_path / "out", symlinks=True)


def remove(out, names):
    for name in names:
        (out / name).unlink()


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("alone", [True, False])
def test_a_removed_shard_of_passages_comes_back_byte_for_byte(number, alone, out, finished, capsys):
    before = contents(out)
    gone = f"{number:08d}.parquet"
    for path in list(out.rglob(gone)):
        if not alone or path.parent == out / "passages":
            path.unlink()
    run(finished / "job.yaml", out)
    assert f"passages/{gone}: is missing; made again from the inputs" in capsys.readouterr().err
    assert contents(out) == before
    run(finished / "job.yaml", out)
    assert "is missing" not in capsys.readouterr().err
    assert main(["keep", str(out), "--min", "length=1", "--as", "all"]) == 0
    assert main(["verify", str(out), "--deep"]) == 0


def test_a_shard_of_appended_passages_comes_back_too(out, finished, tmp_path, capsys):
    (tmp_path / "more.jsonl").write_bytes((finished / "docs.jsonl").read_bytes().replace(b"report", b"letter"))
    job = QUICK | {"seed": 1, "corpus": [{"path": str(finished / "docs.jsonl"), "language": "en"}]}
    job["corpus"].append({"path": str(tmp_path / "more.jsonl"), "language": "en"})
    assert main(["run", str(write_job(tmp_path, job)), "-o", str(out), "--continue"]) == 0
    before = contents(out)
    remove(out, ["passages/00000001.parquet", "passages/00000004.parquet"])
    assert main(["run", str(out)]) == 0
    assert capsys.readouterr().err.count("is missing; made again") == 2
    assert contents(out) == before


def test_a_removed_shard_of_existing_pairs_comes_back(tmp_path, capsys):
    out = pairs(tmp_path, negatives=0)
    before = contents(out)
    remove(out, ["generated/00000001.parquet", "kept/00000002.parquet"])
    assert main(["run", str(out)]) == 0
    assert "generated/00000001.parquet: is missing; made again from the inputs" in capsys.readouterr().err
    assert contents(out) == before


def flipped(content):
    return content[:200] + bytes([content[200] ^ 255]) + content[201:]


HARM = {"flipped": flipped, "cut": lambda content: content[:100], "emptied": lambda _: b""}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("kept", ["show"]),
        ("kept", ["show", "--where", "query <> 'x'"]),
        ("kept", ["show", "--id", "11-0"]),
        ("rejected/passages", ["show", "--rejected"]),
        ("views/all", ["show", "--view", "all"]),
        ("kept", ["export", "--to", "jsonl", "-o", "files"]),
        ("generated", ["keep", "--min", "length=2"]),
        ("kept", ["run"]),
    ],
)
def test_a_damaged_shard_is_named(harm, step, words, out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = shards(out, step)[-1]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(HARM[harm](content))
    assert main([words[0], "out", *words[1:]]) == 4
    assert f"{step}/{path.name}: is damaged" in capsys.readouterr().err


def test_a_damaged_shard_is_named_to_python_too(out):
    run = synth.open_run(out)
    for step, read in (("kept", run.kept), ("generated", run.generated), ("passages", run.passages)):
        path = shards(out, step)[0]
        path.write_bytes(flipped(path.read_bytes()))
        with pytest.raises(OutputError, match=f"{step}/{path.name}: is damaged"):
            read()
    path = shards(out, "rejected/passages")[0]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OutputError, match="rejected/passages"):
        run.rejected("passages")


def test_a_condition_that_some_value_does_not_suit_is_not_called_damage(out, capsys):
    assert main(["show", str(out), "--where", "CAST(passage_id AS INT) > 3"]) == 2
    assert "error: --where CAST" in capsys.readouterr().err
