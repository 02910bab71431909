"""`synth train` and `synth.train` over runs: what they read, shares, seeds, settings from files and presets."""

import json
import signal

import polars as pl
import pytest
import tiny_qwen3
from exporting import PLACES, pair, pairs

import synth
from synth import cli
from synth.cli.mine import mine_run as mine
from synth.errors import JobError
from synth.presets import preset, preset_names
from synth.rules import Rules
from synth.runners.mining import MineArgs, options_of
from synth.shipped import shipped
from synth.training.runs import Steps, TrainArgs, mixed, read_pairs, settings_of, train_runs


@pytest.fixture(scope="module", name="run")
def mined_run(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module", name="tiny")
def tiny_model(tmp_path_factory):
    return tiny_qwen3.write(tmp_path_factory.mktemp("tiny"), [pair("ferry", "Porto")["passage"]])


def test_pairs_come_with_their_negatives_and_scores(run):
    found = read_pairs(run, None, print)
    assert len(found) == 60
    assert found["negatives"].list.len().max() == 3
    assert found["scores"].list.len().to_list() == [n + 1 for n in found["negatives"].list.len()]
    assert not (found["negatives"].list.contains(found["passage"])).any()


def test_shares_are_met_with_as_many_pairs_as_there_are():
    frames = [pl.DataFrame({"n": range(60)}), pl.DataFrame({"n": range(100, 200)})]
    found = mixed(frames, [3, 1], seed=1)
    assert (found["n"] < 100).sum() == 60
    assert (found["n"] >= 100).sum() == 20
    assert found["n"].is_unique().all()


def test_the_command_trains_one_model_for_each_seed(run, tiny, tmp_path, capsys):
    out = tmp_path / "model"
    arguments = [str(run), "-o", str(out), "--model", str(tiny), "--max-steps", "1", "--seeds", "2", "--device", "cpu"]
    assert cli.main(["train", *arguments, "--max-tokens", "24"]) == 0
    shown = capsys.readouterr().out
    assert f"{out}/seed-0: 60 pairs with up to 3 negatives, 1 steps" in shown
    first, second = (json.loads((out / name / "train.json").read_bytes()) for name in ("seed-0", "seed-1"))
    assert first["identity"]["pairs"] == second["identity"]["pairs"]
    assert first["origin"]["runs"] == [str(run)]
    [again] = synth.train(
        synth.open_run(run), out=out / "seed-1", model=str(tiny), max_steps=1, max_tokens=24, seed=1, progress=False
    )
    assert again == out / "seed-1"  # the same call as the command's, so it is done already


@pytest.mark.slow
def test_a_signal_saves_a_checkpoint_and_the_same_command_resumes(run, tiny, tmp_path, capsys, monkeypatch):
    arguments = ["train", str(run), "-o", str(tmp_path / "model"), "--model", str(tiny), "--max-steps", "3"]
    step = Steps.__call__

    def interrupted(steps, done, total, loss):
        step(steps, done, total, loss)
        if done == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Steps, "__call__", interrupted)
    assert cli.main([*arguments, "--device", "cpu"]) == 75
    assert "Resume with the same command." in capsys.readouterr().err
    assert cli.main([*arguments, "--device", "cpu", "--json"]) == 0
    assert [step for step, _ in json.loads(capsys.readouterr().out)["losses"]] == [1, 2, 3]


@pytest.mark.slow
def test_the_scores_of_a_reranker_are_distilled(tiny, tmp_path, capsys):
    reranker = {"use": "mining:Verdicts"}
    run = pairs(tmp_path, negatives=0, scores=[{"use": "cosine"}, {"use": "reranker", "model": reranker}])
    options = {"range": "0:30", "num_negatives": "2", "max_score": "null", "reranker": json.dumps(reranker)}
    mine(run, MineArgs(options=options), as_json=True)
    arguments = ["train", str(run), "-o", str(tmp_path / "model"), "--model", str(tiny), "--max-steps", "2"]
    assert cli.main([*arguments, "--loss", "distil", "--prompt", "query: ", "--device", "cpu"]) == 0
    assert "pairs with up to 2 negatives, 2 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "train.json").read_bytes())["prompts"]["query"] == "query: "
    assert tiny_qwen3.load(tmp_path / "model").prompts["query"] == "query: "


@pytest.mark.parametrize(("least", "told"), [(0.4, True), (0.1, False)])
def test_it_says_where_the_filter_was_the_trained_model(least, told, tmp_path):
    job = {"embed": {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"}, "keep": {"cosine": {"above": least}}}
    run = pairs(tmp_path, [pair("ferry", place) for place in PLACES], negatives=0, **job)
    notes = []
    with pytest.raises(JobError, match="dims"):
        train_runs([run], TrainArgs(tmp_path / "model", options={"dims": [9999]}), notify=notes.append)
    said = ["kept by cosine or rank in all-MiniLM-L6-v2, the model that is trained" in note for note in notes]
    assert any(said) is told


def test_mistakes_on_the_command_line_are_named(run, tmp_path, capsys):
    out = ["-o", str(tmp_path / "model")]
    assert cli.main(["train", str(run), *out, "--loss", "maskd"]) == 2
    assert "Did you mean 'masked'?" in capsys.readouterr().err
    assert cli.main(["train", str(run), *out, "--dims", "big"]) == 2
    assert cli.main(["train", str(run), *out, "--shares", "1,2"]) == 2
    assert "2 shares for 1 runs" in capsys.readouterr().err
    assert cli.main(["train", str(run), *out, "--loss", "distil"]) == 2
    assert "synth mine RUN --reranker" in capsys.readouterr().err
    assert cli.main(["train", str(tmp_path), *out]) == 4


def test_flags_come_before_a_file_and_a_file_before_a_preset(tmp_path):
    (tmp_path / "own.yaml").write_text("temperature: 0.01\nnegatives: 2\n")
    given = {"preset": "nv-retriever", "file": tmp_path / "own.yaml", "options": {"temperature": 0.03}}
    found = settings_of(**given)
    assert (found.loss, found.negatives, found.temperature) == ("plain", 2, 0.03)
    (tmp_path / "own.yaml").write_text("temprature: 0.01\n")
    with pytest.raises(JobError, match=r"own.yaml:1: temprature: unknown key. Did you mean 'temperature'"):
        settings_of(**given)


def test_the_shipped_settings_are_valid():
    found = settings_of(file=shipped("configs", "train-qwen3-embedding-0.6b.yaml"))
    assert found.dims == (1024, 512, 256, 128, 64, 32)
    assert settings_of(file=shipped("configs", "prove.yaml")).max_steps == 20


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_for_its_steps(name):
    parts = preset(name)
    assert settings_of(preset=name).loss == parts["train"]["loss"]
    assert options_of(None, {}, name)[1].num_negatives == parts["mine"]["num_negatives"]
    if "keep" in parts:
        assert Rules.parse(parts["keep"], None)[1] == []


def test_list_shows_presets(capsys):
    assert cli.main(["list", "presets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in preset_names())
    assert cli.main(["list", "presets", "f2lm"]) == 2
    assert "Did you mean 'f2llm'?" in capsys.readouterr().err
