"""Training on a tiny Qwen3 with every option, stopping and resuming, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_qwen3
from exporting import PLACES, THINGS, pair

from synth.errors import JobError, OutputError, Stopped
from synth.training.fit import TrainSettings, fit

ROWS = [pair(thing, place) for thing in THINGS[:4] for place in PLACES]
TEXTS = ["when was the ferry of Bergen founded", "The bakery of Porto is old."]


@pytest.fixture(scope="module", name="tiny")
def tiny_model(tmp_path_factory):
    texts = [text for row in ROWS for text in (row["query"], row["passage"])]
    return tiny_qwen3.write(tmp_path_factory.mktemp("tiny"), texts)


def pairs(negatives=2, **columns):
    """24 pairs; the negatives of each are the passages of the next ones, those of the last few pairs are missing."""
    passages = [row["passage"] for row in ROWS]
    found = [passages[n + 1 : n + 1 + negatives] for n in range(len(ROWS))]
    frame = pl.DataFrame({"query": [row["query"] for row in ROWS], "passage": passages, "negatives": found})
    return frame.with_columns(**columns)


def settings(base, **options):
    fast = {"model": str(base), "device": "cpu", "batch_size": 8, "max_tokens": 48, "learning_rate": 1e-3}
    return TrainSettings(**(fast | options))


def record_of(folder):
    return json.loads((folder / "train.json").read_bytes())


def vectors(folder, **options):
    return tiny_qwen3.load(folder, **options).encode_query(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        {"lora": 4, "dims": (64, 32), "mini_batch_size": 3},
        pytest.param({"loss": "plain"}, marks=pytest.mark.slow),
        pytest.param({"loss": "distil", "mini_batch_size": 4}, marks=pytest.mark.slow),
        pytest.param({"loss": "distil", "distil": "margin_mse", "dims": (32,)}, marks=pytest.mark.slow),
    ],
    ids=["lora, widths and parts", "plain", "kl", "margins"],
)
def test_every_loss_moves_the_model_and_what_is_saved_loads_as_it_was(options, tiny, tmp_path):
    scores = [[0.9] + [0.2 - 0.1 * n for n in range(len(each))] for each in pairs()["negatives"]]
    notes = []
    scored = pairs(scores=pl.Series(scores))
    folder = fit(scored, settings(tiny, **options), tmp_path / "model", notify=notes.append)
    record = record_of(folder)
    assert record["prompts"] == {"query": tiny_qwen3.PROMPT, "passage": ""}
    assert record["columns"][:3] == ["anchor", "positive", "negative_1"]
    assert np.isfinite([loss for _, loss in record["losses"]]).all()
    if "distil" in options:  # at two widths, between probabilities that differ by 0.8 and random cosines
        assert record["losses"][0][1] < 3
    distils = options.get("loss") == "distil"
    expected = "22 of 24 pairs have 2 negatives with scores" if distils else "2 of 24 pairs have fewer than 2 negatives"
    assert any(expected in note for note in notes)
    trained = tiny_qwen3.load(folder)
    assert trained.prompts["query"] == tiny_qwen3.PROMPT
    assert not any("lora" in name for name, _ in trained.named_parameters())
    assert np.abs(vectors(folder) - vectors(tiny)).max() > 1e-3
    assert not list(tmp_path.glob(".model*"))


@pytest.mark.slow
def test_training_pulls_a_query_to_its_passage(tiny, tmp_path):
    folder = fit(pairs(), settings(tiny, epochs=10), tmp_path / "model")
    found = {}
    for name, each in (("before", tiny), ("after", folder)):
        model = tiny_qwen3.load(each)
        near = model.encode_query([row["query"] for row in ROWS]) @ model.encode([row["passage"] for row in ROWS]).T
        found[name] = (near.argmax(1) == np.arange(len(ROWS))).mean()
    assert found["after"] > found["before"] + 0.5


@pytest.mark.slow
def test_stopped_it_saves_a_checkpoint_and_resumes_to_the_same_losses(tiny, tmp_path):
    chosen = settings(tiny, max_steps=7)
    whole = fit(pairs(), chosen, tmp_path / "whole")
    steps = []
    with pytest.raises(Stopped, match="a checkpoint is saved"):
        fit(
            pairs(),
            chosen,
            tmp_path / "part",
            on_step=lambda *step: steps.append(step),
            stopping=lambda: len(steps) > 3,
        )
    assert not (tmp_path / "part").exists()
    with pytest.raises(OutputError, match="other settings"):
        fit(pairs(), chosen.model_copy(update={"seed": 1}), tmp_path / "part")
    part = fit(pairs(), chosen, tmp_path / "part", on_step=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(1, 8))
    assert record_of(part)["losses"] == record_of(whole)["losses"]
    assert (vectors(part) == vectors(whole)).all()
    assert fit(pairs(), chosen, tmp_path / "part", on_step=lambda *_: pytest.fail("it was trained again")) == part
    with pytest.raises(OutputError, match="already exists"):
        fit(pairs(), chosen.model_copy(update={"temperature": 0.1}), tmp_path / "part")


KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from synth.training.fit import TrainSettings, fit
deadly = int(sys.argv[2])
def on_step(done, total, loss):
    if done == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
settings = TrainSettings(device="cpu", batch_size=4, max_tokens=16, max_steps=4, checkpoint=0.001, mini_batch_size=2)
fit(pl.read_parquet("pairs.parquet"), settings, Path(sys.argv[1]), on_step=on_step)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_it_resumes_to_the_same_losses_and_weights(tmp_path):
    """MiniLM has dropout, so this needs the state of the random generator too."""
    pairs().select("query", "passage").write_parquet(tmp_path / "pairs.parquet")

    def run(name, deadly):
        return subprocess.run([sys.executable, "-c", KILLED, name, str(deadly)], cwd=tmp_path, check=False).returncode

    assert run("whole", 0) == 0
    assert run("part", 3) == -9
    assert run("part", 0) == 0
    assert record_of(tmp_path / "part")["losses"] == record_of(tmp_path / "whole")["losses"]
    assert (vectors(tmp_path / "part") == vectors(tmp_path / "whole")).all()


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (pairs().drop("passage"), {}, "the pairs have no column passage"),
        (pairs().head(1), {}, "1 pairs are too few"),
        (pairs(0), {"negatives": 3}, "negatives: no pair has any. Mine them first: synth mine RUN"),
        (pairs(), {"loss": "distil"}, "Score pairs with `scores: .{use: reranker"),
        (pairs(), {"dims": (4096,)}, "dims: 4096 is more than the 128 of"),
        (pairs(), {"model": str(Path(__file__).parent)}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_trained_says_why(frame, options, message, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(JobError, match=message):
        fit(frame, settings(tiny, **options), tmp_path / "model")
    assert not (tmp_path / "model").exists()
