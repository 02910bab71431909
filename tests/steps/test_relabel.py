"""`synth relabel`: what becomes of passages and pairs, and what mining, exports and training make of it."""

import json

import mining
import pyarrow.parquet as pq
import pytest
from exporting import export_of
from exporting import pairs as made_elsewhere
from running import rows

import synth
from synth.cli import main
from synth.cli.export import export_run as export
from synth.results.export import ExportArgs
from synth.shards import OutputFolder
from synth.training.arms import read_arms
from synth.training.runs import read_pairs
from synth.verify import verify

PAIRS = {
    "ferry": "The ferry to the island leaves at seven. ferry:0.95",
    "bakery": "A bakery in the port sells rye. bakery:0.3 says no",
    "glacier": "The glacier is in the north. glacier:0.02",
    "violin": "This violin is for sale. violin:0.02",
    "orchard": "An orchard has a hundred trees. orchard:0.6 says answers",
}
MORE = {
    "f2": "Ferry timetable: every hour from seven. ferry:0.97",
    "f3": "Ferry fares are the same all year. ferry:0.5 says partly",
    "b2": "The bakery opens at six and closes at noon. bakery:0.99",
    "g2": "Ice of the glacier is nine thousand years old. glacier:0.93",
    "x1": "Nothing about any of this.",
}
GRADED = "{use: 'mining:Graded'}"


@pytest.fixture(autouse=True)
def _nobody_was_asked():
    mining.asked.clear()


