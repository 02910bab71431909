from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption
from pydantic import ValidationError

from synth.errors import InputError, JobError
from synth.scores.contamination import described
from synth.sources import (
    Corpus,
    PairData,
    PassageRow,
    ReadLimits,
    RejectedRow,
    carried_schema,
    count_rows,
    inspect,
    inspect_pairs,
    read_passages,
    sample_rows,
)
from synth.sources.hub import Address, parse

SHARED = Path(__file__).parents[2].parent / "shared"
GOOD = "A passage that is long enough to be kept, number {}."
LIMITS = ReadLimits()


def corpus(path, **options):
    return Corpus(path=path, **{"language": "en", **options})


def outcomes(*args, **options):
    return [outcome for block in read_passages(*args, **options) for outcome in block.outcomes]


def read(folder, *corpora, limits=LIMITS, **options):
    return outcomes(corpora, inspect(corpora, folder, limits), limits, **options)


def carried_of(folder, *corpora):
    blocks = read_passages(corpora, inspect(corpora, folder, LIMITS), LIMITS)
    return [row.to_pylist()[0] for block in blocks for _, row in block.rows()]


def texts(outcomes):
    return [row.text for row in outcomes if isinstance(row, PassageRow)]


def reasons(outcomes):
    return [row.reason for row in outcomes if isinstance(row, RejectedRow)]


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# what is no corpus at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.jsonl", "missing.jsonl"),
        ("none/*.parquet", "*.parquet"),
        ("folder", "no .txt, .md or data file"),
    ],
)
def test_a_path_that_matches_nothing_is_a_mistake_of_the_job(tmp_path, path, said):
    (tmp_path / "folder").mkdir()
    with pytest.raises(JobError) as caught:
        inspect([corpus(path)], tmp_path, LIMITS)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def row_line(i=0):
    return json.dumps({"text": GOOD.format(i)}).encode() + b"\n"


BROKEN = {
    "empty.parquet": (b"", "an empty file"),
    "text.parquet": (b"just some text that is no Parquet", "not a complete Parquet file"),
    "utf16.jsonl": ('{"text": "x"}'.encode("utf-16"), "iconv"),
    "utf16le.jsonl": ('{"text": "x"}'.encode("utf-16-le"), "iconv"),
    "array.json": (b'\xef\xbb\xbf [{"text": "x"}]', "jq"),
    "pretty.json": (b'{\n  "text": "x"\n}\n', "jq"),
    "cut.jsonl.gz": (gzip.compress(row_line() * 9000)[:-40], "cut off or damaged"),
    "flipped.jsonl.gz": (gzip.compress(row_line() * 9)[:-8] + b"\0" * 8, "cut off or damaged"),
    "cut.jsonl.zst": (pa.Codec("zstd").compress(row_line() * 9000, asbytes=True)[:-40], "cut off or damaged"),
    "archive.zip": (b"PK\x03\x04", "archive"),
    "archive.tar.gz": (b"", "archive"),
    "zipped.jsonl": (b"PK\x03\x04 something", "zip archive"),
    "packed.jsonl.xz": (b"\xfd7zXZ\0", "unsupported kind of file"),
    "binary.docx": (b"PK", "unsupported kind of file"),
    "parquet.csv": (b"PAR1abc", "Parquet"),
    "long.jsonl": (b'{"text": "' + b"x" * 3000 + b'"}\n', "line 1 is longer"),
    "quote.csv": (b'text\n"never closed\nand more\n', "line 2"),
    "twice.csv": (b"text,text\na,b\n", "twice"),
    "header.csv": (b"t\xffxt\nabc\n", "header is not UTF-8"),
    "nothing.jsonl": (b"not json\nat all\n", "no JSON object"),
    "only-empty.jsonl": (b"", "the input files are empty"),
    "only-header.csv": (b"id,text\n", "the input files are empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_what_it_claims_to_be_is_refused(tmp_path, name):
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        inspect([corpus(name)], tmp_path, ReadLimits(max_line_bytes=2000))
    assert name in str(caught.value) or said == "the input files are empty"


def test_parquet_with_a_cut_tail_or_a_damaged_footer_is_refused(tmp_path):
    whole = parquet(tmp_path / "whole.parquet", text=[GOOD.format(i) for i in range(99)]).read_bytes()
    for name, content in {"cut": whole[:-20], "footer": whole[:-30] + b"\xff" * 20 + whole[-10:]}.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.parquet"):
            inspect([corpus(f"{name}.parquet")], tmp_path, LIMITS)


class _Keys(encryption.KmsClient):
    def __init__(self, _):
        super().__init__()

    def wrap_key(self, key, _):
        return key.hex()

    def unwrap_key(self, key, _):
        return bytes.fromhex(key)


@pytest.mark.parametrize(
    "how",
    [
        {"plaintext_footer": True, "column_keys": {"k": ["text"]}},
        {"plaintext_footer": True, "column_keys": {"k": ["more"]}},
        {"plaintext_footer": False, "column_keys": {"k": ["more"]}},
        {"uniform_encryption": True},
    ],
)
def test_encrypted_parquet_is_refused_by_name(tmp_path, how):
    settings = encryption.EncryptionConfiguration(footer_key="f", **how)
    keys = encryption.CryptoFactory(_Keys).file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    table = pa.table({"query": ["q"], "text": [GOOD], "more": [1]})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=keys) as file:
        file.write_table(table)
    for reading in (
        lambda: inspect([corpus("a.parquet")], tmp_path, LIMITS),
        lambda: inspect_pairs([PairData(path="a.parquet")], tmp_path, LIMITS),
        lambda: described([str(tmp_path / "a.parquet")], "files"),
    ):
        with pytest.raises(InputError, match=r"a\.parquet: has encrypted columns"):
            reading()


def test_pipes_folders_with_file_names_and_circular_links_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "round.jsonl").symlink_to("round.jsonl")
    (tmp_path / "broken.jsonl").symlink_to("nowhere.jsonl")
    for name in ("pipe.jsonl", "folder.parquet", "round.jsonl", "broken.jsonl", "folder.p*"):
        with pytest.raises(InputError, match=name.replace("*", "arquet")):
            inspect([corpus(name)], tmp_path, LIMITS)


