from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.errors import InputError, JobError
from synth.sources import (
    PairData,
    PairRow,
    ReadLimits,
    RejectedRow,
    count_rows,
    inspect_pairs,
    pair_files,
    pairs_schema,
    read_pairs,
    text,
)

SHARED = Path(__file__).parents[2].parent / "shared"
LIMITS = ReadLimits()
ENGLISH = {"query_language": "en", "passage_language": "en"}


class Read:
    """Everything that the data in `path` become."""

    def __init__(self, folder, path, *, limits=LIMITS, only=None, notify=None, **options):
        data = [PairData.model_validate({"path": path, **ENGLISH, **options})]
        self.sets = inspect_pairs(data, folder, limits)
        self.layout = self.sets[0]
        self.schema = pairs_schema(self.sets, limits)
        blocks = list(read_pairs(self.sets, self.schema, limits, only=only, notify=notify))
        outcomes = [outcome for block in blocks for outcome in block.outcomes]
        self.pairs = [outcome for outcome in outcomes if isinstance(outcome, PairRow)]
        self.rejected = [outcome for outcome in outcomes if isinstance(outcome, RejectedRow)]
        self.own = pa.concat_tables(block.carried for block in blocks) if self.schema.names else None
        self.rows = count_rows(pair_files(self.sets))

    def texts(self):
        return [(row.query, row.passage) for row in self.pairs]

    def reasons(self):
        return [row.reason for row in self.rejected]

    def balance(self):
        used = {(row.source, row.source_row) for row in self.pairs}
        assert self.rows == len(used) + len(self.rejected)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count, **more):
    return [{"query": f"question {n}", "passage": f"answer {n}", **more} for n in range(count)]


@pytest.mark.parametrize(
    "prompt",
    [
        "Instruct: Given a question, retrieve passages that answer it\nQuery:",
        "Instruct: Given a question, retrieve passages that answer it\nQuery: ",
        "<Instruct>: Find the law\n<Query>: ",
        "<instruct>Find: the law\n<query>",
    ],
)
def test_the_prompt_of_a_model_is_no_part_of_a_query(tmp_path, prompt):
    rows = [{"query": f"{prompt}what is {n}?", "passage": f"it is {n}"} for n in range(3)]
    asked = {"query": "Instruct: a hen to lay. Query: how?", "passage": "with patience"}
    bare = {"query": prompt, "passage": "nothing was asked"}
    jsonl(tmp_path / "pairs.jsonl", *rows, asked, bare)
    said = []
    read = Read(tmp_path, "pairs.jsonl", notify=said.append)
    assert [query for query, _ in read.texts()] == [*(f"what is {n}?" for n in range(3)), asked["query"]]
    assert read.reasons() == ["empty"]
    (line,) = said
    assert line.startswith("pairs: the prompt of a model was removed from 4 queries")
    read.balance()


@pytest.mark.parametrize(
    ("query", "passage"),
    [
        ("query", "passage"),
        ("anchor", "positive"),
        ("question", "context"),
        ("prompt", "response"),
        ("Question", "Answer"),
        ("sentence1", "sentence2"),
        ("text1", "text2"),
        ("q", "doc"),
    ],
)
def test_usual_names_are_found(tmp_path, query, passage):
    jsonl(tmp_path / "a.jsonl", {"id": 3, query: "who asks", passage: "one who answers"})
    found = Read(tmp_path, "a.jsonl")
    assert found.texts() == [("who asks", "one who answers")]
    assert found.schema.names == ["id"]
    assert repr(query) in found.layout.describe()


def test_squad_means_its_context_and_carries_the_answers(tmp_path):
    answers = {"text": ["here"], "answer_start": [4]}
    jsonl(tmp_path / "a.jsonl", {"question": "where?", "context": "right here", "answers": answers})
    found = Read(tmp_path, "a.jsonl")
    assert found.texts() == [("where?", "right here")]
    assert found.own.to_pylist() == [{"answers": answers}]


