"""What other programs write, synth reads back equal, or it rejects whole rows with a reason."""

from __future__ import annotations

import csv
import json
from itertools import count

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth.errors import InputError
from synth.exports._export import Files
from synth.exports.beir import Beir
from synth.sources import (
    Corpus,
    PairData,
    ReadLimits,
    RejectedRow,
    inspect,
    inspect_pairs,
    pair_files,
    pairs_schema,
    read_pairs,
    read_passages,
)

LIMITS = ReadLimits()
EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
NASTY = st.sampled_from("\"\"''\\\\,;|\t\r\n  #é中ab\u0085\u2028\ufeff\0")
TEXT = st.text(NASTY | st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(TEXT, min_size=1, max_size=6).map(lambda found: [(f"d{n}", text) for n, text in enumerate(found)])
_numbers = count()


def place(folder, name):
    """A name that no example had before: what is known of a file is remembered by it."""
    inner = folder / str(next(_numbers))
    inner.mkdir()
    return inner / name


def frame(rows):
    return pl.DataFrame(rows, schema=["id", "text"], orient="row")


def with_csv(**options):
    """Python's writer does not quote a line end other than its own; and what it escapes shows only by an example."""
    own = options.get("lineterminator", "\r\n")
    shown = [("z", 'a "quoted" word, and a line')] if "escapechar" in options else []

    def write(path, rows):
        rows[:] = [(i, text if own == "\r\n" else text.replace("\r" if own == "\n" else "\n", "")) for i, text in rows]
        rows += shown
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, **options).writerows([("id", "text"), *rows])

    return write


def with_json(*, ascii_only):
    def write(path, rows):
        lines = (json.dumps({"id": i, "text": t}, ensure_ascii=ascii_only) + "\n" for i, t in rows)
        path.write_text("".join(lines), encoding="utf-8", newline="")

    return write


WRITERS = {
    "csv.csv": with_csv(),
    "semicolon.csv": with_csv(delimiter=";", lineterminator="\n"),
    "all.csv": with_csv(quoting=csv.QUOTE_ALL),
    "mac.csv": with_csv(lineterminator="\r"),
    "escape.csv": with_csv(doublequote=False, escapechar="\\"),
    "none.csv": with_csv(quoting=csv.QUOTE_NONE, escapechar="\\"),
    "csv.tsv": with_csv(delimiter="\t"),
    "all.tsv": with_csv(delimiter="\t", quoting=csv.QUOTE_ALL),
    "polars.csv": lambda path, rows: frame(rows).write_csv(path),
    "polars.tsv": lambda path, rows: frame(rows).write_csv(path, separator="\t"),
    "json.jsonl": with_json(ascii_only=False),
    "ascii.jsonl": with_json(ascii_only=True),
    "polars.jsonl": lambda path, rows: frame(rows).write_ndjson(path),
    "polars.parquet": lambda path, rows: frame(rows).write_parquet(path),
    "arrow.parquet": lambda path, rows: pq.write_table(frame(rows).to_arrow(), path, row_group_size=2),
    "polars.arrow": lambda path, rows: frame(rows).write_ipc(path),
}


@pytest.mark.parametrize("name", WRITERS)
@EXAMPLES
@given(rows=ROWS)
def test_passages_are_read_back_equal_or_rejected_with_a_reason(tmp_path, name, rows):
    path = place(tmp_path, name)
    WRITERS[name](path, rows)
    corpora = [Corpus(path=str(path), language="en", min_chars=0, duplicates="keep", control_tokens="keep")]
    files = inspect(corpora, tmp_path, LIMITS)
    outcomes = [each for block in read_passages(corpora, files, LIMITS) for each in block.outcomes]
    assert len(outcomes) == files[0].rows == len(rows)
    for outcome, row in zip(outcomes, rows, strict=True):
        if isinstance(outcome, RejectedRow):
            assert outcome.reason in {"empty", "nul"}
        else:
            assert (outcome.id, outcome.text) == row


@EXAMPLES
@given(content=st.binary(max_size=60) | st.text(NASTY | st.sampled_from("ab1"), max_size=60).map(str.encode))
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.parquet", "a.arrow"])
def test_any_bytes_are_rows_or_an_error_that_names_the_file(tmp_path, name, content):
    path = place(tmp_path, name)
    path.write_bytes(
        (b"" if name.endswith(("t", "w")) else b"id,text\n" if name == "a.csv" else b"id\ttext\n") + content
    )
    corpora = [Corpus(path=str(path), language="en", duplicates="keep")]
    said = str(path)
    try:
        files = inspect(corpora, tmp_path, LIMITS)
        outcomes = [each for block in read_passages(corpora, files, LIMITS) for each in block.outcomes]
    except InputError as exc:
        said = str(exc)
    else:
        assert sum(isinstance(each, RejectedRow) or each.first for each in outcomes) == files[0].rows
    assert str(path) in said or "the input files are empty" in said


PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5)


def message(text):
    return [{"role": "user", "content": text}]


def beir(path, rows):
    with Files(path) as files:
        files.text("qrels/test.tsv", "query-id\tcorpus-id\tscore\n")
        for n, (query, passage) in enumerate(rows):
            Beir().query(files, f"{query}{n}", query)
            Beir().passage(files, f"{passage}{n}", "", passage)
            Beir().judgement(files, "test", f"{query}{n}", f"{passage}{n}", 1)


def lines(make):
    def write(path, rows):
        path.write_text("".join(json.dumps(make(*row)) + "\n" for row in rows), encoding="utf-8")

    return write


LAYOUTS = {
    "beir": beir,
    "columns.jsonl": lines(lambda query, passage: {"query": query, "passage": passage}),
    "flag.jsonl": lines(lambda query, passage: {"query": query, "pos": [passage], "neg": []}),
    "swift.jsonl": lines(lambda query, passage: {"messages": message(query), "positive_messages": [message(passage)]}),
    "tevatron.jsonl": lines(lambda query, passage: {"query": query, "positive_passages": [{"text": passage}]}),
    "pairs.csv": lambda path, rows: frame(rows).rename({"id": "query", "text": "passage"}).write_csv(path),
    "pairs.parquet": lambda path, rows: frame(rows).rename({"id": "anchor", "text": "positive"}).write_parquet(path),
}


@pytest.mark.parametrize("name", LAYOUTS)
@EXAMPLES
@given(rows=PAIRS)
def test_pairs_are_read_back_equal_or_rejected_with_a_reason(tmp_path, name, rows):
    path = place(tmp_path, name)
    LAYOUTS[name](path, rows)
    sets = inspect_pairs([PairData(path=str(path), query_language="en", passage_language="en")], tmp_path, LIMITS)
    schema = pairs_schema(sets, LIMITS)
    outcomes = [each for block in read_pairs(sets, schema, LIMITS) for each in block.outcomes]
    assert len(outcomes) == sum(each.rows for each in pair_files(sets)) == len(rows)
    for outcome, row in zip(outcomes, rows, strict=True):
        if isinstance(outcome, RejectedRow):
            assert outcome.reason in {"empty", "nul"}
        else:
            assert (outcome.query, outcome.passage) == row
