"""`synth prove` on a tiny model with random weights: what is compared, what resumes, and what the report says."""

import json
import re

import numpy as np
import polars as pl
import pytest
from exporting import PLACES, THINGS

import synth
from synth import cli
from synth.registry import find
from synth.shards import OutputFolder
from synth.training.arms import Arms, read_arms
from synth.training.fit import TrainSettings
from synth.training.prove import Outcome, Proof
from synth.training.report import drawn, report_of
from synth.training.testsets import Retrieval, read_test


def passage(thing, place):
    return f"The {thing} of {place} is old. It was founded by a guild of {thing} masters. {place} is proud of it."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a BERT of one layer, the tokenizer of the embedded model, and mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(find("embed", "sentence_transformers")().folder())
    torch.manual_seed(3)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[bert, Pooling(32)], device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A run of 60 pairs, of which the longer 40 queries are kept, and a test with two of its queries nearly in it."""
    folder = tmp_path_factory.mktemp("scene")
    rows = [
        {
            "query": f"which guild founded the {thing} of {place}" if n % 3 else f"{thing} in {place}",
            "passage": passage(thing, place),
        }
        for n, (thing, place) in enumerate((thing, place) for thing in THINGS for place in PLACES)
    ]
    fast = {"embed": None, "scores": ["length"], "keep": {"length": {"min": 5}}, "progress": False}
    synth.filter(rows, out=folder / "run", **fast)
    for name, places in (("people", PLACES), ("other", PLACES[:3])):
        write_test(folder / name, places, near=name == "people")
    return folder


def write_test(folder, places, *, near):
    folder.mkdir()
    texts = [(f"{thing}-{place}", passage(thing, place)) for thing in THINGS for place in places]
    table(texts, "id", "text").write_parquet(folder / "corpus.parquet")
    asked = [
        (f"q{n}", f"who are the masters of {thing} in {places[n % 3]}", f"{thing}-{places[n % 3]}")
        for n, thing in enumerate(THINGS)
    ]
    if near:
        asked.append(("near", f"Which guild founded the ferry of {PLACES[1]}?", f"ferry-{PLACES[1]}"))
    table([(query, text) for query, text, _ in asked], "id", "text").write_parquet(folder / "queries.parquet")
    judged = [(query, document, 1) for query, _, document in asked]
    table(judged, "query_id", "doc_id", "score").write_parquet(folder / "qrels.parquet")


def table(rows, *names):
    return pl.DataFrame(rows, schema=list(names), orient="row")


def prove(scene, tiny, out, *more):
    settings = ("-s", f"model={tiny}", "-s", "max_steps=2", "-s", "batch_size=8", "-s", "device=cpu")
    return cli.main(["prove", str(scene / "run"), "--test", str(scene / "people"), "-o", str(out), *settings, *more])


@pytest.mark.slow
def test_arms_are_trained_alike_reported_and_not_trained_twice(scene, tiny, tmp_path, capsys):
    out, other = tmp_path / "proof", str(scene / "other")
    assert prove(scene, tiny, out, "--seeds", "2", "--off-domain", other, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {arm["arm"]: arm["pairs"] for arm in report["arms"]} == {
        "generated": 59,
        "kept": 39,
        "random": 39,
        "dropped": 20,
        "no-llm": 59,
    }
    assert (report["steps"], report["near_test_queries"], report["queries"]) == (2, 1, 11)
    assert [*report["arms"][0]["combined"]] == ["averaged", "merged"]
    assert [*report["arms"][2]["combined"]] == []
    assert report["arms"][0]["off_domain"]["other"]["queries"] == 10
    assert [*report["differences"]] == ["kept − random", "kept − dropped", "generated − no-llm"]
    rows = pl.read_parquet(out / "per_query.parquet").filter(pl.col("test") == "people")
    of_kept = rows.filter((pl.col("arm") == "kept") & pl.col("model").is_in(["0", "1"]))
    before = rows.filter(pl.col("arm") == "before")["value"].mean()
    assert report["arms"][1]["value"] == pytest.approx(of_kept["value"].mean())
    assert report["arms"][1]["change"]["mean"] == pytest.approx(of_kept["value"].mean() - before)
    assert "<svg" in (out / "report.svg").read_text()

    records = sorted((out / "arms").glob("*.json"))
    (out / "arms" / "kept-1.json").unlink()  # as if it was stopped while this model was tested
    times = {path: path.stat().st_mtime_ns for path in records if path.exists()}
    assert prove(scene, tiny, out, "--seeds", "2", "--off-domain", other) == 0
    printed = capsys.readouterr()
    assert "kept 1: testing" in printed.err
    assert "random" not in printed.err
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    again = json.loads((out / "report.json").read_text())
    assert [arm["change"] for arm in again["arms"]] == [arm["change"] for arm in report["arms"]]
    assert "kept − random" in printed.out
    assert f"kept | 39 | {report['arms'][1]['value']:.4f}" in (out / "report.md").read_text()

    assert cli.main(["keep", str(scene / "run"), "--as", "longest", "--above", "length=6"]) == 0
    assert prove(scene, tiny, out, "--seeds", "2", "--off-domain", other, "--arm", "kept", "--view", "longest") == 0
    assert capsys.readouterr().err.count("training, 2 steps") == 2
    assert "longest" in {arm["arm"] for arm in json.loads((out / "report.json").read_text())["arms"]}
    assert prove(scene, tiny, out, "--seeds", "2", "--off-domain", other) == 0

    assert prove(scene, tiny, out, "--seeds", "2", "--off-domain", other, "-s", "learning_rate=1e-3") == 4
    assert "other pairs, tests or settings" in capsys.readouterr().err


def test_own_pairs_can_be_held_out_and_are_then_not_trained_on(scene, tiny, tmp_path, capsys):
    settings = ("-s", f"model={tiny}", "-s", "max_steps=1", "-s", "batch_size=8", "-s", "device=cpu")
    command = ["prove", str(scene / "run"), "--test", "heldout", "--arm", "generated", "--seeds", "1", *settings]
    assert cli.main([*command, "-o", str(tmp_path / "proof"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["synthetic_queries"]
    assert report["pairs"] == 60 - report["queries"]
    assert "generated like the pairs" in report["sentences"][0]


def test_pairs_without_a_model_are_a_sentence_and_the_rest(scene):
    folder, test = OutputFolder.open(scene / "run"), read_test(str(scene / "people"), str)
    data = read_arms([folder], [], [test], frozenset(), str)
    for query, rest in data.by_rules.iter_rows():
        thing, place = (re.search(words, f"{query} {rest}")[1] for words in (r"(\w+) masters", r"(\w+) is proud"))
        whole = passage(thing, place)
        assert query in whole
        assert query not in rest
        assert len(query) + len(rest) + 1 == len(whole)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--arm", "best"], 2, "--arm best: is not an arm"),
        (["--view", "strict"], 2, "has no view strict"),
        (["-s", "epochs=many"], 2, "epochs"),
    ],
)
def test_what_cannot_be_proven_is_refused_first(scene, tiny, tmp_path, capsys, arguments, code, words):
    assert prove(scene, tiny, tmp_path / "proof", *arguments) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "proof" / "models").exists()


def proof(**shifts):
    """A proof over 200 queries whose arms differ from before by a shift, alike for all queries but for noise."""
    random = np.random.default_rng(4)
    before = random.random(200)
    ids = [str(n) for n in range(200)]
    test = Retrieval({}, dict.fromkeys(ids, ""), {}, 0, "people", "")

    def tested(arm, model, values):
        frame = {"test": "people", "id": ids, "value": values, "recall@100": 1.0}
        return Outcome(arm, model, 100, 20, 1.0, 1.0, pl.DataFrame(frame))

    models = [tested(arm, "0", before + shift + random.normal(0, 0.3, 200)) for arm, shift in shifts.items()]
    empty = table([], "query", "passage")
    data = Arms(empty, {"kept": empty}, empty, empty, 0, 0)
    return Proof(tested("before", "before", before), models, [test], 1, TrainSettings(max_steps=20), data, ["run"])


def test_kept_below_random_is_said_with_what_to_try():
    said = " ".join(report_of(proof(kept=-0.05, random=0.1))["sentences"])
    assert "Kept is below random: pairs that the rules keep train worse" in said
    assert "the score answerable" in said
    assert "random: better" in said


def test_a_null_result_names_the_queries_that_would_tell():
    record = report_of(proof(generated=0.0))
    arm, interval = record["arms"][0], record["arms"][0]["change"]
    needed = 200 * ((interval["high"] - interval["low"]) / 2 / 0.02) ** 2
    assert arm["verdict"] == "not shown"
    assert f"±.02 needs about {np.ceil(needed):,.0f} queries, here are 200" in record["sentences"][0]
    assert len(list(drawn(record))) > 3


def test_p_values_of_several_arms_are_raised():
    one, many = report_of(proof(kept=0.07)), report_of(proof(kept=0.07, a=0.0, b=0.0, c=0.0))
    assert many["arms"][0]["p_holm"] > many["arms"][0]["change"]["p"] == one["arms"][0]["p_holm"]
