"""Every example of docs/plugins.md runs, from public names only and in under twenty lines."""

import re
from pathlib import Path

import pytest
import yaml

from synth.cli import main

PAGE = Path(__file__).parent.parent.joinpath("docs", "plugins.md").read_text("utf-8")
MODULES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
TEMPLATES = dict(re.findall(r"^\{# (headlines/\w+\.j2) #\}(.*)$", PAGE, re.MULTILINE))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headlines").mkdir()
    for name, text in (MODULES | TEMPLATES).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "docs.txt").write_text("The ferry to the island leaves the harbour at seven every morning.")
    return tmp_path


def run(place, **sections):
    job = {
        "corpus": {"path": "docs.txt", "language": "en"},
        "llm": {"use": "my_backend:Parrot"},
        "scores": [{"use": "my_scorer:Words"}],
        "keep": {"words": {"min": 3}},
        "personas": None,
    }
    (place / "job.yaml").write_text(yaml.safe_dump(job | sections))
    return main(["run", "job.yaml", "-o", "out"])


def test_four_kinds_of_plugins_are_shown():
    assert sorted(MODULES) == ["my_backend.py", "my_export.py", "my_scorer.py", "my_task.py"]


@pytest.mark.parametrize("name", MODULES)
def test_an_example_is_short_and_uses_public_names(name):
    lines = [line for line in MODULES[name].splitlines() if line.strip()]
    assert len(lines) < 20
    assert not re.search(r"synth\.\w", MODULES[name])


def test_scorer_backend_and_export(place):
    assert run(place) == 0
    assert main(["verify", "out"]) == 0
    assert main(["export", "out", "--to", "my_export:Bare", "-o", "bare"]) == 0
    assert "what about" in (place / "bare" / "train.jsonl").read_text()


def test_task(place):
    assert run(place, task={"use": "my_task:Headlines"}) == 0
    assert main(["verify", "out"]) == 0


def test_a_module_that_fails_is_named_with_its_error(place, capsys):
    (place / "broken_scorer.py").write_text("raise RuntimeError('no licence')")
    assert run(place, scores=[{"use": "broken_scorer:Words"}]) == 2
    assert "'broken_scorer:Words' cannot be imported: RuntimeError: no licence." in capsys.readouterr().err