def run_of(folder, more=MORE):
    """A finished pass over five pairs, and the files of a larger corpus."""
    given = [{"query": f"when {word}", "passage": text, "passage_id": f"{word}-own"} for word, text in PAIRS.items()]
    lines = [json.dumps({"id": name, "text": text}) for name, text in more.items()]
    (folder / "more.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return made_elsewhere(folder, given, size=2, negatives=0)


def relabel(out, *options, reranker=GRADED):
    corpus = ("--corpus", str(out.parent / "more.jsonl"))
    assert main(["relabel", str(out), "--reranker", reranker, *corpus, *options, "--json"]) == 0
    return {row["query"].split()[1]: row for row in rows(out, "relabelled")}


def test_the_same_from_python(tmp_path):
    run = synth.open_run(run_of(tmp_path))
    corpus = [str(tmp_path / "more.jsonl")]
    found = synth.relabel(run, reranker={"use": "mining:Graded"}, corpus=corpus, progress=False).relabelled()
    assert found.filter(query="when bakery")["passage_id"].to_list() == ["b2"]


def ids(found):
    return [each["passage_id"] for each in found]


def test_a_pair_gets_every_positive_and_the_best_passage(tmp_path, capsys):
    out = run_of(tmp_path)
    capsys.readouterr()
    found = relabel(out)
    told = json.loads(capsys.readouterr().out)
    ferry, bakery, glacier, orchard = (found[name] for name in ("ferry", "bakery", "glacier", "orchard"))
    assert (ferry["passage"], ids(ferry["relabelled"]["positives"])) == (PAIRS["ferry"], ["f2"])
    assert ids(ferry["relabelled"]["ambiguous"]) == ["f3"]
    assert (bakery["passage"], bakery["passage_id"], bakery["reranker"]) == (MORE["b2"], "b2", 0.99)
    assert (bakery["relabelled"]["own"], bakery["relabelled"]["replaced"]) == ("ambiguous", "bakery-own")
    assert ids(bakery["relabelled"]["ambiguous"]) == ["bakery-own"]
    assert bakery["cosine"] is None, "scores of the former passage are not those of this one"
    assert (glacier["passage_id"], glacier["relabelled"]["ambiguous"]) == ("g2", [])
    assert (orchard["passage"], orchard["relabelled"]["own"]) == (PAIRS["orchard"], "ambiguous")
    assert orchard["cosine"] is not None
    (lost,) = rows(out, "rejected/relabelled")
    assert (lost["query"], lost["reason"]) == ("when violin", "no_answer")
    assert told["own"] == {"positive": 1, "ambiguous": 2, "negative": 2}
    assert (told["rows"], told["replaced"], told["several"], told["dropped"]) == (5, 2, 1, {"no_answer": 1})
    assert told["judged"] == 5 * 10
    assert (told["positives"], told["ambiguous"]) == (4, 3)
    assert told["positives"] + told["ambiguous"] + told["negatives"] == told["judged"]
    assert verify(out, deep=True).damage == ()


def test_the_own_passage_stays_within_the_margin(tmp_path):
    found = relabel(run_of(tmp_path), "--margin", "0.7", "--positive-above", "0.9")
    assert (found["bakery"]["passage"], ids(found["bakery"]["relabelled"]["positives"])) == (PAIRS["bakery"], ["b2"])
    assert found["glacier"]["passage_id"] == "g2", "one that answers nothing goes whatever the margin"


def test_a_language_model_judges_what_the_reranker_is_unsure_of(tmp_path):
    out = run_of(tmp_path)
    found = relabel(out, "--llm", "{use: 'mining:Judge', inventions: 1}", "--margin", "0.9")
    verdicts = [prompt for kind, prompt in mining.asked if kind == "verdict"]
    assert len(verdicts) == 2 * 2 + 1, "three passages; an invented quote is asked for again, `no` needs none"
    assert found["orchard"]["relabelled"]["own"] == "positive"
    (partly,) = found["ferry"]["relabelled"]["ambiguous"]
    assert (partly["source"], partly["quote"]) == ("llm", MORE["f3"][:14])
    assert found["bakery"]["passage_id"] == "b2", "the model says no to the own passage"
    mining.asked.clear()
    relabel(out, "--llm", "{use: 'mining:Judge', inventions: 1}", "--margin", "0.9")
    assert mining.asked == [], "it is done"


def test_of_several_pairs_of_a_query_one_gets_what_was_found(tmp_path):
    both = [{"query": "when ferry", "passage": text} for text in (PAIRS["ferry"], MORE["f2"])]
    (tmp_path / "more.jsonl").write_text(json.dumps({"id": "f4", "text": "Ferry: at eight. ferry:0.92"}))
    out = made_elsewhere(tmp_path, both, negatives=0)
    relabel(out)
    found = [[each["passage"] for each in row["relabelled"]["positives"]] for row in rows(out, "relabelled")]
    assert found == [["Ferry: at eight. ferry:0.92"], []]


def mine(out, *options):
    given = (
        "--corpus",
        str(out.parent / "more.jsonl"),
        "--range",
        "0:20",
        "--max-score",
        "null",
        "--absolute-margin",
        "null",
        "--num-negatives",
        "9",
    )
    assert main(["mine", str(out), *given, *options, "--json"]) == 0
    return {row["query"].split()[1]: row for row in rows(out, "mined")}


def test_mining_takes_the_positives_and_no_ambiguous_passage(tmp_path, capsys):
    out = run_of(tmp_path)
    relabel(out)
    assert main(["mine", str(out)]) == 2
    assert "Give the same --corpus" in capsys.readouterr().err
    for options in ((), ("--reranker", GRADED, "--promote-above", "0.9")):
        found = mine(out, *options)
        assert found["bakery"]["passage_id"] == "b2"
        assert "violin" not in found
        for name, row in found.items():
            texts = {each["passage"] for each in row["negatives"]}
            assert texts
            assert not any(f"{name}:" in text and mining.grade(row["query"], text) > 0.1 for text in texts)
        assert [each["passage"] for each in found["ferry"]["extra_positives"]] == [MORE["f2"]]
        assert verify(out, deep=True).damage == ()
    assert relabel(out, "--pool", "0").keys() == {"ferry", "bakery", "orchard"}
    assert main(["export", str(out), "--to", "jsonl", "-o", str(tmp_path / "stale")]) == 2
    assert "mined/ does not fit relabelled" in capsys.readouterr().err


def test_exports_and_training_have_all_positives(tmp_path):
    out = run_of(tmp_path)
    relabel(out)
    for to in ("beir", "jsonl"):
        export(out, ExportArgs(to, tmp_path / to), as_json=True)
    judgements = [line.split("\t")[:2] for line in (tmp_path / "beir/qrels/test.tsv").read_text().splitlines()[1:]]
    assert [passage for query, passage in judgements if query == judgements[0][0]] == ["ferry-own", "f2"]
    first = json.loads((tmp_path / "jsonl/train.jsonl").read_text().splitlines()[0])
    assert (ids(first["extra_positives"]), "relabelled" in first) == (["f2"], False)
    texts = export_of(out, "sentence-transformers", tmp_path / "st").to_pylist()
    assert [row["positive"] for row in texts if row["anchor"] == "when ferry"] == [PAIRS["ferry"], MORE["f2"]]
    trained = read_pairs(out, None, print)
    assert trained.filter(query="when ferry")["scores"].to_list() == [[0.95], [0.97]]
    mine(out, "--reranker", GRADED, "--reject-above", "0.1", "--promote-above", "null")
    export(out, ExportArgs("flagembedding", tmp_path / "flag"), as_json=True)
    row = json.loads((tmp_path / "flag/train/train.jsonl").read_text().splitlines()[0])
    assert (len(row["pos"]), len(row["pos_scores"]), len(row["neg"])) == (2, 2, len(row["neg_scores"]))


def test_what_it_was_made_from_changes(tmp_path, capsys):
    out = run_of(tmp_path)
    relabel(out)
    assert main(["status", str(out)]) == 0
    assert "relabelled" in capsys.readouterr().out
    assert main(["keep", str(out), "--above", "cosine=0.01"]) == 0
    for command in (["mine", str(out)], ["export", str(out), "--to", "jsonl", "-o", str(tmp_path / "rows")]):
        assert main(command) == 2
        assert "relabelled/ does not fit kept" in capsys.readouterr().err
    assert any("`synth relabel` rebuilds it" in note.what for note in verify(out, deep=True).notes)
    assert main(["gc", str(out), "--view", "relabelled", "--age", "0s"]) == 0
    assert main(["mine", str(out), "--range", "0:9", "--json"]) == 0
    assert verify(out, deep=True).damage == ()


def test_damage_is_found(tmp_path):
    out = run_of(tmp_path)
    relabel(out)
    path = next(path for path in sorted(out.glob("relabelled/*.parquet")) if pq.read_table(path).num_rows > 1)
    kept = out / "kept" / path.name
    path.write_bytes(kept.read_bytes())
    assert any(each.file.startswith("relabelled/") for each in verify(out, deep=True).damage)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "synth relabel: needs a reranker"),
        (("--reranker", GRADED, "--negative-below", "0.95"), "negative_below 0.95 exceeds positive_above 0.9"),
        (("--reranker", "{use: nothing}"), "unknown name 'nothing'"),
        (("--reranker", GRADED, "--pool", "many"), "pool"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, options, says):
    out = run_of(tmp_path)
    assert main(["relabel", str(out), *options]) == 2
    assert says in capsys.readouterr().err