def test_two_corpora_of_one_name_need_names(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": "x"})
    with pytest.raises(JobError, match="'a'"):
        inspect([corpus("a.jsonl"), corpus("a.jsonl")], tmp_path, LIMITS)


# which files, in what order -------------------------------------------------------------------------------------------


def test_files_are_sorted_by_the_bytes_of_their_relative_path(tmp_path):
    names = ["b.jsonl", "B.jsonl", "a/z.jsonl", "a-1.jsonl", "é.jsonl", ".hidden.jsonl"]
    (tmp_path / "in" / "a").mkdir(parents=True)
    for name in names:
        jsonl(tmp_path / "in" / name, {"text": name})
    files = inspect([corpus("in/**/*.jsonl")], tmp_path, LIMITS)
    assert [file.relative for file in files] == ["B.jsonl", "a-1.jsonl", "a/z.jsonl", "b.jsonl", "é.jsonl"]
    assert {file.source for file in files} == {"in"}
    assert files[0].sha256 != files[1].sha256


def test_links_to_files_are_followed_and_recorded_and_links_to_folders_are_not(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "deep.txt").write_text(GOOD)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.md").write_text(GOOD)
    (tmp_path / "notes" / "link.txt").symlink_to("one.md")
    (tmp_path / "notes" / "folder").symlink_to("../else")
    files = inspect([corpus("notes")], tmp_path, LIMITS)
    assert [file.relative for file in files] == ["link.txt", "one.md"]
    assert files[0].target == os.path.realpath(tmp_path / "notes" / "one.md")
    assert files[1].target is None


def test_a_name_with_brackets_is_a_name_before_it_is_a_pattern(tmp_path):
    jsonl(tmp_path / "part[1].jsonl", {"text": GOOD})
    assert len(read(tmp_path, corpus("part[1].jsonl"))) == 1


def test_known_files_are_hashed_again_only_when_size_or_time_differ(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": GOOD})
    first = inspect([corpus("a.jsonl")], tmp_path, LIMITS)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"kept", b"lost"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert inspect([corpus("a.jsonl")], tmp_path, LIMITS, known=first) == first
    assert inspect([corpus("a.jsonl")], tmp_path, LIMITS) != first


def test_a_file_that_changed_after_it_was_inspected_is_refused(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": GOOD})
    corpora = [corpus("a.jsonl")]
    files = inspect(corpora, tmp_path, LIMITS)
    os.utime(path, ns=(1, 1))
    assert len(outcomes(corpora, files, LIMITS)) == 1
    jsonl(path, {"text": GOOD}, {"text": "more"})
    with pytest.raises(InputError, match="changed since"):
        outcomes(corpora, files, LIMITS)


# every kind of file gives the same rows -------------------------------------------------------------------------------

ROWS = [{"id": f"d{i}", "text": GOOD.format(i), "title": f"T{i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv(delimiter, **options):
    def write(path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text", "title"], delimiter=delimiter, **options)
            writer.writeheader()
            writer.writerows(ROWS)

    return write


KINDS = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "bom.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    "no-newline.json": lambda path: path.write_bytes(LINES.rstrip()),
    "blank.jsonl": lambda path: path.write_bytes(b"\n" + LINES.replace(b"\n", b"\r\n \r\n")),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "two.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES[:100]) + gzip.compress(LINES[100:])),
    "a.jsonl.zst": lambda path: path.write_bytes(pa.Codec("zstd").compress(LINES, asbytes=True)),
    "a.csv": as_csv(","),
    "semicolon.csv": as_csv(";"),
    "a.tsv": as_csv("\t"),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "groups.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_every_kind_of_file(tmp_path, name):
    KINDS[name](tmp_path / name)
    files = inspect([corpus(name, title="title")], tmp_path, LIMITS)
    assert count_rows(files) == 5
    got = outcomes([corpus(name, title="title")], files, LIMITS)
    assert [(row.id, row.text, row.title) for row in got] == [(r["id"], r["text"], r["title"]) for r in ROWS]
    assert [(row.source_row, row.chunk, row.language) for row in got] == [(i, 0, "en") for i in range(5)]
    assert {row.source for row in got} == {name.partition(".")[0]}


@pytest.mark.parametrize("name", KINDS)
def test_only_reads_the_wanted_rows(tmp_path, name):
    KINDS[name](tmp_path / name)
    assert [row.id for row in read(tmp_path, corpus(name), only={1, 4})] == ["d1", "d4"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int16(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
)
def test_every_layout_of_text_in_parquet(tmp_path, kind):
    values = [GOOD.format(0), None, GOOD.format(1)]
    parquet(tmp_path / "a.parquet", text=pa.array(values, pa.string()).cast(kind))
    got = read(tmp_path, corpus("a.parquet"))
    assert texts(got) == [values[0], values[2]]
    assert reasons(got) == ["empty"]


def test_text_files_keep_every_byte_but_the_byte_order_mark(tmp_path):
    text = "Erste Zeile.\r\n\r\nZweite Zeile mit Grüßen.\r\n"
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "n" / "b.md").write_bytes("zu früh abge\xdf".encode("latin-1") * 3)
    (tmp_path / "n" / "c.md").write_bytes(b"")
    (tmp_path / "n" / "d.log").write_bytes(b"not read")
    got = read(tmp_path, corpus("n"))
    assert got[0].text == text
    assert [row.id for row in got] == ["a.txt", "b.md", "c.md"]
    assert reasons(got) == ["encoding", "empty"]
    assert "byte 5 " in got[1].detail


def test_an_empty_file_among_others_gives_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    jsonl(tmp_path / "b.jsonl", {"text": GOOD})
    files = inspect([corpus("*.jsonl", name="x")], tmp_path, LIMITS)
    assert [file.rows for file in files] == [0, 1]
    assert len(read(tmp_path, corpus("*.jsonl", name="x"))) == 1


def test_text_that_looks_odd_is_kept_byte_equal(tmp_path):
    odd = ["e\u0301" * 30, "\u202eright to left, said in the wrong way", "👩‍👩‍👧 family and {{ passage }} {% x %}" * 2]
    jsonl(tmp_path / "a.jsonl", *({"text": text} for text in odd))
    assert texts(read(tmp_path, corpus("a.jsonl"))) == odd


def test_fields_of_csv_may_be_long_and_hold_line_ends(tmp_path):
    long = 'Zeile eins.\r\nZeile "zwei".\n' + "x" * 200_000
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], [long]])
    assert texts(read(tmp_path, corpus("a.csv", max_chars=10**6))) == [long]


def test_fields_of_tsv_are_taken_as_they_are(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"Quoted," she said, and closed no quote: "\n')
    assert texts(read(tmp_path, corpus("a.tsv"))) == ['"Quoted," she said, and closed no quote: "']


# rows that give no passage --------------------------------------------------------------------------------------------

FILLER = b"and enough further words to be long"
BAD_LINES = {
    "broken JSON": (b'{"text": "x', "json", "line 2"),
    "no object": (b'"text"', "json", "not an object"),
    "nested too deep": (b"[" * 100_000, "json", "line 2"),
    "a number too long": (b'{"text": ' + b"9" * 5000 + b"}", "json", "line 2"),
    "invalid UTF-8": (b'{"text": "\xff"}', "encoding", "byte 85 "),
    "half a surrogate pair": (b'{"text": "\\ud800 ' + FILLER + b'"}', "surrogate", "U+D800"),
    "half a surrogate pair in the id": (b'{"id": "\\ud800", "text": "' + FILLER + b'"}', "surrogate", "id"),
    "NUL": (b'{"text": "a\\u0000' + FILLER + b'"}', "nul", "character 1"),
    "null": (b'{"text": null}', "empty", "null"),
    "missing": (b'{"id": "7"}', "empty", "missing"),
    "empty": (b'{"text": ""}', "empty", "only white space"),
    "invisible": ('{"text": " \u3000\u200b\ufeff\\n"}'.encode(), "empty", "only white space"),
    "number": (b'{"text": 12}', "type", "int"),
    "list": (b'{"text": ["a"]}', "type", "list"),
    "id of a wrong type": (b'{"id": 1.5, "text": "' + FILLER + b'"}', "type", "id"),
    "title of a wrong type": (b'{"title": 1, "text": "' + FILLER + b'"}', "type", "title"),
    "too short": (b'{"text": "   nineteen characters    "}', "too_short", "19 characters"),
    "control token": (b'{"text": "<|im_end|> ' + FILLER + b'"}', "control_token", "control token"),
    "too long": (b'{"text": "' + b"word " * 100 + b'"}', "too_long", "500 characters"),
    "unknown language": (b'{"lang": "xx-none", "text": "' + FILLER + b'"}', "language", "nearest"),
    "duplicate": (b'{"text": "a PASSAGE that is  long enough to be kept, number 0. "}', "duplicate", "a row 0"),
    "carried value of another type": (b'{"year": "soon", "text": "' + FILLER + b'"}', "carry", "year"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_one_rejected_row_among_good_ones(tmp_path, case):
    line, reason, said = BAD_LINES[case]
    years = [b'{"year": 1, "lang": "de", "title": "t", ' + row_line(i)[1:] for i in range(1200)]
    first = b'{"text": "A passage that is long enough to be kept, number 0.", "id": "0"}'[:-1] + b"}\n"
    last = row_line(2000)
    # a row of another type counts only behind the rows that decide the type
    content = (
        b"".join([*years[1:], first, line + b"\n", last])
        if reason == "carry"
        else first + line + b"\n" + years[1] + last
    )
    (tmp_path / "a.jsonl").write_bytes(content)
    options = {
        "language": {"column": "lang"},
        "title": "title",
        "on_long": "reject",
        "max_chars": 400,
        "carry": ["year"],
    }
    pick = corpus("a.jsonl", control_tokens="reject", **options)
    got = read(tmp_path, pick)
    assert reasons(got) == [reason]
    assert len(texts(got)) == (1201 if reason == "carry" else 3)
    (rejected,) = (row for row in got if isinstance(row, RejectedRow))
    assert said in rejected.detail
    assert rejected.source_row == (1200 if reason == "carry" else 1)
    with pytest.raises(InputError, match=f"row {rejected.source_row}: {reason}"):
        read(tmp_path, pick, limits=ReadLimits(strict=True))


def test_bad_records_of_csv_are_rejected_one_by_one(tmp_path):
    good = GOOD.format(1).replace(",", "").encode()
    lines = [b"id,text", b"1," + good, b"2,abc\xff", b"3," + good + b",more", b"4", b'5,"a"b', b"", b"6," + good]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    got = read(tmp_path, corpus("a.csv", duplicates="keep"))
    assert [row.id for row in got if isinstance(row, PassageRow)] == ["1", "6"]
    assert reasons(got) == ["encoding", "csv", "csv", "csv"]
    assert [row.source_row for row in got] == [0, 1, 2, 3, 4, 5]
    where = (tmp_path / "a.csv").read_bytes().index(b"\xff")
    assert f"byte {where} " in got[1].detail
    assert "line 6" in got[4].detail


def test_text_in_parquet_that_is_not_utf_8_is_one_rejected_row(tmp_path):
    path = parquet(tmp_path / "a.parquet", text=[GOOD.format("CUT"), GOOD.format(2)], tags=[["a"], ["CUT"]], n=[1, 2])
    path.write_bytes(path.read_bytes().replace(b"CUT", b"C\xfcT"))
    got = read(tmp_path, corpus("a.parquet"))
    assert reasons(got) == ["encoding"]
    assert got[0].source_row == 0
    assert "field text: byte 50" in got[0].detail
    assert reasons(read(tmp_path, corpus("a.parquet", carry=["tags"]))) == ["encoding", "encoding"]


# columns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "pasage"}, "Did you mean 'passage'?"),
        ({"id": "doc"}, "columns: key, passage, doc.id"),
        ({"carry": ["yaer"]}, "'yaer'"),
        ({"language": "klingon"}, "not a known language"),
        ({"language": {"column": "en"}}, "no column 'en'"),
        ({"text": "blob"}, "not text"),
        ({"text": "number"}, "not text"),
        ({"title": "number"}, "not text"),
    ],
)
def test_a_column_that_is_missing_or_no_text_is_refused_before_reading(tmp_path, options, said):
    values = {"key": ["a"], "passage": ["b"], "doc.id": ["c"], "blob": [b"d"], "number": [1], "price": [0.5]}
    parquet(tmp_path / "a.parquet", **values)
    with pytest.raises(InputError, match=r"a\.parquet") as caught:
        inspect([corpus("a.parquet", **options)], tmp_path, LIMITS)
    assert said in str(caught.value)


def test_no_usual_name_of_a_text_lists_the_columns(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"foo": 1}, {"bar": {"baz": 2}})
    with pytest.raises(InputError, match=r"columns: foo, bar, bar\.baz"):
        inspect([corpus("a.jsonl")], tmp_path, LIMITS)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_dotted_names_reach_into_structs(tmp_path, name):
    rows = [{"doc": {"body": GOOD.format(1), "n": 1}}, {"doc": None}, {"doc": {"body": None, "n": 2}}]
    jsonl(tmp_path / "a.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    got = read(tmp_path, corpus(name, text="doc.body", carry=["doc.n"]))
    assert texts(got) == [GOOD.format(1)]
    assert carried_of(tmp_path, corpus(name, text="doc.body", carry=["doc.n"])) == [{"doc.n": 1}]
    assert reasons(got) == ["empty", "empty"]


def test_ids_are_numbers_texts_or_the_place_in_the_file(tmp_path):
    (tmp_path / "in").mkdir()
    jsonl(tmp_path / "in" / "a.jsonl", *({"_id": i, "text": GOOD.format(i)} for i in (7, "x", None, "")))
    assert [row.id for row in read(tmp_path, corpus("in/*.jsonl", duplicates="keep"))] == [
        "7",
        "x",
        "a.jsonl:2",
        "a.jsonl:3",
    ]
    assert read(tmp_path, corpus("in/*.jsonl", id=None))[0].id == "a.jsonl:0"


def test_repeated_ids_are_told_once_and_lose_nothing(tmp_path):
    jsonl(tmp_path / "a.jsonl", *({"id": i % 2, "text": GOOD.format(i)} for i in range(6)))
    told = []
    assert len(texts(read(tmp_path, corpus("a.jsonl"), notify=told.append))) == 6
    assert len(told) == 1
    assert "4 duplicate ids" in told[0]
    assert "a row 0 and a row 2" in told[0]


# language -------------------------------------------------------------------------------------------------------------


def test_language_is_a_constant_a_column_or_detected(tmp_path):
    german = "Der Vertrag endet mit Ablauf des Jahres, wenn er nicht verlängert wird."
    rows = [("zho_Hans", GOOD.format(0)), ("German", GOOD.format(1)), (None, german), ("xx", GOOD.format(3))]
    jsonl(tmp_path / "a.jsonl", *({"en": code, "text": text} for code, text in rows))
    assert {row.language for row in read(tmp_path, corpus("a.jsonl", language="deu_Latn"))} == {"de"}
    got = read(tmp_path, corpus("a.jsonl", language={"column": "en"}))
    assert [row.language for row in got[:3]] == ["zh-Hans", "de", "de"]
    assert reasons(got) == ["language"]
    assert read(tmp_path, Corpus(path="a.jsonl"))[2].language == "de"


# duplicates -----------------------------------------------------------------------------------------------------------


def test_duplicates_name_the_first_across_files_and_corpora(tmp_path):
    (tmp_path / "in").mkdir()
    jsonl(tmp_path / "in" / "a.jsonl", {"text": GOOD.format(1)}, {"text": GOOD.format(2)})
    jsonl(tmp_path / "in" / "b.jsonl", {"text": GOOD.format(3)}, {"text": "Cafe\u0301 " + GOOD.format(4)})
    jsonl(tmp_path / "c.jsonl", {"text": GOOD.format(3).upper()}, {"text": "\n CAFÉ\u3000 " + GOOD.format(4)})
    got = read(tmp_path, corpus("in/*.jsonl"), corpus("c.jsonl"))
    assert [row.detail for row in got if isinstance(row, RejectedRow)] == [
        "the same text as in row 2",
        "the same text as in row 3",
    ]
    assert len(texts(read(tmp_path, corpus("in/*.jsonl"), corpus("c.jsonl", duplicates="keep")))) == 6


def test_thousands_of_texts_are_told_apart(tmp_path):
    rows = [{"text": GOOD.format(i % 9000)} for i in range(10_000)]
    got = read(tmp_path, corpus(jsonl(tmp_path / "a.jsonl", *rows).name))
    assert [row.source_row for row in got if isinstance(row, RejectedRow)] == list(range(9000, 10_000))
    assert got[9500].detail == "the same text as a row 500"


def test_a_rejected_row_is_not_the_first_of_its_duplicates(tmp_path):
    text = GOOD.format(1)
    jsonl(tmp_path / "a.jsonl", {"lang": "nope", "text": text}, {"lang": "en", "text": text})
    got = read(tmp_path, corpus("a.jsonl", language={"column": "lang"}))
    assert reasons(got) == ["language"]
    assert texts(got) == [text]


# long texts -----------------------------------------------------------------------------------------------------------


def test_long_passages_are_chunked_cut_or_rejected(tmp_path):
    long = " ".join(f"This is sentence number {i} of a long text." for i in range(40))
    jsonl(tmp_path / "a.jsonl", {"id": "d", "text": long}, {"id": "e", "text": GOOD})
    got = read(tmp_path, corpus("a.jsonl", max_chars=500))
    assert [(row.id, row.source_row, row.chunk) for row in got] == [
        *((f"d#{k}", 0, k) for k in range(len(got) - 1)),
        ("e", 1, 0),
    ]
    assert " ".join(texts(got)[:-1]) == long
    assert all(text.endswith(".") and 250 <= len(text) <= 500 for text in texts(got)[:-1])
    cut = read(tmp_path, corpus("a.jsonl", max_chars=500, on_long="truncate"))
    assert [row.id for row in cut] == ["d", "e"]
    assert long.startswith(cut[0].text)
    assert reasons(read(tmp_path, corpus("a.jsonl", max_chars=500, on_long="reject"))) == ["too_long"]


# carried columns ------------------------------------------------------------------------------------------------------


def test_carried_columns_keep_their_arrow_types(tmp_path):
    columns = {
        "text": pa.array([GOOD.format(1), GOOD.format(2)]),
        "when": pa.array([1, None], pa.timestamp("ns", "UTC")),
        "tags": pa.array([["a"], None], pa.list_(pa.string())),
        "size": pa.array([1, 2], pa.int8()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "raw": pa.array([b"\0\xff", None]),
    }
    parquet(tmp_path / "a.parquet", **columns)
    names = ["when", "tags", "size", "kind", "raw"]
    corpora = [corpus("a.parquet", carry=names)]
    files = inspect(corpora, tmp_path, LIMITS)
    schema = carried_schema(corpora, files, LIMITS)
    assert [str(field.type) for field in schema] == [
        "timestamp[ns, tz=UTC]",
        "list<element: string>",
        "int8",
        "string",
        "binary",
    ]
    blocks = read_passages(corpora, files, LIMITS, carried=schema)
    got = pa.concat_tables(block.carried for block in blocks)
    for name in names:
        assert got[name].combine_chunks().equals(columns[name].cast(schema.field(name).type))


def test_types_of_several_files_are_united_and_other_corpora_have_nulls(tmp_path):
    (tmp_path / "in").mkdir()
    parquet(tmp_path / "in" / "a.parquet", text=[GOOD.format(1)], n=pa.array([1], pa.int32()))
    parquet(tmp_path / "in" / "b.parquet", text=[GOOD.format(2)], n=pa.array([2**40], pa.int64()))
    parquet(tmp_path / "in" / "c.parquet", text=[GOOD.format(3)], n=pa.nulls(1))
    jsonl(tmp_path / "d.jsonl", {"text": GOOD.format(4), "m": {"k": [1.5]}})
    corpora = [corpus("in/*.parquet", carry=["n"]), corpus("d.jsonl", carry=["m"])]
    schema = carried_schema(corpora, inspect(corpora, tmp_path, LIMITS), LIMITS)
    assert schema.field("n").type == pa.int64()
    assert str(schema.field("m").type) == "struct<k: list<item: double>>"
    assert carried_of(tmp_path, *corpora) == [
        {"n": 1, "m": None},
        {"n": 2**40, "m": None},
        {"n": None, "m": None},
        {"n": None, "m": {"k": [1.5]}},
    ]


def test_types_that_cannot_be_united_name_both_files(tmp_path):
    (tmp_path / "in").mkdir()
    parquet(tmp_path / "in" / "a.parquet", text=[GOOD.format(1)], n=[1])
    parquet(tmp_path / "in" / "b.parquet", text=[GOOD.format(2)], n=["one"])
    corpora = [corpus("in/*.parquet", carry=["n"])]
    with pytest.raises(InputError, match=r"b\.parquet.*a\.parquet"):
        carried_schema(corpora, inspect(corpora, tmp_path, LIMITS), LIMITS)


@pytest.mark.parametrize(
    ("first", "late"),
    [
        (2**53 + 1, 1.5),
        (1, True),
        (1, 2**70),
        (1.5, 2**60 + 1),
        ("a", 1),
        ("a", "\ud800"),
        ([1], ["x"]),
    ],
)
def test_a_late_value_that_would_lose_something_is_rejected(tmp_path, first, late):
    rows = [{"text": GOOD.format(i), "v": first} for i in range(1001)]
    jsonl(tmp_path / "a.jsonl", *rows, {"text": GOOD.format(2000), "v": late}, {"text": GOOD.format(2001), "v": None})
    got = read(tmp_path, corpus("a.jsonl", carry=["v"]))
    assert reasons(got) == ["carry"]
    assert len(got) == 1003


# damage and bombs -----------------------------------------------------------------------------------------------------


def test_a_zeroed_page_names_file_and_row_group_after_the_rows_before_it(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [GOOD.format(i) for i in range(2000)]
    pq.write_table(pa.table({"text": rows}), path, row_group_size=1000, compression="none", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)
    corpora = [corpus("a.parquet")]
    got = []
    with pytest.raises(InputError, match=r"a\.parquet: row group 1"):
        got.extend(read_passages(corpora, inspect(corpora, tmp_path, LIMITS), LIMITS))
    rows_before = read_passages(corpora, inspect(corpora, tmp_path, LIMITS), LIMITS)
    assert [row.text for row in next(rows_before).outcomes] == rows[:1000]


@pytest.mark.parametrize("encoding", ["dictionary", "shared prefixes", "plain"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, encoding):
    options = {
        "dictionary": {},
        "shared prefixes": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
        "plain": {"use_dictionary": False},
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 1_000_000] * 40}), path, compression="zstd", **options[encoding])
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.parquet: row group 0"):
        read(tmp_path, corpus("a.parquet"), limits=ReadLimits(max_batch_bytes=500_000))
    with pytest.raises(InputError, match=r"row group 0: a text of 1000000 bytes"):
        read(tmp_path, corpus("a.parquet"), limits=ReadLimits(max_line_bytes=500_000))
    assert len(read(tmp_path, corpus("a.parquet", duplicates="keep", on_long="truncate"))) == 40


# samples, hub, options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/v1.2/*.parquet", "v1.2"),
        ("data/a.b.jsonl.gz", "a.b"),
        ("notes/", "notes"),
        ("*.jsonl", "corpus"),
        ("../x.csv", "x"),
        ("hf://owner/na.me@v1#en/test", "na.me"),
    ],
)
def test_the_source_is_called_after_the_path(path, name):
    assert Corpus(path=path).source == name


@pytest.mark.parametrize(("total", "n"), [(10, 3), (1000, 999), (7, 7), (3, 10), (10**12, 5), (0, 4)])
def test_a_sample_is_spread_evenly(total, n):
    rows = sorted(sample_rows(total, n))
    assert len(rows) == min(n, total)
    assert all(0 <= row < total for row in rows)
    gaps = {b - a for a, b in pairwise(rows)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_sample_runs_through_files_and_corpora(tmp_path):
    jsonl(tmp_path / "a.jsonl", *({"text": GOOD.format(i)} for i in range(10)))
    parquet(tmp_path / "b.parquet", text=[GOOD.format(i) for i in range(10, 30)])
    corpora = [corpus("a.jsonl"), corpus("b.parquet")]
    files = inspect(corpora, tmp_path, LIMITS)
    got = outcomes(corpora, files, LIMITS, only=sample_rows(count_rows(files), 3))
    assert [(row.source, row.source_row) for row in got] == [("a", 5), ("b", 5), ("b", 15)]
    assert texts(got) == [GOOD.format(5), GOOD.format(15), GOOD.format(25)]


def test_addresses_on_the_hub():
    assert parse("hf://owner/name") == Address("owner/name", None, None, "train")
    assert parse("hf://datasets/owner/na.me@refs/pr/1#en/test") == Address("owner/na.me", "refs/pr/1", "en", "test")
    assert parse("hf://owner/name#dev") == Address("owner/name", None, None, "dev")
    assert Corpus(path="hf://owner/name@main#en/test").source == "name"
    with pytest.raises(JobError, match="owner/name"):
        parse("hf://owner")


def test_no_hub_says_what_to_do_instead(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="Download the data set"):
        inspect([corpus("hf://owner/name")], tmp_path, LIMITS)


@pytest.mark.parametrize(
    "options", [{"min_chars": 50, "max_chars": 40}, {"max_chars": 0}, {"path": ""}, {"sede": 3}, {"min_chars": "3"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError):
        Corpus(**{"path": "a", **options})


def test_options_can_be_hashed_and_say_what_they_are():
    assert hash(corpus("a", carry=["x"])) == hash(corpus("a", carry=["x"]))
    assert corpus("a", carry=["x"]).identity()["carry"] == ["x"]


def test_real_corpora_lose_no_row():
    folder = SHARED / "data"
    if not folder.exists():
        pytest.skip("no shared data here")
    corpora = [
        corpus("retrieval/cranfield/corpus.parquet", name="cranfield"),
        corpus("personas/*.jsonl", text="persona"),
    ]
    files = inspect(corpora, folder, LIMITS)
    got = outcomes(corpora, files, LIMITS)
    assert len({(row.source, row.source_row) for row in got}) == count_rows(files)
    empty = [row.id for row in got if isinstance(row, RejectedRow) and row.source == "cranfield"]
    assert empty == ["471", "995"]
    assert Counter(type(row) for row in got)[RejectedRow] == len(empty)