def test_named_columns_may_be_dotted_and_their_struct_is_carried(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"frage": "wer?", "doc": {"body": "jemand", "lang": "de"}, "x": 1})
    found = Read(tmp_path, "a.jsonl", query="frage", passage="doc.body", passage_language="doc.lang")
    assert found.texts() == [("wer?", "jemand")]
    assert found.own.to_pylist() == [{"doc": {"body": "jemand", "lang": "de"}, "x": 1}]
    assert found.pairs[0].passage_language == "de"
    table = pa.table({"frage": ["wer?"], "doc": [{"body": "jemand", "lang": "de"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = Read(tmp_path, "a.parquet", query="frage", passage="doc.body", passage_language="doc.lang")
    assert found.texts() == [("wer?", "jemand")]
    assert found.pairs[0].passage_language == "de"


def test_a_missing_column_names_the_nearest_and_unusual_names_ask_for_one(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"querry": "q", "passage": "p"})
    with pytest.raises(InputError, match="querry"):
        Read(tmp_path, "a.jsonl", query="query")
    jsonl(tmp_path / "b.jsonl", {"left": "q", "right": "p"})
    with pytest.raises(InputError, match=r"columns: left, right.*--query-column"):
        Read(tmp_path, "b.jsonl")


def test_tuples_of_sentence_transformers_carry_their_negatives(tmp_path):
    row = {"anchor": "a", "positive": "p", "negative_1": "n1", "negative_2": "n2"}
    found = Read(tmp_path, jsonl(tmp_path / "t.jsonl", row).name)
    assert found.layout.kind == "tuples"
    assert found.texts() == [("a", "p")]
    assert found.own.to_pylist() == [{"negative_1": "n1", "negative_2": "n2"}]


def test_each_positive_of_flagembedding_is_a_pair_with_its_place_and_all_else(tmp_path):
    rows = [
        {"query": "a", "pos": ["a1", "a2"], "neg": ["x"], "pos_scores": [0.5, 1], "prompt": "find", "id": "7"},
        {"query": "b", "pos": ["b1"], "neg": [], "pos_scores": [0.25], "prompt": "find", "id": "8"},
        {"query": "c", "pos": [], "neg": ["y"], "pos_scores": [], "prompt": "find", "id": "9"},
        {"query": "d", "pos": ["fine", " "], "neg": ["y"], "pos_scores": [1, 1], "prompt": "find", "id": "10"},
    ]
    found = Read(tmp_path, jsonl(tmp_path / "f.jsonl", *rows).name)
    assert found.layout.kind == "flag"
    assert found.texts() == [("a", "a1"), ("a", "a2"), ("b", "b1")]
    assert [(row.source_row, row.positive) for row in found.pairs] == [(0, 0), (0, 1), (1, 0)]
    for row, own in zip(found.pairs, found.own.to_pylist(), strict=True):
        given = rows[row.source_row]
        assert own == {name: given[name] for name in ("neg", "pos_scores", "prompt", "id")}
        assert row.passage == given["pos"][row.positive]
    assert found.reasons() == ["no_positive", "empty"]
    assert "positive 2 of 2" in found.rejected[1].detail
    found.balance()


def test_messages_of_ms_swift(tmp_path):
    row = {
        "messages": [{"role": "system", "content": "You retrieve."}, {"role": "user", "content": "why?"}],
        "positive_messages": [[{"role": "user", "content": "because"}], [{"role": "user", "content": "so that"}]],
        "negative_messages": [[{"role": "user", "content": "never"}]],
        "channel": "logs",
    }
    found = Read(tmp_path, jsonl(tmp_path / "m.jsonl", row).name)
    assert found.layout.kind == "messages"
    assert found.texts() == [("why?", "because"), ("why?", "so that")]
    assert found.own.to_pylist() == [row, row]


def beir(folder):
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", *({"_id": f"d{n}", "title": f"T{n}", "text": f"text {n}"} for n in range(5)))
    jsonl(folder / "queries.jsonl", *({"_id": f"q{n}", "text": f"ask {n}", "metadata": {"k": n}} for n in range(3)))
    head = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(head + "q0\td1\t2\nq0\td2\t0\nq1\td9\t1\nq7\td1\t1\n")
    (folder / "qrels" / "train.tsv").write_text(head + "q2\td4\t1\nq2\td3\tmany\n")
    return folder


def test_a_beir_folder_joins_its_judgements(tmp_path):
    beir(tmp_path / "set")
    found = Read(tmp_path, "set")
    assert found.texts() == [("ask 0", "text 1"), ("ask 2", "text 4")]
    assert [row.label for row in found.pairs] == [2.0, 1.0]
    assert found.own.to_pylist() == [
        {"query_id": "q0", "passage_id": "d1", "split": "test", "query_metadata": {"k": 0}, "passage_title": "T1"},
        {"query_id": "q2", "passage_id": "d4", "split": "train", "query_metadata": {"k": 2}, "passage_title": "T4"},
    ]
    assert found.reasons() == ["not_relevant", "unresolved", "unresolved", "label"]
    found.balance()


def test_files_of_one_name_in_several_folders_are_several_files(tmp_path):
    names = []
    for n, folder in enumerate(("a", "b", "c/b")):
        (tmp_path / folder).mkdir(parents=True)
        names.append(str(jsonl(tmp_path / folder / "train.jsonl", {"query": f"q{n}", "passage": f"p{n}"})))
    found = Read(tmp_path, names)
    assert found.texts() == [("q0", "p0"), ("q1", "p1"), ("q2", "p2")]
    assert [each.relative for each in found.sets[0].files] == ["train.jsonl", "b/train.jsonl", "c/b/train.jsonl"]


def test_files_of_several_layouts_in_one_entry_are_told_apart_by_entries(tmp_path):
    jsonl(tmp_path / "a.jsonl", *pairs(2))
    jsonl(tmp_path / "b.jsonl", {"anchor": "a", "positive": "p"})
    with pytest.raises(InputError, match=r"b.jsonl: no column 'query'") as told:
        Read(tmp_path, ["a.jsonl", "b.jsonl"])
    assert "their own entry" in told.value.hint
    beir(tmp_path / "set")
    with pytest.raises(JobError, match="a BEIR folder among other paths"):
        Read(tmp_path, ["a.jsonl", "set"])


def test_what_is_half_recognised_is_told_with_the_half_that_is_missing(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"query": "q", "answers_found": [{"text": "p"}]})
    with pytest.raises(InputError, match="no column has a usual name of a passage"):
        Read(tmp_path, "a.jsonl")
    jsonl(tmp_path / "b.jsonl", {"query": {"text": "q"}, "passage": "p"})
    with pytest.raises(InputError, match="not text") as told:
        Read(tmp_path, "b.jsonl")
    assert "such as query.text" in told.value.hint


def test_the_types_of_json_lines_are_looked_for_once(tmp_path, monkeypatch):
    jsonl(tmp_path / "a.jsonl", *pairs(3))
    read, asked = text.rows, []
    monkeypatch.setattr(text, "rows", lambda *given: asked.append(given) or read(*given))
    assert len(Read(tmp_path, "a.jsonl").texts()) == 3
    assert len(asked) == 2  # once for the types, once for the rows


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_text("")
        with pytest.raises(InputError, match="the file is empty"):
            Read(tmp_path, name)


def test_of_a_run_only_shards_are_read(tmp_path):
    folder = tmp_path / "out" / "generated"
    folder.mkdir(parents=True)
    (tmp_path / "out" / "job.json").write_text("{}")
    for n in (1, 0):
        table = pa.table({"id": [f"{n}-0"], "query": [f"q{n}"], "passage": [f"p{n}"], "query_language": ["de"]})
        pq.write_table(table, folder / f"{n:08d}.parquet")
    pq.write_table(pa.table({"query": ["no"], "passage": ["no"]}), folder / "00000002-copy.parquet")
    for path in ("out", "out/generated"):
        found = Read(tmp_path, path, query_language="auto")
        assert found.texts() == [("q0", "p0"), ("q1", "p1")]
        assert found.layout.kind == "shards"
        assert found.layout.source == "out"
        assert found.pairs[0].query_language == "de"


def test_carried_parquet_columns_are_untouched(tmp_path):
    at = [datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), None]
    table = pa.table(
        {
            "query": ["a", "b"],
            "passage": ["c", "d"],
            "nested": pa.array([[{"x": 1, "y": ["u"]}], None]),
            "nanos": pa.array([1, 2**62], pa.timestamp("ns")),
            "decimal": pa.array([None, 3], pa.decimal128(20, 4)),
            "kind": pa.array(["x", "x"]).dictionary_encode(),
            "vector": pa.array([[0.5, 1.5], [2.5, 3.5]], pa.list_(pa.float16(), 2)),
            "at": pa.array(at),
            "bytes": pa.array([b"\xff\x00", b""]),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())),
            "none": pa.nulls(2),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = Read(tmp_path, "a.parquet")
    assert found.schema.names == table.column_names[2:]
    for name in found.schema.names:
        mapped = [[{"key": "k", "value": 1}], []]  # as `datasets` has no maps
        assert found.own[name].to_pylist() == (mapped if name == "map" else table[name].to_pylist()), name
        if name not in ("kind", "none", "map"):
            assert found.own[name].type == table[name].type, name


def test_a_key_that_first_shows_in_the_last_line_and_values_of_several_types_are_kept(tmp_path):
    rows = pairs(1500)
    rows[0] |= {"mixed": 1, "number": 1, "empty": {}}
    rows[1] |= {"mixed": "one", "number": 2.5}
    rows[-1] |= {"late": [{"deep": True}], "mixed": None}
    found = Read(tmp_path, jsonl(tmp_path / "a.jsonl", *rows).name)
    own = found.own.to_pylist()
    assert own[-1]["late"] == [{"deep": True}]
    assert [json.loads(each["mixed"]) for each in own[:2]] == [1, "one"]
    assert [each["number"] for each in own[:2]] == [1, 2.5]
    assert own[0]["empty"] == "{}"


def test_a_number_that_a_float_cannot_hold_rejects_its_row(tmp_path):
    rows = pairs(3)
    rows[0]["n"], rows[1]["n"], rows[2]["n"] = 0.5, 2**53 + 1, 7
    found = Read(tmp_path, jsonl(tmp_path / "a.jsonl", *rows).name)
    assert found.reasons() == ["carry"]
    assert found.own["n"].to_pylist() == [0.5, 7]


def test_csv_and_packed_files_and_several_paths(tmp_path):
    (tmp_path / "a.csv").write_text('question;answer;good\nwho?;"me; you";1\nwhy?;;0\n')
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"question": "how?", "answer": "so", "good": True, "extra": 5}) + "\n")
    found = Read(tmp_path, ["a.csv", "b.jsonl.gz"], label="good")
    assert found.texts() == [("who?", "me; you"), ("how?", "so")]
    assert [row.label for row in found.pairs] == [1.0, 1.0]
    assert [row.source_row for row in found.pairs] == [0, 2]
    assert found.own.to_pylist() == [{"extra": None}, {"extra": 5}]
    assert found.reasons() == ["empty"]
    found.balance()


