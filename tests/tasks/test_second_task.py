"""A task of one's own: one module and one folder of prompts, and nothing else, from `check` to `verify`."""

import json

import pyarrow.parquet as pq
import pytest
from loopback import Loopback, say
from running import job_dict, write_corpus

from synth.cli import main

MODULE = '''
from typing import ClassVar, Literal

from synth.replies import read_text
from synth.tasks import Ask, Item, Task


class Headlines(Task):
    """Headlines that a newspaper would print above a passage."""

    columns: ClassVar = {"style": "string", "words": "int32"}
    prompt_files: ClassVar = ("write.j2",)
    prompts: str = "headlines"
    tone: Literal["plain", "loud"] = "plain"

    def requests(self, passage, draw):
        style = draw.random("style").choice(["question", "statement"])
        values = {"passage": draw.text(passage.passage), "style": style, "tone": self.tone}
        schema = {"type": "object", "properties": {"Headline": {"type": "string"}}, "required": ["Headline"]}

        def read(reply):
            return read_text(reply, "Headline", repair=draw.settings.repair)

        text = yield Ask("headline", draw.prompts.messages("write.j2", values), schema, read)
        return Item(text, passage.passage.language, columns={"style": style, "words": len(text.split())})

    def values(self):
        return {"style": ["question", "statement"]}
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(MODULE)
    (tmp_path / "headlines").mkdir()
    (tmp_path / "headlines" / "system.j2").write_text("You write {{ tone }} headlines.")
    (tmp_path / "headlines" / "write.j2").write_text("{{ passage }}\n\nA {{ style }}.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write_job(place, url, **more):
    write_corpus(place / "docs.jsonl", 5)
    job = job_dict(url, place) | {
        "corpus": {"path": str(place / "docs.jsonl"), "language": "en"},
        "task": {"use": "my_tasks:Headlines", "queries_per_passage": 2},
        "scores": [{"use": "length"}, {"use": "copying"}],
        "keep": {"words": {"min": 3}},
        "run": {"shard_size": 3},
        "personas": None,
    }
    path = place / "job.json"
    path.write_text(json.dumps(job | more))
    return str(path)


def headline(body):
    parts = body["response_format"]["json_schema"]["schema"]["properties"]
    if "Headline" not in parts:  # a probe
        return say(json.dumps({name: part.get("enum", ["words"])[0] for name, part in parts.items()}))
    number = sum(map(ord, body["messages"][-1]["content"])) + body["seed"]
    return say(json.dumps({"Headline": f"A ferry to the island {number}"}))


def rows(out, step):
    return [row for file in sorted((out / step).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_task_of_ones_own_runs_resumes_and_verifies(place, capsys):
    with Loopback() as server:
        job, out = write_job(place, server.url), place / "out"
        assert main(["check", job, "--json"]) == 0
        expected = json.loads(capsys.readouterr().out)["expected"]
        assert (expected["items"], expected["calls"]) == (10, 10)
        asked = len(server.posts)
        server.chat = headline
        assert main(["run", job, "-o", str(out), "--json"]) == 0
        assert len(server.posts) > asked
        last = server.posts[-1].body
        assert last["messages"][0] == {"role": "system", "content": "You write plain headlines."}
        summary = json.loads(capsys.readouterr().out)
        assert summary["kept"] == 10
        before = len(server.posts)
        assert main(["run", str(out), "--json"]) == 0
        assert len(server.posts) == before, "nothing is asked twice"
        capsys.readouterr()
        assert main(["preview", job, "-n", "1", "--json"]) == 0
        (call, _) = json.loads(capsys.readouterr().out)["passages"][0]["calls"]
        assert (call["call"]["stage"], call["verdict"]) == ("headline", "accepted")
    kept = rows(out, "kept")
    assert {row["task"] for row in kept} == {"headlines"}
    assert {row["style"] for row in kept} == {"question", "statement"}
    assert all(row["words"] == len(row["query"].split()) for row in kept)
    assert {row["query_language"] for row in kept} == {"en"}
    assert {row["question_type"] for row in kept} == {None}
    assert (out / "prompts" / "write.j2").exists()
    assert main(["verify", str(out), "--deep"]) == 0
    assert main(["keep", str(out), "--above", "words=4", "--as", "long"]) == 0
    assert main(["show", str(out), "-n", "1"]) == 0


def test_a_reply_that_it_cannot_read_is_a_rejected_item(place):
    with Loopback() as server:
        server.chat = lambda _: say('{"Title": "x"}')
        out = place / "out"
        assert (
            main(["run", write_job(place, server.url, limits={"max_unusable_share": 1}), "-o", str(out), "--json"]) == 0
        )
    refused = rows(out, "rejected/generated")
    assert len(refused) == 10
    assert all(len(row["attempts"]) == 3 for row in refused)


def test_a_stage_that_is_no_task_is_refused(place, capsys):
    assert main(["check", write_job(place, "http://127.0.0.1:1", task={"use": "synth.scores.length:Length"})]) == 2
    assert "is not a subclass of Task" in capsys.readouterr().out
