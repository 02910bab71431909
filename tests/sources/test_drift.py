"""Ids and columns whose type changes from file to file or from row to row, or is none that `datasets` knows."""

import datetime as dt
import decimal
import json
import uuid

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import rows

import synth
from synth.cli import main
from synth.errors import InputError, JobError
from synth.sources import (
    Corpus,
    PairData,
    PairRow,
    PassageRow,
    ReadLimits,
    carried_schema,
    inspect,
    inspect_pairs,
    pairs_schema,
    read_pairs,
    read_passages,
)

LIMITS = ReadLimits()
TEXT = "The ferry to the island number {} leaves the harbour at seven every morning."
ONE = uuid.UUID("12345678-1234-5678-1234-567812345678")
ENGLISH = {"query_language": "en", "passage_language": "en"}


def passages(folder, **corpus):
    corpora = [Corpus.model_validate({"path": "a", "language": "en"} | corpus)]
    files = inspect(corpora, folder, LIMITS)
    schema = carried_schema(corpora, files, LIMITS)
    blocks = list(read_passages(corpora, files, LIMITS, carried=schema))
    found = [each for block in blocks for each in block.outcomes]
    own = pa.concat_tables([block.carried for block in blocks if block.carried.num_columns] or [pa.table({})])
    return [each for each in found if isinstance(each, PassageRow)], found, own


def pairs_of(folder, path, **data):
    sets = inspect_pairs([PairData.model_validate({"path": path, **ENGLISH, **data})], folder, LIMITS)
    schema = pairs_schema(sets, LIMITS)
    blocks = list(read_pairs(sets, schema, LIMITS))
    found = [each for block in blocks for each in block.outcomes]
    own = pa.concat_tables([block.carried for block in blocks])
    return [each for each in found if isinstance(each, PairRow)], found, own


def jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


# types that `datasets` does not know --------------------------------------------------------------------------------


def extension(kind, values, storage):
    return pa.ExtensionArray.from_storage(kind, pa.array(values, storage))


