"""`synth report` and `synth compare` on a finished run: every figure equals the one that polars recomputes."""

import json
import shutil
import sys
import zlib

import numpy as np
import polars as pl
import pytest
from loopback import Loopback
from running import completion, job_dict, run, write_corpus, write_job

import synth
from synth.cli import main
from synth.hashing import tokens
from synth.report import material

RULES = {"cosine": {"above": 0.12}, "round_trip_rank": {"max": 3}}
SCORES = ["cosine", "length", "copying", "round_trip", "near_duplicate", "language"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run over 20 passages with a named view, and the server that it asks."""
    folder = tmp_path_factory.mktemp("report")
    with Loopback() as server:
        server.chat = completion
        write_corpus(folder / "docs.jsonl", 20)
        scores = [{"use": name} for name in SCORES]
        task = {"use": "retrieval", "queries_per_passage": 2, "question_types": {"keywords": 3, "summary": 1}}
        job = job_dict(server.url, folder, scores=scores, keep=RULES, task=task)
        run(write_job(folder, job), folder / "out")
        assert main(["keep", str(folder / "out"), "--above", "cosine=0.16", "--as", "strict"]) == 0
        yield folder


@pytest.fixture(scope="module")
def out(home):
    return home / "out"


@pytest.fixture(scope="module")
def told(out):
    return synth.open_run(out).report().as_json()["sections"]


@pytest.fixture(scope="module")
def rows(out):
    """All scored rows, from the files alone."""
    parts = {True: out / "kept", False: out / "rejected" / "kept"}
    frames = [pl.read_parquet(f"{path}/*.parquet").with_columns(kept=pl.lit(kept)) for kept, path in parts.items()]
    return pl.concat(frames, how="diagonal_relaxed")


def test_the_funnel_and_the_cost(told, rows, out):
    kept, figures = rows.filter("kept"), told["funnel"]["figures"]
    assert 5 < kept.height < rows.height
    assert figures["pairs"] == rows.height
    assert figures["kept"] == kept.height
    assert figures["kept_share"] == pytest.approx(kept.height / rows.height)
    assert figures["prompt_tokens_per_kept"] == pytest.approx(rows["prompt_tokens"].sum() / kept.height)
    assert figures["completion_tokens"] == rows["completion_tokens"].sum()
    stages = {row[""]: row["count"] for row in told["funnel"]["tables"]["stages"]}
    passages = pl.read_parquet(f"{out}/passages/*.parquet")
    assert stages == {
        "rows read": 20,
        "passages": passages.height,
        "items asked for": 40,
        "pairs": 40,
        "kept": kept.height,
    }
    dropped = dict(rows.filter(~pl.col("kept"))["reason"].value_counts().iter_rows())
    lost = {row[""].partition(": ")[2]: row["count"] for row in told["funnel"]["tables"]["lost"]}
    assert {key: value for key, value in lost.items() if key in dropped} == dropped


def test_the_coverage_of_the_corpus(told, rows, out):
    figures = told["coverage"]["figures"]
    covered = rows.filter("kept")["passage_id"].n_unique()
    assert figures["passages"] == pl.read_parquet(f"{out}/passages/*.parquet")["text"].n_unique()
    assert figures["covered"] == covered
    assert figures["covered_share"] == pytest.approx(covered / figures["passages"])
    clusters = told["coverage"]["tables"]["clusters"]
    assert sum(row["passages"] for row in clusters) == figures["passages"]
    assert sum(row["covered"] for row in clusters) == covered
    assert figures["clusters_covered"] == sum(row["covered"] > 0 for row in clusters)
    assert covered / figures["passages"] < figures["facility_location"] <= 1


def test_what_was_asked_for_and_what_was_kept(told, rows):
    table = told["requested"]["tables"]["question_type"]
    assert {row[""]: row["asked"] for row in table} == {"keywords": 0.75, "summary": 0.25}
    found = rows.group_by("question_type").agg(pl.len(), pl.col("kept").sum())
    assert {(row[""], row["got"], row["kept"]) for row in table} == {*found.iter_rows()}
    assert sum(row["share"] for row in table) == pytest.approx(1)
    inside = rows.select(
        (pl.col("length") >= pl.col("length_min")) & (pl.col("length") <= pl.col("length_max"))
    ).to_series()
    assert told["requested"]["figures"]["length_inside"] == pytest.approx(inside.mean())
    assert told["requested"]["figures"]["language_ok"] == pytest.approx(rows["language_ok"].mean())


def test_redundancy_is_that_of_brute_force(told, rows):
    kept, figures = rows.filter("kept"), told["redundancy"]["figures"]
    queries = kept["query"].to_list()
    assert figures["duplicates"] == pytest.approx(1 - len({each.lower() for each in queries}) / len(queries))
    assert figures["near_duplicates"] == pytest.approx(1 - kept["query_cluster"].n_unique() / len(queries))
    raw = "\n".join(queries).encode()
    assert figures["compression_ratio"] == pytest.approx(len(raw) / len(zlib.compress(raw, 9)), rel=0.05)
    pairs = [tuple(words[n : n + 2]) for words in map(tokens, queries) for n in range(len(words) - 1)]
    assert figures["distinct_2"] == pytest.approx(len({*pairs}) / len(pairs))
    assert 1 < figures["vendi"] <= len(queries)


def test_ranks_scores_and_copies(told, rows):
    ranks = rows["round_trip_rank"].drop_nulls()
    assert told["rank"]["figures"]["first"] == pytest.approx((ranks == 1).mean())
    bins = told["rank"]["tables"]["ranks"]
    assert sum(row["kept"] + row["dropped"] for row in bins) == len(ranks)
    assert bins[0] == {
        "rank": "1",
        "kept": rows.filter("kept", pl.col("round_trip_rank") == 1).height,
        "dropped": rows.filter(~pl.col("kept"), pl.col("round_trip_rank") == 1).height,
    }
    drawn = told["scores"]["histograms"]["cosine"]
    for kept in (True, False):
        values = rows.filter(pl.col("kept") == kept)["cosine"].to_numpy()
        assert drawn["counts"]["kept" if kept else "dropped"] == np.histogram(values, drawn["edges"])[0].tolist()
    assert told["scores"]["figures"]["cosine_median"] == pytest.approx(rows["cosine"].median())
    assert told["copied"]["figures"]["median"] == pytest.approx(rows["copied_share"].median())
    near = told["scores"]["samples"]["cosine"]
    gap = (rows["cosine"] - RULES["cosine"]["above"]).abs().min()
    assert min(abs(row["cosine"] - RULES["cosine"]["above"]) for row in near) == pytest.approx(gap, abs=1e-4)


def test_what_a_run_lacks_is_said_in_one_line(told):
    for name, hint in (("negatives", "synth mine"), ("leakage", "contamination"), ("real", "--queries")):
        assert hint in told[name]["missing"], name
        assert told[name]["figures"] == {}


def test_mined_negatives_and_real_queries(home, tmp_path):
    shutil.copytree(home / "out", tmp_path / "out")
    run_ = synth.open_run(tmp_path / "out")
    synth.mine(run_, range="0:8", num_negatives=2, absolute_margin=0.0, progress=False)
    real = [f"where can i find {word} {n}" for word in ("rain", "bread", "a roof", "the mill") for n in range(10)]
    (tmp_path / "real.txt").write_text("\n".join(real))
    sections = run_.report(queries=tmp_path / "real.txt").as_json()["sections"]
    mined = run_.mined()
    assert sections["negatives"]["figures"]["negatives"] == mined["negatives"].list.len().sum()
    scores = mined.select(pl.col("negatives").explode()).unnest("negatives")["score"]
    quantiles = {row[""]: row for row in sections["negatives"]["tables"]["quantiles"]}
    assert quantiles["score, mined"]["50 %"] == pytest.approx(scores.median())
    refused = mined.select(pl.col("refused").explode()).drop_nulls().unnest("refused")
    counts = {row["reason"]: row["count"] for row in sections["negatives"]["tables"]["refused"]}
    assert counts == dict(refused.group_by("reason").agg(pl.col("count").sum()).iter_rows())
    near = sections["real"]["figures"]
    assert (near["made"], near["real"], near["real_words"]) == (run_.kept().height, 40, 6.5)
    assert near["energy"] > near["energy_of_halves"] > 0


def test_two_views_side_by_side(out, capsys):
    assert main(["compare", str(out), str(out / "views" / "strict"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    a, b = (pl.read_parquet(f"{out}/{name}/*.parquet") for name in ("kept", "views/strict"))
    mine, theirs = ({*frame.select("query", "passage").iter_rows()} for frame in (a, b))
    assert found["kept"]["rows_both"] == len(mine & theirs)
    assert found["kept"]["rows_only_a"] == len(mine - theirs)
    assert found["kept"]["rows_only_b"] == len(theirs - mine)
    passages = [{*frame["passage"]} for frame in (a, b)]
    assert found["kept"]["passages_both"] == len(passages[0] & passages[1])
    assert found["kept"]["passages_only_a"] == len(passages[0] - passages[1])
    assert sum(sum(value for name, value in row.items() if name.startswith("b: ")) for row in found["passages"]) == len(
        passages[0] | passages[1]
    )
    kept = next(each for each in found["figures"] if (each["section"], each["figure"]) == ("funnel", "kept pairs"))
    assert kept == {
        "section": "funnel",
        "figure": "kept pairs",
        "a": a.height,
        "b": b.height,
        "difference": b.height - a.height,
    }
    assert all(row["query"] in {query for query, _ in mine - theirs} for row in found["samples"]["only_a"])


def test_a_pass_over_existing_pairs_without_an_embedder_that_answers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(material, "_OUTAGE", 0.1)
    with Loopback() as server:
        rows = [
            {"query": f"what is {word}", "passage": f"all about {word} and more"} for word in ("rain", "stone", "mill")
        ]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        served = ["--embed-url", server.url, "--embed-model", "tiny"]
        command = ["filter", str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "out"), "--above", "cosine=0", *served]
        assert main(command) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out"), "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert "no vectors" in sections["map"]["missing"]
    assert sections["coverage"]["figures"]["passages"] == 3
    assert "prompt_tokens" not in sections["funnel"]["figures"]
    assert "bm25s" not in (sections["content"]["missing"] or "")
    assert "contamination" in sections["leakage"]["missing"]


def test_mistakes_say_what_to_do(out, tmp_path, capsys, monkeypatch):
    assert main(["report", str(out), "--view", "nothing"]) == 2
    assert "has no view nothing" in capsys.readouterr().err
    assert main(["report", str(out), "--queries", str(tmp_path / "none.txt"), "--json"]) == 2
    assert "does not exist" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["report", str(out)]) == 2
    assert "pip install 'synth[report]'" in capsys.readouterr().err
    assert not (out / "report.html").exists()
    assert main(["compare", str(out), str(tmp_path)]) == 4


def test_a_damaged_shard_is_named(home, tmp_path, capsys):
    shutil.copytree(home / "out", tmp_path / "out")
    shard = next((tmp_path / "out" / "kept").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-200] + bytes(200))
    assert main(["report", str(tmp_path / "out"), "--json"]) == 4
    assert shard.name in capsys.readouterr().err
