"""Words that make our sentences hard to read, in code, templates, pages and job files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = {".py", ".j2", ".jinja", ".md", ".yaml"}
FILES = [
    ROOT / "README.md",
    *(
        path
        for folder in ("synth", "docs", "configs", "prompts")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in KINDS
    ),
]
WORDS = re.compile(r"\bmend\b|\bwhoever\b|\bto be had\b|\b(?:is|are) no |\bstands in\b", re.IGNORECASE)


@pytest.mark.parametrize("text", ["Mend it.", "there is no such file", "stands in line 3"])
def test_the_words_are_found(text):
    assert WORDS.search(text)


def test_common_words_are_used():
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for path in FILES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if (found := WORDS.search(line))
    ]
    assert lines == []