UUIDS = extension(pa.uuid(), [None, ONE.bytes, ONE.bytes], pa.binary(16))
MAP = pa.map_(pa.string(), pa.int32())
KINDS = {
    "uuid": (UUIDS, [None, str(ONE), str(ONE)]),
    "bool8": (extension(pa.bool8(), [1, None, 0], pa.int8()), [True, None, False]),
    "json": (extension(pa.json_(), ['{"a": 1}', None, "2"], pa.string()), ['{"a": 1}', None, "2"]),
    "tensor": (
        extension(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
        [[1, 2], [3, 4], [5, 6]],
    ),
    "opaque": (extension(pa.opaque(pa.binary(), "t", "v"), [b"a", None, b""], pa.binary()), [b"a", None, b""]),
    "decimal32": (pa.array([decimal.Decimal("1.5"), None, decimal.Decimal(2)], pa.decimal32(5, 1)), None),
    "decimal64": (pa.array([decimal.Decimal("1.5"), None, decimal.Decimal(2)], pa.decimal64(12, 1)), None),
    "list_view": (pa.array([[1], None, [2, 3]], pa.list_view(pa.int8())), [[1], None, [2, 3]]),
    "large_list_view": (pa.array([[1], None, []], pa.large_list_view(pa.int8())), [[1], None, []]),
    "map": (
        pa.array([[("k", 1), ("l", None)], None, []], MAP),
        [[{"key": "k", "value": 1}, {"key": "l", "value": None}], None, []],
    ),
    "map of times": (
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.timestamp("ns"))),
        [[{"key": "k", "value": np.datetime64(1, "ns")}], None, []],
    ),
    "list of maps": (
        pa.array([[[("k", 1)], []], None, []], pa.list_(MAP)),
        [[[{"key": "k", "value": 1}], []], None, []],
    ),
    "list of uuids": (pa.ListArray.from_arrays([0, 1, 1, 3], UUIDS), [[None], [], [str(ONE), str(ONE)]]),
    "fixed list of uuids": (
        pa.FixedSizeListArray.from_arrays(pa.concat_arrays([UUIDS, UUIDS]), 2),
        [[None, str(ONE)], [str(ONE), None], [str(ONE), str(ONE)]],
    ),
    "struct of uuids": (
        pa.StructArray.from_arrays([UUIDS, pa.array([1, 2, 3])], ["u", "n"], mask=pa.array([False, True, False])),
        [{"u": None, "n": 1}, None, {"u": str(ONE), "n": 3}],
    ),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "text view": (pa.array(["a", None, "b"], pa.string_view()), ["a", None, "b"]),
    "date64": (pa.array([dt.date(2020, 1, 1), None, None], pa.date64()), [dt.date(2020, 1, 1), None, None]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_carried_as_one_that_datasets_knows(kind, tmp_path):
    column, wanted = KINDS[kind]
    texts = [TEXT.format(n) for n in range(3)]
    table = pa.table({"query": ["a", "b", "c"], "passage": texts, "own": column})
    pq.write_table(table, tmp_path / "a.parquet")
    kept, _, own = pairs_of(tmp_path, "a.parquet")
    assert len(kept) == 3
    again, _, carried = passages(tmp_path, path="a.parquet", text="passage", carry=["own"])
    assert len(again) == 3
    datasets.Features.from_arrow_schema(own.schema)
    assert own["own"].combine_chunks().equals(carried["own"].combine_chunks())
    if kind == "map of times":
        assert own["own"].combine_chunks().values.field(1).cast(pa.int64()).to_pylist() == [1]
        return
    assert own["own"].to_pylist() == (column.to_pylist() if wanted is None else wanted)
    # of rows that are not all used, too
    assert pairs_of(tmp_path, "a.parquet")[2].slice(1)["own"].to_pylist() == own["own"].to_pylist()[1:]


def test_a_folder_of_any_column_is_loaded_by_datasets(tmp_path):
    columns = {name.replace(" ", "_"): column for name, (column, _) in KINDS.items() if name != "map of times"}
    table = pa.table({"query": ["a", "b", " "], "passage": [TEXT.format(n) for n in range(3)], **columns})
    pq.write_table(table, tmp_path / "a.parquet")
    words = ["-o", str(tmp_path / "out"), "-s", "embed=null", "-s", "scores=[{use: length}]"]
    assert main(["filter", str(tmp_path / "a.parquet"), *words]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), "kept", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["uuid"][:] == [None, str(ONE)]
    assert main(["export", str(tmp_path / "out"), "--to", "hub", "-o", str(tmp_path / "hub")]) == 0


# columns that begin otherwise than they go on ------------------------------------------------------------------------

LATE = {
    "null": ([None], 7, "int64"),
    "absent": ([], 7, "int64"),
    "whole": ([1], 1.5, "double"),
    "empty list": ([[]], ["x"], "list<item: string>"),
    "null in a struct": ([{"k": None}], {"k": "x"}, "struct<k: string>"),
    "fewer keys": ([{"k": 1}], {"k": 1, "z": [2.5]}, "struct<k: int64, z: list<item: double>>"),
}


@pytest.mark.parametrize("kind", LATE)
def test_a_column_that_begins_without_its_type_keeps_its_later_values(kind, tmp_path):
    first, late, wanted = LATE[kind]
    early = {"year": first[0]} if first else {}
    lines = [{"text": TEXT.format(n), **early} for n in range(1001)] + [{"text": TEXT.format(2000), "year": late}]
    jsonl(tmp_path / "a.jsonl", lines)
    kept, found, own = passages(tmp_path, path="a.jsonl", carry=["year"])
    assert len(kept) == len(found) == 1002
    assert str(own.schema.field("year").type) == wanted
    assert own["year"].to_pylist()[-1] == late
    datasets.Features.from_arrow_schema(own.schema)


def test_a_dotted_column_may_come_late_and_a_missing_one_is_refused(tmp_path):
    lines = [{"text": TEXT.format(n)} for n in range(1001)] + [{"text": TEXT.format(2000), "meta": {"year": 7}}]
    jsonl(tmp_path / "a.jsonl", lines)
    *_, own = passages(tmp_path, path="a.jsonl", carry=["meta.year"])
    assert own["meta.year"].to_pylist()[-1] == 7
    with pytest.raises(InputError, match="no column 'yaer'"):
        passages(tmp_path, path="a.jsonl", carry=["yaer"])


# ids ----------------------------------------------------------------------------------------------------------------

IDS = {
    "float": pa.array([1.0, 2.0, None]),
    "nan": pa.array([1.0, 2.0, float("nan")], pa.float64()),
    "decimal": pa.array([decimal.Decimal(1), decimal.Decimal(2), None], pa.decimal128(20, 2)),
    "int": pa.array([1, 2, None]),
    "text": pa.array(["1", "2", None]),
    "text of floats": pa.array(["1.0", "2.0", ""]),
}


def beir(folder, corpus, queries, judged):
    folder.mkdir()
    pq.write_table(pa.table({"_id": corpus, "text": [TEXT.format(n) for n in range(3)]}), folder / "corpus.parquet")
    pq.write_table(pa.table({"_id": queries, "text": ["a", "b", "c"]}), folder / "queries.parquet")
    qrels = pa.table({"query-id": judged, "corpus-id": judged, "score": [1, 2, 1]})
    pq.write_table(qrels, folder / "qrels.parquet")


@pytest.mark.parametrize("judged", IDS)
@pytest.mark.parametrize("named", IDS)
def test_ids_are_the_same_whatever_type_holds_them(named, judged, tmp_path):
    beir(tmp_path / "b", IDS[named], IDS["int"], IDS[judged])
    kept, found, own = pairs_of(tmp_path, "b")
    assert [(row.query, row.passage) for row in kept] == [("a", TEXT.format(0)), ("b", TEXT.format(1))]
    assert own["query_id"].to_pylist()[:2] == ["1", "2"] if judged != "text of floats" else True
    assert [row.reason for row in found if row not in kept] == ["unresolved"]  # no id is no id, here and there


def test_ids_of_text_that_look_like_floats_stay_apart(tmp_path):
    versions = pa.array(["1.0", "1", "1.00"])
    beir(tmp_path / "b", versions, versions, versions)
    kept, _, own = pairs_of(tmp_path, "b")
    assert [row.passage for row in kept] == [TEXT.format(n) for n in range(3)]
    assert own["passage_id"].to_pylist() == ["1.0", "1", "1.00"]


def test_ids_in_csv_that_pandas_made_floats_are_found(tmp_path):
    (tmp_path / "b" / "qrels").mkdir(parents=True)
    jsonl(tmp_path / "b" / "corpus.jsonl", [{"_id": n, "text": TEXT.format(n)} for n in range(3)])
    jsonl(tmp_path / "b" / "queries.jsonl", [{"_id": float(n), "text": f"question {n}"} for n in range(3)])
    (tmp_path / "b" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1.0\t1.0\t1\n2\t2.0\t1\n")
    kept, _, _ = pairs_of(tmp_path, "b")
    assert [row.query for row in kept] == ["question 1", "question 2"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_ids_of_passages_may_be_floats_or_uuids(name, tmp_path):
    ids = [3.0, None, 4.5, float(2**60)]
    table = pa.table({"id": pa.array(ids), "text": [TEXT.format(n) for n in range(4)]})
    pq.write_table(table, tmp_path / "a.parquet")
    jsonl(tmp_path / "a.jsonl", table.to_pylist())
    kept, found, _ = passages(tmp_path, path=name)
    assert [row.id for row in kept] == ["3", f"{name}:1"]
    assert [row.reason for row in found if row not in kept] == ["type", "type"]
    pq.write_table(pa.table({"id": UUIDS, "text": [TEXT.format(n) for n in range(3)]}), tmp_path / "u.parquet")
    kept, _, _ = passages(tmp_path, path="u.parquet")
    assert [row.id for row in kept] == ["u.parquet:0", str(ONE), str(ONE)]


# columns of others with names of ours --------------------------------------------------------------------------------


def filtered(folder, lines, *words):
    jsonl(folder / "pairs.jsonl", lines)
    given = [str(folder / "pairs.jsonl"), "-o", str(folder / "out"), "-s", "embed=null", "-s", "scores=[{use: length}]"]
    assert main(["filter", *given, *words]) == 0
    return rows(folder / "out", "generated"), rows(folder / "out", "kept")


@pytest.mark.parametrize(
    "foreign",
    [
        {"length_min": "3", "length_max": "seven"},
        {"length_min": 3},
        {"length_unit": "metres", "length_max": 9},
        {"question_type": "keywords", "character": ["a"], "model": 5, "attempts": "many", "repaired": "no"},
        {"template": None, "revision": {"a": 1}, "prompt_tokens": 2.5, "retry_of": 7, "task": 1, "difficulty": "hard"},
    ],
)
def test_columns_of_others_with_our_names_are_renamed_and_not_interpreted(foreign, tmp_path, capsys):
    made, kept = filtered(tmp_path, [{"query": "where is it", "passage": TEXT.format(n), **foreign} for n in range(3)])
    for row in (*made, *kept):
        assert {name: row.get(f"input_{name}") for name in foreign} == foreign
        assert not foreign.keys() & row.keys()
    assert [row["length_error"] for row in kept] == [None] * 3
    assert "columns renamed: " in capsys.readouterr().err
    assert main(["show", str(tmp_path / "out")]) == 0


def test_columns_of_our_own_shards_keep_their_meaning(tmp_path):
    jsonl(tmp_path / "docs.jsonl", [{"text": TEXT.format(n), "label": n} for n in range(3)])
    corpus = {"path": str(tmp_path / "docs.jsonl"), "carry": ["label"], "language": "en"}
    job = {"corpus": corpus, "llm": {"use": "extractive"}, "personas": None, "scores": [{"use": "length"}], "keep": {}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    assert main(["run", str(tmp_path / "job.yaml"), "-o", str(tmp_path / "first")]) == 0
    before = rows(tmp_path / "first", "kept")
    assert [row["input_label"] for row in before] == [
        row["length_min"] and int(row["passage_id"][-1]) for row in before
    ]
    words = ["-o", str(tmp_path / "again"), "-s", "embed=null", "-s", "scores=[{use: length}]"]
    assert main(["filter", str(tmp_path / "first"), *words]) == 0
    after = rows(tmp_path / "again", "kept")
    for name in ("length_min", "length_unit", "question_type", "length_error"):
        assert [row[name] for row in after] == [row[name] for row in before]


@pytest.mark.parametrize(
    "column", [[1, "one"], pa.array([None, None], pa.month_day_nano_interval())], ids=["mixed", "interval"]
)
def test_rows_in_memory_that_parquet_cannot_hold_are_refused(column, tmp_path):
    texts = [TEXT.format(n) for n in range(2)]
    dicts = isinstance(column, list)
    lines = [{"text": text, "n": n} for text, n in zip(texts, column, strict=True)] if dicts else None
    with pytest.raises(JobError, match="cannot be written as Parquet"):
        synth.generate(lines or pa.table({"text": texts, "n": column}), llm="extractive", out=tmp_path / "out")
