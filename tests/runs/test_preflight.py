"""`run`, `check` and `preview` refuse the same jobs, before any model is asked."""

import json
import sys

import pytest
from running import job_dict, rows, write_corpus, write_job

from synth import cli

SCORER = '''
import pyarrow as pa
from synth.scores import ScoreColumn, Scorer


class Words(Scorer):
    """How many words a query has."""

    outputs = (ScoreColumn("words", pa.int64()),)

    async def score(self, batch, services):
        return self.table([len(query.split()) for query in batch.texts("query")])
'''


@pytest.fixture
def place(tmp_path):
    write_corpus(tmp_path / "docs.jsonl", 6, id2="extra", text2="more")
    return tmp_path


def refusals(command, job, out, capsys):
    """Exit code and message of a command over a job."""
    more = ["-o", str(out)] if command == "run" else ["--offline"] if command == "check" else []
    code = cli.main([command, str(job), *more])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize("command", ["run", "check", "preview"])
@pytest.mark.parametrize(
    ("carry", "column", "there"),
    [
        (["id2"], "id2", True),
        (["id2"], "input_id2", False),
        (["id"], "input_id", True),
        (["text"], "input_text", True),
    ],
)
def test_the_columns_of_a_job_are_the_same_for_every_command(
    command, carry, column, there, place, server, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    given = job_dict(server.url, place, keep={column: {"is": "more 1"}})
    given["corpus"]["carry"] = carry
    code, text = refusals(command, write_job(place, given), place / "out", capsys)
    assert code == (0 if there else 2), text
    if not there:
        assert f"keep.{column}: column {column} does not exist" in text
        assert not (place / "out" / "generated").exists()
        assert not server.posts


@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_queries_that_the_model_cannot_write_are_refused_by_every_command(command, place, server, monkeypatch, capsys):
    monkeypatch.chdir(place)
    task = {"use": "retrieval", "languages": {"same": 0.5, "de": 0.5}}
    job = write_job(place, job_dict(server.url, place, task=task, llm={"use": "extractive"}))
    code, text = refusals(command, job, place / "out", capsys)
    assert code == 2
    assert "task.languages: asks for queries that this llm cannot write (de for en)" in text
    assert not (place / "out" / "generated").exists()


@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_a_group_without_a_threshold_is_refused_by_every_command(command, place, server, monkeypatch, capsys):
    monkeypatch.chdir(place)
    keep = {"cosine": {"above": {"by": "query_language", "fr": 0.5}}}
    code, text = refusals(command, write_job(place, job_dict(server.url, place, keep=keep)), place / "out", capsys)
    assert code == 2
    assert "no value for en" in text
    assert not (place / "out" / "generated").exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_scorer_beside_the_job_needs_no_path_and_has_one_name(workers, place, server, monkeypatch, capsys):
    module = f"words_{workers}"
    (place / f"{module}.py").write_text(SCORER, "utf-8")
    scores = [{"use": "cosine"}, {"use": f"{module}:Words"}]
    job = write_job(place, job_dict(server.url, place, scores=scores, run={"shard_size": 2, "workers": workers}))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert cli.main(["run", str(job), "-o", "out", "--json"]) == 0
    out = place / "elsewhere" / "out"
    assert [folder.name.rpartition("-")[0] for folder in sorted((out / "scores").iterdir())] == ["cosine", "words"]
    assert all(row["words"] > 2 for row in rows(out, "kept"))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(place)])
    monkeypatch.delitem(sys.modules, module)
    capsys.readouterr()
    assert cli.main(["run", "out", "--json"]) == 0, "the folder alone is enough to go on"
    assert json.loads(capsys.readouterr().out)["items"] == 12
