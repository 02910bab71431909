"""`synth evaluate` on tests of every kind, with the embedded model."""

import json

import numpy as np
import polars as pl
import pytest
from exporting import pairs

import synth
from synth import cli
from synth.shipped import shipped
from synth.stage import RerankStage
from synth.training.evaluate import trec_figures
from synth.training.testsets import read_test

MODEL = "all-MiniLM-L6-v2"
DOCUMENTS = {
    "tides": "Tides rise and fall with the moon, twice a day.",
    "rye": "Rye bread needs sourdough, because its flour is sticky.",
    "eels": "Eels hatch in the Sargasso Sea and drift to Europe.",
    "bees": "A beekeeper counts the mites that fall from a hive.",
    "loans": "The interest of a loan is paid every month.",
}
QUERIES = {
    "q1": ("why is the sea high twice a day", {"tides": 2, "eels": 1}),
    "q2": ("bread of sticky flour", {"rye": 1}),
    "q3": ("parasites of honey bees", {"bees": 1}),
    "q4": ("cost of borrowing money", {"loans": 1, "bees": 0}),
}


def beir(folder, queries=QUERIES):
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": "", "text": text} for name, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": name, "text": text} for name, (text, _) in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{name}\t{doc}\t{grade}\n" for name, (_, docs) in queries.items() for doc, grade in docs.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\trye\t1\n")
    return folder


class Known(RerankStage):
    """Finds eels relevant, refuses bread, and nothing else matters."""

    def open(self, client, instruction):  # noqa: ARG002 - the seam's signature
        return self

    async def score(self, pairs):
        return np.array([np.nan if "bread" in doc else 0.9 if "Eels" in doc else 0.1 for _, doc in pairs])

    async def close(self):
        pass


def ndcg(ranked, grades, depth=10):
    """As Järvelin and Kekäläinen define it, with the grade itself as gain."""
    gains = [grades.get(doc, 0) / np.log2(rank + 2) for rank, doc in enumerate(ranked[:depth])]
    best = [grade / np.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:depth])]
    return sum(gains) / sum(best)


def test_figures_are_those_of_the_definitions():
    random = np.random.default_rng(3)
    for _ in range(50):
        names = [f"d{n}" for n in range(150)]
        grades = {name: int(random.integers(1, 4)) for name in random.choice(names, 7, replace=False)}
        ranked = [str(name) for name in random.permutation(names)[:100]]
        found = trec_figures({"q": {name: 1 - n / 200 for n, name in enumerate(ranked)}}, {"q": grades}).to_dicts()[0]
        ranks = [ranked.index(name) + 1 for name in grades if name in ranked]
        assert found["ndcg@10"] == pytest.approx(ndcg(ranked, grades))
        assert found["recall@100"] == pytest.approx(len(ranks) / 7)
        assert found["mrr@10"] == pytest.approx(max((1 / rank for rank in ranks if rank <= 10), default=0))