def test_unusable_rows_are_rejected_and_every_row_is_accounted_for(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"query": "a", "passage": "b"}',
        b'{"query": null, "passage": "b"}',
        b'{"query": "a", "passage": 7}',
        b'{"query": "a", "passage": " \\u200b"}',
        b'{"query": "a\\ud800", "passage": "b"}',
        b'{"query": "a\\u0000", "passage": "b"}',
        b'{"query": "\xff", "passage": "b"}',
        b"{broken",
        b'{"query": "a", "passage": "b", "extra": "\\udc00"}',
        b'{"query": "z", "passage": "y"}',
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = Read(tmp_path, "a.jsonl")
    assert found.texts() == [("a", "b"), ("z", "y")]
    assert found.reasons() == ["empty", "type", "empty", "surrogate", "nul", "encoding", "json", "carry"]
    found.balance()
    with pytest.raises(InputError, match="row 1: empty"):
        Read(tmp_path, "a.jsonl", limits=ReadLimits(strict=True))


def test_languages_are_columns_constants_or_detected(tmp_path):
    text = "Der Hafen liegt an der Mündung des Flusses und ist im Winter eisfrei."
    rows = [
        {"query": "wo liegt der Hafen der Stadt", "passage": text, "lang": code} for code in ("deu_Latn", "klingon")
    ]
    path = jsonl(tmp_path / "a.jsonl", *rows).name
    assert {row.passage_language for row in Read(tmp_path, path, passage_language="auto").pairs} == {"de"}
    found = Read(tmp_path, path, query_language="lang", passage_language="German")
    assert [(row.query_language, row.passage_language) for row in found.pairs] == [("de", "de")]
    assert found.reasons() == ["language"]
    with pytest.raises(InputError, match="neither a language nor a column"):
        Read(tmp_path, path, query_language="langg")


