"""`check`, `preview`, `show`, `status`, `list` and `init` on real folders and a loopback server."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from loopback import Loopback

from synth import cli
from synth.rerank.cross_encoder import CrossEncoderReranker

TEXTS = {
    "en-1": "The tide tables of a harbour list the hours of high and low water for every day of the year, and pilots "
    "plan the passage of deep ships by them.",
    "en-2": "Sourdough keeps longer than bread made with baker's yeast alone because lactic acid slows the growth of "
    "mould on its crust and crumb.",
    "de-1": "Der Stellwerker prüft vor jeder Zugfahrt, ob der Fahrweg frei ist und ob alle Weichen in der richtigen "
    "Lage verschlossen sind.",
}
JOB = {
    "seed": 3,
    "corpus": {"path": "docs.jsonl"},
    "personas": {"path": "people.txt", "top_k": 2},
    "llm": {"use": "vllm_server", "model": "tiny", "base_urls": ["http://127.0.0.1:9/v1"]},
    "embed": {"use": "vllm_server", "model": "tiny", "base_urls": ["http://127.0.0.1:9/v1"]},
    "task": {"queries_per_passage": 2},
    "scores": [{"use": "cosine"}, {"use": "length"}],
    "keep": {"cosine": {"above": -0.5}},
    "run": {"shard_size": 2},
    "out": "out",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a corpus and personas in it."""
    return prepare(tmp_path, monkeypatch)


