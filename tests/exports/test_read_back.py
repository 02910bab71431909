"""What `synth export` writes, read again as pairs and as a corpus."""

import json

import pytest
from exporting import pairs

from synth import registry
from synth.cli import main
from synth.cli.export import export_run as export
from synth.results.export import ExportArgs
from synth.sources import Corpus, PairData, PassageRow, ReadLimits, inspect, inspect_pairs, pairs_schema, read_pairs
from synth.sources.passages import read_passages

OTHERS = {"argilla", "pylate"}
"""One JSON array; needs a teacher's scores."""
FORMATS = [name.replace("_", "-") for name in registry.names("exports") if name not in OTHERS]
LIMITS = ReadLimits()
HARD = [
    "plain",
    'all "in quotes"',
    '"quoted"',
    "a\ttab",
    "two\nlines",
    "windows\r\nlines",
    "a, comma; and | pipe",
    "\\back\\",
]
ROWS = [
    {"query": f"{text} is asked", "passage": f"{text} is what the passage number {n} is about.", "passage_id": text}
    for n, text in enumerate(HARD)
]
WANTED = sorted((row["query"], row["passage"]) for row in ROWS)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("run"), ROWS, negatives=0, scores=[{"use": "copying"}], keep={})


@pytest.fixture(scope="module")
def exported(out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        export(out, ExportArgs(name, folder / name, negatives=1, on_short="fill"), as_json=True)
    return folder


def as_pairs(path):
    data = [PairData(path=str(path), query_language="en", passage_language="en")]
    sets = inspect_pairs(data, path, LIMITS)
    found = [each for block in read_pairs(sets, pairs_schema(sets, LIMITS), LIMITS) for each in block.outcomes]
    return sorted((each.query, each.passage) for each in found)


def as_corpus(path):
    corpora = [Corpus(path=str(path), language="en")]
    blocks = read_passages(corpora, inspect(corpora, path, LIMITS), LIMITS)
    found = [each for block in blocks for each in block.outcomes]
    return sorted(each.text for each in found if isinstance(each, PassageRow))


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_read_back_as_the_same_pairs(exported, name):
    assert as_pairs(exported / name) == WANTED


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_read_back_as_the_same_passages(exported, name):
    assert as_corpus(exported / name) == sorted(passage for _, passage in WANTED)


@pytest.mark.parametrize("template", ["query: {query}", "[{instruction}] {query}", "{query}"])
@pytest.mark.parametrize("name", ["ms-swift", "tevatron"])
def test_a_template_of_ones_own_is_read_back_too(out, tmp_path, name, template):
    export(
        out,
        ExportArgs(name, tmp_path / "x", negatives=0, settings=[f"query_template={json.dumps(template)}"]),
        as_json=True,
    )
    assert as_pairs(tmp_path / "x") == WANTED


def test_a_run_is_read_back_as_the_same_pairs_and_passages(out):
    for path in (out, out / "kept", out / "generated"):
        assert as_pairs(path) == WANTED
        assert as_corpus(path) == sorted(passage for _, passage in WANTED)


@pytest.mark.parametrize("name", ["beir", "mteb", "tevatron"])
def test_a_pass_over_an_export_is_sound(exported, name, tmp_path, capsys):
    words = ["filter", str(exported / name), "-o", str(tmp_path / "out"), "-s", "scores=[{use: copying}]"]
    assert main([*words, "-s", "embed=null", "-s", "keep={}"]) == 0, capsys.readouterr().err
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
    assert f"{len(ROWS)} rows" in capsys.readouterr().err