def test_the_report_and_a_proof_know_the_positives_chosen_anew(tmp_path, capsys):
    out = run_of(tmp_path)
    arms = read_arms([OutputFolder.open(out)], (), [], frozenset(), print)
    assert "relabelled" not in arms.views
    relabel(out)
    arms = read_arms([OutputFolder.open(out)], (), [], frozenset(), print)
    chosen = dict(arms.views["relabelled"].iter_rows())
    assert chosen == {
        "when ferry": PAIRS["ferry"],
        "when bakery": MORE["b2"],
        "when glacier": MORE["g2"],
        "when orchard": PAIRS["orchard"],
    }
    assert arms.views["kept"].height == 5
    capsys.readouterr()
    assert main(["report", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    section = found["sections"]["positives"]
    assert section["figures"] == {"rows": 5, "judged": 50, "replaced": 0.4, "several": 0.2, "dropped": 1}
    assert section["tables"]["outcomes"][0] == {"": "own passages", "positive": 1, "ambiguous": 2, "negative": 2}

    assert main(["keep", str(out), "--above", "cosine=0.99"]) == 0  # no longer the pairs that it was made from
    notes = []
    assert "relabelled" not in read_arms([OutputFolder.open(out)], (), [], frozenset(), notes.append).views
    assert any("no arm relabelled" in note and "has changed since" in note for note in notes)