def prepare(folder, patch):
    patch.chdir(folder)
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    rows = [{"id": name, "text": text} for name, text in TEXTS.items()]
    rows += [{"id": "short", "text": "too short"}, {"id": "again", "text": TEXTS["en-1"].upper()}]
    (folder / "docs.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    (folder / "people.txt").write_text("A harbour pilot.\nA baker in Bath.\nA signalman in Soest.\n", "utf-8")
    return folder


@pytest.fixture
def server():
    with Loopback() as server:
        yield server


def job(folder, server=None, **changes):
    """Writes job.yaml; a None among the changes removes the key."""
    data = JOB | changes
    data["task"] = {"use": "retrieval"} | data["task"]
    if server is not None:
        data |= {name: data[name] | {"base_urls": [server.url]} for name in ("llm", "embed")}
    data = {key: value for key, value in data.items() if value is not None}
    (folder / "job.yaml").write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return "job.yaml"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_check_of_a_good_job_says_what_to_expect_and_writes_nothing(folder, server, capsys):
    name = job(folder, server)
    before = files(folder)
    assert cli.main(["check", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mistakes"] == []
    assert told["data"]["rejected"] == {"duplicate": 1, "too_short": 1}
    assert told["data"]["languages"] == {"en": 2, "de": 1}
    assert told["expected"] | {"passages": 3, "items": 6, "calls": 12} == told["expected"]
    assert [each["results"][0]["reachable"] for each in told["servers"]] == [True, True]
    assert told["servers"][0]["results"][0]["constrained"] is True
    assert files(folder) == before


def test_check_tells_people_the_same(folder, server, capsys):
    assert cli.main(["check", job(folder, server)]) == 0
    out = capsys.readouterr().out
    assert "rejected   2 (too_short 1, duplicate 1)" in out
    assert "replies held to the schema" in out
    assert "all is well" in out


def test_five_mistakes_are_all_named_with_their_cures(folder, capsys):
    (folder / "templates").mkdir()
    (folder / "templates/config.j2").write_text("{{ pasage }}", "utf-8")
    (folder / "templates/query.j2").write_text("{{ passage }}", "utf-8")
    name = job(
        folder,
        corpus=[{"path": "nowhere/*.jsonl"}, {"path": "docs.jsonl", "text": "txet"}],
        personas={"path": "peple.txt"},
        task={"prompts": "templates", "atempts": 3},
        keep={"cosine": {"abve": 0.7}},
    )
    assert cli.main(["check", name, "--offline", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["mistakes"]
    for wrong, cure in [
        ("corpus.0.path: nothing matches 'nowhere/*.jsonl'", "Check the"),
        ("no column 'txet'", "Did you mean 'text'?"),
        ("peple.txt: no such file", "Check the path"),
        ("task.atempts: unknown key", "Did you mean 'attempts'?"),
        ("keep.cosine.abve: unknown comparison", "Did you mean above?"),
        ("config.j2", "pasage"),
    ]:
        assert [text for text in told if wrong in text and cure in text], (wrong, told)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"prompts": "nothing-here"}}, "nothing-here"),
        ({"task": {"examples": "nothing.jsonl"}}, "nothing.jsonl"),
        ({"keep": {"my_column": {"above": 1}}}, "keep.my_column: column my_column does not exist"),
        ({"llm": {"use": "extractive"}, "task": {"languages": {"same": 1, "fr": 1}}}, "task.languages"),
        ({"scores": [{"use": "cosine"}, {"use": "cosine"}]}, "as: cosine_2"),
        ({"embed": None}, "need an embedder"),
        ({"keep": {"cosine": {"above": {"by": "query_language", "en": 0.5}}}}, "no value for de"),
        ({"corpus": [{"path": "docs.jsonl"}, {"path": "docs.jsonl"}]}, "`name` of its own"),
    ],
)
def test_each_mistake_that_only_files_can_tell(changes, said, folder, capsys):
    assert cli.main(["check", job(folder, **changes), "--offline", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["mistakes"]
    assert [text for text in told if said in text], told


def test_a_flat_weight_for_the_only_language_found_is_not_cross_lingual(folder):
    corpus = {"path": "docs.jsonl", "language": "en"}
    name = job(folder, corpus=corpus, llm={"use": "extractive"}, task={"languages": {"en": 1}})
    assert cli.main(["check", name, "--offline", "--json"]) == 0


def test_worked_examples_that_fall_out_are_a_warning(folder, capsys):
    name = job(folder, task={"question_types": {"summary": 1}, "difficulties": None})
    assert cli.main(["check", name, "--offline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "worked examples" in told["warnings"][0]
    assert told["expected"]["calls"] == 6  # top_k 2 leaves stage one something to choose


def test_stage_one_costs_nothing_where_nothing_is_left_to_choose(folder, capsys):
    personas = {"path": "people.txt", "top_k": 1}
    name = job(folder, personas=personas, task={"question_types": {"summary": 1}, "difficulties": None})
    assert cli.main(["check", name, "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expected"]["calls"] == 3


def test_a_server_that_is_not_there_exits_5_and_the_rest_is_still_told(folder, capsys):
    assert cli.main(["check", job(folder)]) == 5
    out = capsys.readouterr().out
    assert "passages   3" in out
    assert out.count("mistake ") == 2
    assert "correct llm.base_urls" in " ".join(out.split())


def test_a_server_that_ignores_the_schema_is_found_out(folder, server, capsys):
    server.chat = lambda _: {
        "model": "tiny",
        "choices": [{"message": {"content": "Sure!"}, "finish_reason": "stop"}],
    }
    assert cli.main(["check", job(folder, server)]) == 5
    assert "NOT HELD TO THE SCHEMA" in capsys.readouterr().out


def test_prompts_that_do_not_fit_are_foreseen(folder, server, capsys):
    server.max_model_len = 900
    assert cli.main(["check", job(folder, server), "--json"]) == 0
    assert "--max-model-len" in " ".join(json.loads(capsys.readouterr().out)["warnings"])


def test_hosts_that_passages_leave_for_are_named(folder, capsys):
    llm = JOB["llm"] | {"base_urls": ["http://gpu7.example:8000-8001/v1"]}
    assert cli.main(["check", job(folder, llm=llm), "--offline"]) == 0
    assert "leave this machine for gpu7.example:8000, gpu7.example:8001" in capsys.readouterr().out


@pytest.mark.slow
def test_a_large_corpus_is_sampled_and_said_to_be(folder, capsys):
    rows = (json.dumps({"text": f"Passage number {n} of a corpus with very many of them."}) for n in range(25_000))
    (folder / "docs.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    corpus = {"path": "docs.jsonl", "language": "en"}
    assert cli.main(["check", job(folder, corpus=corpus), "--offline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["data"] | {"read": 20_000, "sampled": True, "expected_passages": 25_000} == told["data"]


def test_preview_shows_every_call_and_writes_nothing(folder, server, capsys):
    name = job(folder, server)
    before = files(folder)
    assert cli.main(["preview", name, "-n", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["passage"]["id"] for each in told["passages"]] == ["en-1", "de-1"]
    first = told["passages"][0]
    assert [call["call"]["stage"] for call in first["calls"]][:2] == ["config", "query"]
    assert first["calls"][0]["verdict"] == "accepted"
    assert "tide tables" in first["calls"][0]["messages"][-1]["content"]
    assert {"cosine", "length_error", "kept"} <= first["pairs"][0].keys()
    assert "stage one" in told["system"].lower()
    assert files(folder) == before


class Reranker:
    """Gives every pair one half."""

    batch_size = 4
    closed = False

    async def score(self, pairs):
        return np.full(len(pairs), 0.5)

    async def close(self):
        type(self).closed = True


def test_preview_opens_the_models_that_scorers_bring(folder, server, monkeypatch, capsys):
    monkeypatch.setattr(CrossEncoderReranker, "open", lambda *_: Reranker())
    scores = [{"use": "cosine"}, {"use": "reranker", "model": {"use": "cross_encoder", "model": "tiny"}}]
    assert cli.main(["preview", job(folder, server, scores=scores), "-n", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {pair["reranker"] for passage in told["passages"] for pair in passage["pairs"]} == {0.5}
    assert Reranker.closed


def test_preview_leaves_out_what_needs_all_pairs(folder, server, capsys):
    scores = [{"use": "cosine"}, {"use": "round_trip"}]
    keep = {"round_trip_rank": {"below": 4}, "cosine": {"above": 2 / 3}}
    assert cli.main(["preview", job(folder, server, scores=scores, keep=keep), "-n", "1", "--json"]) == 0
    said = capsys.readouterr()
    (pair, *_) = json.loads(said.out)["passages"][0]["pairs"]
    assert "round_trip_rank" not in pair
    assert pair["kept"] == (pair["cosine"] > 2 / 3)
    assert "round_trip_rank needs all pairs of a run" in said.err


def test_preview_of_one_id_in_words(folder, server, capsys):
    assert cli.main(["preview", job(folder, server), "--id", "en-2"]) == 0
    out = capsys.readouterr().out
    assert "passage 1: docs/en-2, en" in out
    assert "verdict    accepted" in out
    assert "scores     cosine" in out


def test_personas_of_a_sample_with_cosines_and_the_most_offered(folder, server, capsys):
    library = folder / "people.jsonl"
    library.write_text('{"persona": "A ferry captain.", "about": "ferry island boat"}\n{"persona": "A baker."}\n')
    name = job(
        folder, server, personas={"path": str(library), "top_k": 1, "pool": 1, "min_similarity": -1, "max_share": 1}
    )
    assert cli.main(["personas", name, "-n", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    offered = [each["personas"] for each in found["passages"]]
    assert [len(each) for each in offered] == [1, 1, 1]
    assert found["most_offered"] == dict(Counter(each["persona"] for (each,) in offered).most_common())
    assert cli.main(["personas", name, "-n", "3", "-s", "personas.min_similarity=1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("none is near enough") == 3
    assert "0 of 3 passages have a persona; 3 have none of personas.min_similarity = 1 or more." in out


def test_preview_says_why_a_reply_is_refused(folder, server, capsys):
    server.chat = lambda _: {
        "model": "tiny",
        "choices": [{"message": {"content": "Sure!"}, "finish_reason": "stop"}],
    }
    assert cli.main(["preview", job(folder, server), "-n", "1", "--json"]) == 0
    passage = json.loads(capsys.readouterr().out)["passages"][0]
    assert [call["verdict"].split(":")[0] for call in passage["calls"][:3]] == ["unusable"] * 3
    assert len(passage["rejected"]) == 2


def test_preview_of_an_unknown_id(folder, capsys):
    assert cli.main(["preview", job(folder), "--id", "nobody"]) == 2
    assert "no passage has the id 'nobody'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run in `out`, which the tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, Loopback() as server:
        prepare(folder, patch)
        rules = {"cosine": {"above": -0.5}, "length_error": {"max": 0.0}}
        assert cli.main(["run", job(folder, server, keep=rules), "--json"]) == 0
    return folder / "out"


def test_show_of_rows_and_their_rejects(finished, capsys):
    assert cli.main(["show", str(finished), "-n", "9", "--json"]) == 0
    kept = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert cli.main(["show", str(finished), "--rejected", "-n", "9", "--json"]) == 0
    rejected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row["from"] == "kept" for row in kept)
    assert {row["reason"] for row in rejected if row["from"] == "rejected by passages"} == {"too_short", "duplicate"}
    pairs = [row for row in rejected if row["from"] != "rejected by passages"]
    assert len(kept) + len(pairs) == 6


def test_show_shares_its_rows_among_the_steps(finished, capsys):
    assert cli.main(["show", str(finished), "--rejected", "-n", "2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["from"] for row in rows}) == 2


def test_show_by_id_finds_an_item_whatever_became_of_it(finished, capsys):
    for wanted in ("0-0", "en-1", "short"):
        assert cli.main(["show", str(finished), "--id", wanted, "--json"]) == 0
        assert wanted in capsys.readouterr().out
    assert cli.main(["show", str(finished), "--id", "nobody"]) == 2


@pytest.mark.parametrize("condition", ["no_such = 1", "cosine = 'high'", "cosine <", "; drop"])
def test_show_explains_a_condition_that_is_none(condition, finished, capsys):
    assert cli.main(["show", str(finished), "--rejected", "--where", condition]) == 2
    assert capsys.readouterr().err.startswith("error: --where")


def test_status_counts_what_is_on_disk(finished, capsys):
    assert cli.main(["status", str(finished), "--json"]) == 0
    steps = {each["step"]: each for each in json.loads(capsys.readouterr().out)["steps"]}
    assert (steps["passages"]["rows_in"], steps["passages"]["rejected"]) == (5, 2)
    assert steps["generated"]["rows_in"] == 6
    assert steps["kept"]["shards"] == steps["kept"]["of"] == 2
    assert cli.main(["status", str(finished)]) == 0
    assert "resume with" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "status"])
def test_a_folder_that_is_no_run_is_refused(command, folder, capsys):
    assert cli.main([command, str(folder)]) == 4
    assert cli.main([command, str(folder / "nowhere")]) in (2, 4)
    assert capsys.readouterr().err.count("error: ") == 2


def test_list_takes_its_words_from_the_classes(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("vllm_server", "sentence_transformers", "retrieval", "copying", "limits"))
    assert cli.main(["list", "run"]) == 0
    assert "shard_size: 1000\n      Passages per shard." in capsys.readouterr().out
    assert cli.main(["list", "llm", "vllm_server", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["llm"]["vllm_server"]["options"]
    assert options["max_tokens"]["default"] == 512
    assert options["base_urls"]["help"]


@pytest.mark.usefixtures("folder")
def test_init_writes_a_job_that_checks_and_never_overwrites(capsys):
    assert cli.main(["init", "mine.yaml", "--corpus", "docs.jsonl"]) == 0
    assert cli.main(["check", "mine.yaml", "--offline"]) == 0
    assert cli.main(["init", "mine.yaml"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["init", str(Path("no/such/folder/job.yaml"))]) == 7


@pytest.mark.parametrize("section", ["data", "task", "keep"])
def test_list_knows_every_key_of_a_job(section, capsys):
    assert cli.main(["list", section]) == 0
    assert {"data": "label", "task": "retrieval", "keep": "unique"}[section] in capsys.readouterr().out
    assert cli.main(["list", section, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
