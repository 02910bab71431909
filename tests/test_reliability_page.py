"""docs/reliability.md says nothing that no test stands behind: every test it names exists, every key has a case."""

import re
from pathlib import Path

import pytest
import test_folders
import test_verify

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")
SOURCES = {path.relative_to(TESTS).as_posix(): path.read_text("utf-8") for path in TESTS.rglob("*.py")}
KINDS = {"C": "corpora", "F": "configs", "L": "replies", "V": "servers", "Y": "system"}


def section(title):
    """The text below a heading, up to the next of its rank."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def rows(text):
    """The cells of its tables' rows, without the lines that make them tables."""
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in found if not set("".join(cells)) <= set("- ")]


def catalogue(kind):
    """The tests of one kind of bad input, whichever folder they are in."""
    return next(source for path, source in SOURCES.items() if Path(path).name == f"test_catalogue_{kind}.py")


PROMISES = {cells[0]: cells[2] for cells in rows(section("How each guarantee is tested")) if cells[0].startswith("P")}


def test_there_are_fifteen_promises():
    assert list(PROMISES) == [f"P{number}" for number in range(1, 16)]


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_names_what_tests_it(promise):
    assert re.search(r"test_\w+|--only T\d+|faults/\w+", PROMISES[promise])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"[\w/]+\.py\b", PAGE))))
def test_every_file_of_tests_that_it_names_is_there(name):
    assert any(path == name or path.endswith(f"/{name}") for path in SOURCES)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"test_\w+(?![\w*.])", PAGE)) - {"test_catalogue_"}))
def test_every_test_that_it_names_is_there(name):
    if f"{name}.py" not in PAGE:
        assert any(re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE) for source in SOURCES.values())


def test_a_test_stands_in_the_file_that_the_page_says():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`((?:, `test_\w+`)*)", PAGE)
    assert named
    for file, first, more in named:
        for name in [first, *re.findall(r"test_\w+", more)]:
            sources = [text for path, text in SOURCES.items() if path == file or path.endswith(f"/{file}")]
            assert any(f"def {name}(" in text for text in sources), f"{file}::{name}"


def test_as_many_kinds_of_damage_are_tried_as_it_says():
    tables = (test_verify.DAMAGES, test_verify.DEEP_DAMAGES, test_verify.FILTER_DAMAGES, test_folders.DAMAGES)
    assert re.search(r"(\d+) kinds of damage", PAGE)[1] == str(sum(map(len, tables)))


KEYS = [key for cells in rows(section("Bad input")) for key in re.findall(r"\b[CFLVY]\d+\b", cells[0])]


def test_the_catalogue_is_whole():
    assert len(set(KEYS)) == len([key for key in KEYS if key not in {"L2", "L3"}]) + 2
    assert {key[0] for key in KEYS} == set(KINDS)


@pytest.mark.parametrize("key", sorted(set(KEYS), key=lambda key: (key[0], int(key[1:]))))
def test_every_key_of_the_catalogue_has_a_case(key):
    source = catalogue(KINDS[key[0]])
    assert re.search(rf"[\"']{key}[ \"']|def test_{key.lower()}_", source)


@pytest.mark.parametrize("kind", KINDS.items(), ids=lambda kind: kind[1])
def test_every_case_is_told_on_the_page(kind):
    letter, name = kind
    source = catalogue(name)
    cases = set(re.findall(rf"[\"']({letter}\d+)[ \"']", source))
    cases |= {key.upper() for key in re.findall(rf"def test_({letter.lower()}\d+)_", source)}
    assert cases <= set(KEYS)


@pytest.mark.parametrize("rule", [f"S{number}" for number in range(1, 17)])
def test_every_rule_of_security_has_a_test(rule):
    assert rule in section("Security")
    assert re.search(rf"[\"']{rule}[ \"']|def test_{rule.lower()}_", SOURCES["test_security.py"])