def test_only_the_wanted_rows(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *pairs(3000)).name
    found = Read(tmp_path, path, only={5, 2999})
    assert [row.source_row for row in found.pairs] == [5, 2999]


def test_carry_names_columns(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *pairs(2, x=1, y=2)).name
    assert Read(tmp_path, path, carry=["y"]).schema.names == ["y"]
    assert Read(tmp_path, path, carry=[]).own is None
    with pytest.raises(InputError, match="no column 'z'"):
        Read(tmp_path, path, carry=["z"])


def test_paths_that_match_nothing_and_columns_of_the_wrong_type(tmp_path):
    with pytest.raises(JobError, match=r"data\.path"):
        Read(tmp_path, "none.jsonl")
    pq.write_table(pa.table({"query": [1], "passage": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="int64, not text"):
        Read(tmp_path, "a.parquet")
    pq.write_table(pa.table({"query": ["b"], "passage": ["b"], "x": [1]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"query": ["b"], "passage": ["b"], "x": ["y"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="field x"):
        Read(tmp_path, ["b.parquet", "c.parquet"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", ["cranfield", "covid_faq"])
def test_real_benchmarks_join_completely(name):
    folder = SHARED / "data" / "retrieval" / name
    found = Read(folder.parent, name)
    judged = pq.read_table(folder / "qrels.parquet").to_pylist()
    corpus = {row["id"]: row for row in pq.read_table(folder / "corpus.parquet").to_pylist()}
    queries = {row["id"]: row for row in pq.read_table(folder / "queries.parquet").to_pylist()}
    found.balance()
    for row, own in zip(found.pairs, found.own.to_pylist(), strict=True):
        given = judged[row.source_row]
        assert (own["query_id"], own["passage_id"], row.label) == (given["query_id"], given["doc_id"], given["score"])
        assert row.query == queries[given["query_id"]]["text"]
        assert row.passage == corpus[given["doc_id"]]["text"]
        assert own["passage_title"] == corpus[given["doc_id"]]["title"]
    assert len(found.pairs) == sum(row["score"] > 0 and bool(corpus[row["doc_id"]]["text"].strip()) for row in judged)
