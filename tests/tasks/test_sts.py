"""The task of textual similarity: what is drawn, what is asked, what a row says, and what happens to wrong orders."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exporting import export_of, written
from loopback import Loopback, say
from running import job_dict, rows, write_corpus, write_job

from synth.cli import main
from synth.errors import UnusableReply
from synth.replies import read_fields
from synth.stage import ChatReply
from synth.tasks.sts import FAR, GRADES, NEAR, Sts


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sts"), {"use": "sts", "queries_per_passage": 4})


def test_every_row_is_a_possible_combination_on_a_part_of_its_passage(out):
    texts = {row["id"]: row["text"] for row in rows(out, "passages")}
    found = rows(out, "generated")
    assert len(found) == 24
    assert {row["far"] is None for row in found} == {True, False}
    for row in found:
        assert row["grade"] in GRADES[row["relation"]]
        assert row["passage"] in texts[row["passage_id"]]
        assert row["question_type"] is None
        if row["far"] is None:
            assert row["far_grade"] is None
        else:
            assert row["grade"] >= NEAR
            assert row["far_grade"] in GRADES[row["far_relation"]]
            assert row["far_grade"] <= FAR


def test_verify_and_show_understand_parts(out, capsys):
    assert main(["verify", str(out), "--deep"]) == 0
    assert main(["show", str(out), "-n", "1"]) == 0
    assert "relation " in capsys.readouterr().out


def test_a_pair_with_a_text_that_is_no_part_is_found(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    path = copy / "generated" / "00000000.parquet"
    file = pq.ParquetFile(path)
    table = file.read()
    other = pa.array(["something else"] * table.num_rows, table.schema.field("passage").type)
    table = table.set_column(table.column_names.index("passage"), "passage", other)
    pq.write_table(table.replace_schema_metadata(file.schema_arrow.metadata), path)
    assert main(["verify", str(copy), "--deep"]) != 0


def test_wrong_orders_are_dropped_by_their_rule(out):
    kept, dropped = rows(out, "kept"), rows(out, "rejected/kept")
    assert all(row["triple_order"] > 0 for row in kept if row["far"])
    assert all(row["triple_order"] is None for row in kept if row["far"] is None)
    assert {row["reason"] for row in dropped} <= {"triple_order above 0"}


def test_the_summary_says_what_was_asked_and_how_it_agrees(out, capsys):
    assert main(["run", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert sum(summary["asked"]["grade"].values()) == pytest.approx(1)
    assert summary["mixes"]["relation"].keys() <= summary["asked"]["relation"].keys()
    assert -1 <= summary["agreement"]["cosine"] <= 1
    assert set(summary["agreement"]) == {"cosine"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "sentence-similarity" in card
    assert '["passage", "query", "grade"]' in card


def test_a_sweep_over_the_grades_prints_the_rank_correlation(out, capsys):
    assert main(["sweep", str(out), "--score", "cosine", "--label-column", "grade", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["spearman"]) >= {"cosine"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"relations": {"paraphrase": 1}}, "set triples: 0"),
        ({"relations": {"synonym": 1}}, "'synonym' is not one of paraphrase"),
        ({"grades": {"1": 1}, "triples": 0}, "no grade for change_detail: it needs one of 2.5, 3, 3.5"),
        ({"grades": {"6": 1}}, "grade '6' is not one of 1, 1.5"),
        ({"units": {"line": 1}}, "unit 'line' is not one of sentence"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Sts(**options)


def test_shares_of_the_draw_follow_the_weights():
    asked = Sts(relations={"paraphrase": 3, "same_topic": 1}, grades={5: 1, 4: 1, 1: 2}, triples=0).asked()
    assert asked["relation"] == {"paraphrase": 0.75, "same_topic": 0.25}
    assert asked["grade"] == {"1.0": 0.25, "4.0": 0.375, "5.0": 0.375}


def test_a_relation_that_cannot_be_had_gives_way_to_the_one_offered(tmp_path):
    asked = []

    def answer(body):
        schema = body["response_format"]["json_schema"]["schema"]["properties"]
        asked.append(schema)
        if "Partner" not in schema:
            return say(json.dumps({name: part.get("enum", ["x"])[0] for name, part in schema.items()}))
        reply = {"Partner": f"A captain of the harbour wrote this report on {body['seed']} mills."}
        if "Relation" in schema:
            reply = {"Relation": schema["Relation"]["enum"][1], **reply}
        return say(json.dumps(reply))

    with Loopback() as server:
        server.chat = answer
        write_corpus(tmp_path / "docs.jsonl", 3)
        job = job_dict(server.url, tmp_path, personas=None) | {
            "task": {
                "use": "sts",
                "queries_per_passage": 2,
                "triples": 0,
                "relations": {"swap_roles": 1, "same_topic": 1},
                "grades": {"2": 1},
            },
        }
        assert main(["run", str(write_job(tmp_path, job)), "-o", str(tmp_path / "out"), "--json"]) == 0
    offered = [each["Relation"]["enum"] for each in asked if "Relation" in each]
    assert offered
    assert {tuple(each) for each in offered} == {("swap_roles", "same_topic")}
    assert {row["relation"] for row in rows(tmp_path / "out", "generated")} == {"same_topic"}


@pytest.mark.parametrize("form", ["scores", "triplets"])
def test_sentence_transformers_gets_graded_pairs_or_triplets(out, tmp_path, form):
    table = export_of(out, "sentence-transformers", tmp_path / "st", f"form={form}")
    kept = rows(out, "kept")
    if form == "scores":
        assert table.column_names == ["sentence1", "sentence2", "score"]
        wanted = [(row["passage"], row["query"], (row["grade"] - 1) / 4) for row in kept]
    else:
        assert table.column_names == ["anchor", "positive", "negative_1"]
        wanted = [(row["passage"], row["query"], row["far"]) for row in kept if row["far"]]
    assert [tuple(row.values()) for row in table.to_pylist()] == wanted


def test_a_measured_score_may_stand_in_place_of_the_grade(out, tmp_path, capsys):
    table = export_of(out, "sentence-transformers", tmp_path / "st", "score=cosine")
    assert table["score"].to_pylist() == pytest.approx([row["cosine"] for row in rows(out, "kept")])
    options = ["export", str(out), "--to", "sentence-transformers", "-o", str(tmp_path / "no"), "-s", "score=other"]
    assert main(options) == 2
    assert "no pair has a value in other" in capsys.readouterr().err


def test_the_shipped_job_runs(tmp_path):
    models = ["-s", "llm={use: extractive}", "-s", "embed={use: mining:Bag}", "-s", "task.prompts=default"]
    assert main(["run", "configs/sts.yaml", "-o", str(tmp_path / "out"), "--sample", "4", *models, "--json"]) == 0
    assert len(rows(tmp_path / "out.sample-4", "generated")) == 4


def test_a_text_of_several_lines_is_read():
    lines = json.dumps({"Partner": "let a = 1;\nlet b = 2;"})
    found, repaired = read_fields(ChatReply(lines, "stop", "x"), {"Partner": None}, repair=False)
    assert (found, repaired) == ({"Partner": "let a = 1;\nlet b = 2;"}, False)
    with pytest.raises(UnusableReply, match="already written"):
        read_fields(ChatReply(lines, "stop", "x"), {"Partner": None}, repair=False, written=["Let a = 1; let b = 2;"])


def test_mteb_gets_a_similarity_task_and_beir_refuses(out, tmp_path, capsys):
    table = export_of(out, "mteb", tmp_path / "mteb")
    assert table.column_names == ["sentence1", "sentence2", "score"]
    assert table["score"].to_pylist() == [row["grade"] for row in rows(out, "kept")]
    assert "AbsTaskSTS" in (tmp_path / "mteb" / "TRAIN.md").read_text(encoding="utf-8")
    assert main(["export", str(out), "--to", "beir", "-o", str(tmp_path / "beir")]) == 2
    assert "has no rows for a job of pairs of similar texts" in capsys.readouterr().err
