"""YAML that people write by hand: safe, bounded, and mistakes named with their lines."""

import pytest

from synth.document import Problem, load_document, parse, parse_scalar
from synth.errors import JobError


def problems(text):
    document = parse(text, "job.yaml")
    return [document.describe(problem) for problem in document.problems]


def refused(text):
    with pytest.raises(JobError) as caught:
        parse(text, "job.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_plain_yaml_is_read_as_it_is():
    document = parse("a: 1\nb: [x, 2.5, null, true]\nc:\n  d: 'no'\n", "job.yaml")
    assert document.data == {"a": 1, "b": ["x", 2.5, None, True], "c": {"d": "no"}}
    assert document.problems == ()
    assert (document.lines["c", "d"], document.lines["b", "1"]) == (4, 2)


def test_a_problem_is_told_with_the_nearest_line_above_it():
    document = parse("a:\n  b: {c: 1}\n", "job.yaml")
    told = document.describe(Problem(("a", "b", "x", "y"), "is wrong", "Fix it."))
    assert told == "job.yaml:2: a.b.x.y: is wrong. Fix it."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "job.yaml:1: a: the key stands twice (lines 1 and 3). Remove one of them."),
        ('a: 1\n"a": 2\n', "job.yaml:1: a: the key stands twice (lines 1 and 2)"),
        ("x:\n  - {k: 1, k: 2}\n", "job.yaml:2: x.0.k: the key stands twice (lines 2 and 2)"),
        ("t: !!binary aGk=\n", "job.yaml:1: t: the tag 'tag:yaml.org,2002:binary' is not allowed"),
        ("t: !!python/object/apply:os.system [ls]\n", "job.yaml:1: t: the tag"),
        ("t: !env HOME\n", "job.yaml:1: t: the tag '!env' is not allowed in a job file. Write a plain value."),
        ("? [a, b]\n: 1\n", "a key must be plain text"),
    ],
)
def test_a_mistake_is_reported_once_with_its_line(text, told):
    (message,) = problems(text)
    assert told in message


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(word, word) for word in ("no", "On", "yes", "y", "12:30", "20:50", "1:30.5", "0b11", "1_000", "2024-01-01")],
        ("010", 10),
        ("-017", -17),
        ("0o17", 15),
        ("0xff", 255),
        ("1e-2", 0.01),
        ("+.5", 0.5),
        ("3.", 3.0),
        ("-.inf", float("-inf")),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("'010'", "010"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written, value):
    document = parse(f"t: {written}\n", "job.yaml")
    assert document.problems == ()
    assert (document.data["t"], type(document.data["t"])) == (value, type(value))
    assert parse_scalar(written, "-s t") == value


def test_keys_are_text_as_they_were_written():
    assert parse("1: a\n2.50: b\nyes: c\nnull: d\n", "job.yaml").data == {
        "1": "a",
        "2.50": "b",
        "yes": "c",
        "null": "d",
    }


def test_anchors_and_merges_are_allowed():
    document = parse("base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\n", "job.yaml")
    assert document.problems == ()
    assert document.data["one"] == {"x": 1, "y": 2}
    assert document.data["two"] == {"x": 1, "y": 3}


def test_an_expansion_bomb_is_refused_before_it_expands():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "100,000 values" in refused("\n".join(lines))


def test_an_anchor_inside_itself_is_refused():
    assert "nested deeper than 32" in refused("a: &a\n  b: *a\n")
    assert "nested deeper than 32" in refused("a: &a [*a]\n")


@pytest.mark.parametrize("text", ["a: " + "[" * 1000 + "]" * 1000, "a: [1, 2\nb: 3\n", "a: 1\n b: 2\n", "a: \x00\n"])
def test_what_is_no_yaml_is_refused(text):
    assert refused(text).startswith("job.yaml: not valid YAML")


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_an_empty_file_is_refused(text):
    assert "the file is empty" in refused(text) or "not a list or a single value" in refused(text)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "42\n"])
def test_the_top_is_a_mapping(text):
    assert "expects keys such as `corpus:` at the top" in refused(text)


def test_two_documents_in_a_file_are_refused():
    assert "not valid YAML" in refused("a: 1\n---\nb: 2\n")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("seed: 1\n".encode("utf-16"), "byte 0 is not UTF-8. Save the file as UTF-8."),
        (b"seed: 1 # caf\xe9\n", "byte 13 is not UTF-8"),
        (b"# " + b"x" * 1_000_001, "at most 1,000,000"),
    ],
)
def test_a_file_of_other_bytes_is_refused(tmp_path, raw, told):
    path = tmp_path / "job.yaml"
    path.write_bytes(raw)
    with pytest.raises(JobError) as caught:
        load_document(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert load_document(path).data == {"seed": 1}


def test_a_folder_is_no_job_file(tmp_path):
    with pytest.raises(JobError, match="cannot be read"):
        load_document(tmp_path)