def test_a_beir_folder_gives_figures_runs_and_the_change_to_the_first_model(tmp_path, capsys):
    test, out = beir(tmp_path / "sea"), tmp_path / "out"
    assert cli.main(["evaluate", MODEL, MODEL, "--test", str(test), "-o", str(out), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["queries"], first["documents"], second["change"]["mean"]) == (4, 5, 0)
    rows = pl.read_parquet(out / "per_query.parquet").filter(pl.col("model") == MODEL)
    run = {}
    for line in (out / "runs" / f"{MODEL}__sea.trec").read_text().splitlines():
        query, _, document, rank, _, tag = line.split(" ")
        run.setdefault(query, []).append(document)
        assert (len(run[query]), tag) == (int(rank), MODEL)
    for row in rows.iter_rows(named=True):
        assert row["ndcg@10"] == pytest.approx(ndcg(run[row["id"]], QUERIES[row["id"]][1]))
    assert first["ndcg@10"] == pytest.approx(rows["ndcg@10"].mean())

    assert cli.main(["evaluate", MODEL, "--test", str(test), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{first['ndcg@10']:.4f}" in printed
    assert "4 queries, 5 documents" in printed


def test_a_reranker_orders_the_first_ones_and_leaves_the_others_below(tmp_path):
    test, out = beir(tmp_path / "sea"), tmp_path / "out"
    plain = synth.evaluate(MODEL, test=test, progress=False)
    options = {"test": test, "rerank": "test_evaluate:Known", "out": out, "progress": False}
    assert synth.evaluate(MODEL, top_k=5, **options)["ndcg@10"][0] < plain["ndcg@10"][0]
    lines = [line.split(" ") for line in (out / "runs" / f"{MODEL}__sea.trec").read_text().splitlines()]
    assert {(document, score) for _, _, document, rank, score, _ in lines if rank == "1"} == {("eels", "1.9")}
    assert {score for _, _, document, _, score, _ in lines if document == "rye"} == {"1.0"}
    same = synth.evaluate(MODEL, top_k=1, **options)
    assert same["ndcg@10"][0] == plain["ndcg@10"][0]


def test_similar_sentences_translations_and_labels(tmp_path):
    english = [text for text, _ in QUERIES.values()]
    sts = pl.DataFrame(
        {
            "sentence1": english,
            "sentence2": [*english[:2], "the harbour at noon", "loans"],
            "score": [5.0, 5.0, 0.0, 3.0],
        }
    )
    sts.write_parquet(tmp_path / "sts.parquet")
    sts.drop("score").write_ndjson(tmp_path / "bitext.jsonl")
    labelled = tmp_path / "topics"
    labelled.mkdir()
    texts = [*DOCUMENTS.values()]
    pl.DataFrame({"text": texts, "label": [*"ababb"]}).write_ndjson(labelled / "train.jsonl")
    pl.DataFrame({"text": texts[:3], "label": [*"abb"]}).write_ndjson(labelled / "test.jsonl")
    tests = [tmp_path / "sts.parquet", tmp_path / "bitext.jsonl", labelled]
    found = synth.evaluate(MODEL, test=tests, progress=False).to_dicts()
    assert [each["test"] for each in found] == ["sts", "bitext", "topics"]
    assert found[0]["spearman"] > 0.8
    assert found[1]["accuracy"] == 0.75
    assert found[2]["accuracy"] == pytest.approx(2 / 3)


def test_pairs_of_a_run_are_held_out_with_all_that_is_like_them(tmp_path):
    out = pairs(tmp_path, negatives=0)
    (row,) = synth.evaluate(MODEL, test=f"heldout:{out}", progress=False).to_dicts()
    assert row["synthetic_queries"]
    assert row["documents"] == 60
    assert 1 <= row["queries"] < 20


def test_no_query_of_the_quickstarts_test_is_shown_to_a_model():
    folder = shipped("configs", "quickstart", "test-queries")
    test = read_test(str(folder), str)
    assert (len(test.queries), len(test.documents), test.missing) == (144, 108, 0)
    sources = [json.loads(line) for name in ("passages", "english") for line in shipped_lines(f"{name}.jsonl")]
    titled = {row["id"]: f"{row['title']} {row['text']}" for row in sources}
    assert test.documents == titled
    assert all([*docs] == [name.rsplit("-", 1)[0]] for name, docs in test.relevant.items())
    shown = [path for kind in ("prompts", "personas") for path in shipped(kind).rglob("*") if path.is_file()]
    shown += [path for path in shipped("configs").rglob("*") if path.is_file() and folder not in path.parents]
    texts = "\n".join(path.read_text("utf-8") for path in shown).casefold()
    assert [query for query in test.queries.values() if query.casefold() in texts] == []


def shipped_lines(name):
    return shipped("configs", "quickstart", name).read_text("utf-8").splitlines()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda folder: folder.rename(folder.with_name("other")), 2, "no such file or folder"),
        (
            lambda folder: (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tx\t1\n"),
            3,
            "no query",
        ),
        (
            lambda folder: (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\trye\t.5\n"),
            3,
            "whole",
        ),
        (lambda folder: (folder / "corpus.jsonl").unlink(), 3, "is not a test"),
    ],
)
def test_a_folder_that_is_no_test_is_refused(tmp_path, capsys, change, code, words):
    change(beir(tmp_path / "sea"))
    assert cli.main(["evaluate", MODEL, "--test", str(tmp_path / "sea")]) == code
    assert words in capsys.readouterr().err


def test_a_folder_with_other_files_and_unknown_models_are_refused(tmp_path, capsys):
    test = beir(tmp_path / "sea")
    assert cli.main(["evaluate", MODEL, "--test", str(test), "-o", str(test)]) == 4
    assert cli.main(["evaluate", str(tmp_path / "none"), "--test", str(test)]) == 2
    assert cli.main(["evaluate", MODEL, "--test", str(test), "--rerank", "{use: nothing}"]) == 2
    assert cli.main(["evaluate", MODEL, "--test", str(test), "--rerank", "{"]) == 2
    assert capsys.readouterr().err.count("error:") == 4
