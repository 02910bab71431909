"""CSV and TSV as all kinds of programs write them, and what becomes of records that are malformed."""

from __future__ import annotations

import csv
import gzip
import io

import pytest

from synth.errors import InputError
from synth.sources import Corpus, PassageRow, ReadLimits, RejectedRow, inspect, read_passages

LIMITS = ReadLimits()
GOOD = "A passage that is long enough to be kept, number {}."
HARD = [
    GOOD.format(0),
    'She said "enough is enough", and left; nobody followed her.',
    "Two lines,\nthe second with a \\ and a tab\there, and an ' apostrophe.",
    '"All of it in quotes, from the first to the last word."',
    "'Single quotes at the start', and | in the middle; no \"pair",
    "Windows ends its lines so:\r\nand an old Mac so:\rwhich is the end.",
    'A last backslash comes before the quote: \\"and at the end \\',
]


def write(path, content, newline="\n"):
    path.write_bytes(content.replace("\n", newline).encode() if isinstance(content, str) else content)
    return path.name


def read(folder, name, **options):
    corpora = [Corpus(path=name, language="en", duplicates="keep", **options)]
    files = inspect(corpora, folder, LIMITS)
    found = [each for block in read_passages(corpora, files, LIMITS) for each in block.outcomes]
    assert len(found) == files[0].rows
    return found


def texts(found):
    return [(each.id, each.text) for each in found if isinstance(each, PassageRow)]


def rejected(found):
    return [each for each in found if isinstance(each, RejectedRow)]


def dialects():
    for name, delimiter in (("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")):
        yield name, {"delimiter": delimiter}
        yield name, {"delimiter": delimiter, "quoting": csv.QUOTE_ALL}
        yield name, {"delimiter": delimiter, "quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}
        yield name, {"delimiter": delimiter, "doublequote": False, "escapechar": "\\"}
        yield name, {"delimiter": delimiter, "quoting": csv.QUOTE_NONE, "escapechar": "\\"}
    yield "a.csv", {"quotechar": "'"}
    yield "a.csv", {"quotechar": "'", "quoting": csv.QUOTE_ALL}
    yield "a.csv", {"lineterminator": "\r\r\n"}


@pytest.mark.parametrize(("name", "options"), list(dialects()), ids=str)
def test_what_pythons_csv_writes_is_read_back_equal(tmp_path, name, options):
    wanted = [(f"d{n}", text) for n, text in enumerate(HARD)]
    with (tmp_path / name).open("w", newline="") as file:
        csv.writer(file, **options).writerows([("id", "text"), *wanted])
    assert texts(read(tmp_path, name)) == wanted


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_carriage_returns_alone_end_lines(tmp_path, quoting):
    wanted = [(f"d{n}", text) for n, text in enumerate(HARD)]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r", quoting=quoting).writerows([("id", "text"), *wanted])
    for name, content in (("a.csv", text.getvalue().encode()), ("b.csv", b"\xef\xbb\xbf" + text.getvalue().encode())):
        assert texts(read(tmp_path, write(tmp_path / name, content))) == wanted
    assert texts(read(tmp_path, write(tmp_path / "c.csv.gz", gzip.compress(text.getvalue().encode())))) == wanted
    assert len(read(tmp_path, write(tmp_path / "d.tsv", f"id\ttext\r1\t{GOOD}\r2\t{GOOD}"))) == 2


def test_an_escape_character_before_any_other_is_itself(tmp_path):
    write(tmp_path / "a.csv", 'id,text\n1,"Saved in C:\\docs\\new, \\"as is\\""\n2,"It is C:\\temp, too"\n')
    assert texts(read(tmp_path, "a.csv", min_chars=1)) == [
        ("1", 'Saved in C:\\docs\\new, "as is"'),
        ("2", "It is C:\\temp, too"),
    ]


def test_spaces_before_a_quote_belong_to_no_field(tmp_path):
    write(tmp_path / "a.csv", f'id, text\n1, "{GOOD.format(1)}"\n2, "{GOOD.format(2)}"\n')
    assert texts(read(tmp_path, "a.csv")) == [("1", GOOD.format(1)), ("2", GOOD.format(2))]


def test_a_header_may_hold_line_ends_and_delimiters(tmp_path):
    write(tmp_path / "a.csv", f'"the\nid;","text, of it"\n1,"{GOOD}"\n')
    assert texts(read(tmp_path, "a.csv", id="the\nid;", text="text, of it")) == [("1", GOOD)]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('"id,text\n1,abc\n', 1),
        ('id,"text\n1,abc\n', 1),
        ('"id" of it,text\n1,abc\n', 1),
        ('\n"id,text\n1,"abc"\n', 2),
        ('"id\ttext\r1\tabc\r', 1),
    ],
)
def test_a_malformed_header_is_an_error_that_names_the_line(tmp_path, content, line):
    for name in ("a.csv", "a.csv.gz"):
        data = content.encode()
        write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
        with pytest.raises(InputError, match=rf"{name}: line {line}: the header is malformed"):
            inspect([Corpus(path=name)], tmp_path, LIMITS)


BETWEEN = 'id,text\n1,"A first passage, which is long enough."\n{}3,"A third passage, which is long enough."\n'
MALFORMED = {
    "quotes as they are": '2,"He said "no" to all of it, she said."\n',
    "over two lines": '2,"He said "no to all of it\nand then left, which was that"\n',
    "over lines that look like records": '2,"He said "no\nand left, which is long enough\nhe, "tired" of it"\n',
    "a delimiter after the quote": '2,"He said "no", and left\nand went on, which is long enough"\n',
    "never closed": '2,"He said no to all of it\n',
    "one quote too many": '2,"A 5" pipe is in the wall"\n',
}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_rejected_whole_and_no_other(tmp_path, name, newline):
    write(tmp_path / "a.csv", BETWEEN.format(MALFORMED[name]), newline)
    found = read(tmp_path, "a.csv")
    assert [each for each, _ in texts(found)] == ["1", "3"]
    assert {each.reason for each in rejected(found)} == {"csv"}
    assert rejected(found)[0].text_excerpt.startswith("2,")


def test_plain_records_after_a_stray_quote_are_not_lost(tmp_path):
    plain = "".join(f"{n},Plain text of a passage that is long enough\n" for n in range(3, 9))
    for content in (f'id,text\n2,"a 5" pipe\n{plain}', f'id,text\n2,"a 5" pipe\n{plain}9,"{GOOD}"\n'):
        found = read(tmp_path, write(tmp_path / "a.csv", content))
        assert [each for each, _ in texts(found)][:6] == list("345678")
        assert [each.detail.partition(":")[0] for each in rejected(found)] == ["line 2"]


@pytest.mark.parametrize("quote", ['"', "'", "“"])
def test_tsv_without_quoting_is_taken_as_it_is(tmp_path, quote):
    rows = [f'{quote}Quoted,{quote} she said, "and', f"{quote}new york hotels{quote}", "3 inch: 5\" 'x'"]
    write(tmp_path / "a.tsv", "id\ttext\n" + "".join(f"{n}\t{row}\n" for n, row in enumerate(rows)))
    assert [text for _, text in texts(read(tmp_path, "a.tsv", min_chars=1))] == rows


def test_a_wrapped_field_of_tsv_keeps_its_quotes_where_nothing_shows_quoting(tmp_path):
    write(tmp_path / "a.tsv", 'id\ttext\n1\t"new york hotels of all kinds"\n2\tplain text of a passage here\n')
    assert texts(read(tmp_path, "a.tsv"))[0][1] == '"new york hotels of all kinds"'
