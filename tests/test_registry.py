"""A plugin is a module: found by name, listed without registration, and one's own by `pkg.module:Class`."""

import pytest

from synth import registry
from synth.errors import JobError
from synth.stage import LlmStage, Stage, name_of


class Mine(LlmStage):
    """A language model of one's own."""

    def open(self, client):
        raise NotImplementedError


class Unfinished(LlmStage):
    """A language model that cannot be opened."""


class NoStage:
    pass


@pytest.mark.parametrize("kind", ["llm", "embed", "tasks", "scores"])
def test_every_name_of_a_kind_leads_to_a_documented_stage(kind):
    names = registry.names(kind)
    assert list(names) == sorted(names)
    assert not any(name.startswith("_") for name in names)
    for name in names:
        cls = registry.find(kind, name)
        assert issubclass(cls, Stage)
        assert cls.__doc__
        assert cls.model_config["extra"] == "forbid"


def test_what_issue_two_promises_is_there():
    assert {"vllm_server", "openai", "vllm_engine", "extractive"} <= set(registry.names("llm"))
    assert {"vllm_server", "openai", "sentence_transformers"} <= set(registry.names("embed"))
    assert {"cosine", "language", "length", "copying"} <= set(registry.names("scores"))
    assert "retrieval" in registry.names("tasks")


def test_a_class_of_ones_own_is_found():
    assert registry.find("llm", f"{__name__}:Mine") is Mine
    assert name_of(Mine()) == f"{__name__}:Mine"


def test_a_class_without_its_method_is_refused_by_name():
    with pytest.raises(JobError, match="does not define open"):
        registry.find("llm", f"{__name__}:Unfinished")


def test_a_plugin_is_named_as_the_job_names_it():
    assert registry.stage_identity(registry.find("scores", "cosine")())["use"] == "cosine"
    assert name_of(registry.find("llm", "extractive")()) == "extractive"


def test_a_module_that_ends_the_process_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a_script.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(JobError, match="cannot be imported: SystemExit"):
        registry.find("scores", "a_script:Words")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cosin", "Did you mean 'cosine'?"),
        ("zzz", '"package.module:Class"'),
        (f"{__name__}:NoStage", "is not a subclass of"),
        (f"{__name__}:Missing", f"has no 'Missing'. These exist: {__name__}:"),
        (f"{__name__}:", f"has no ''. These exist: {__name__}:"),
        ("json:Missing", "has no 'Missing'. It has no subclass of Stage at all."),
        ("my/scorer.py:Words", "Write 'my.scorer:Words'"),
        ("no_such_module_here:Thing", "cannot be imported"),
        (":Thing", "cannot be imported"),
        ("_batch", "unknown name '_batch'"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(name, wrong):
    with pytest.raises(JobError) as caught:
        registry.find("scores", name)
    assert wrong in str(caught.value)
