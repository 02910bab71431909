"""Several language models in one job: shares are kept, each call goes where it is drawn, a kill changes nothing."""

import json

import pytest
from loopback import Fault, Loopback
from running import completion, contents, job_dict, rows, run, write_corpus, write_job

from synth.cli import main
from synth.errors import JobError, OutputError, ServerRefused
from synth.generators import Generators
from synth.job import job_from_json, load_job

GONE = Fault(307, headers={"Location": "http://127.0.0.1:9/elsewhere"})
"""A redirect is refused at once and ends the run."""


@pytest.fixture
def servers():
    with Loopback(("big",)) as big, Loopback(("small",)) as small:
        big.chat = small.chat = completion
        yield big, small


def served(server, **more):
    return {"use": "vllm_server", "model": server.models[0], "base_urls": [server.url], **more}


def write(folder, servers, llm, passages=20, **more):
    write_corpus(folder / "docs.jsonl", passages)
    job = job_dict(servers[0].url, folder, llm=llm, embed={**served(servers[1]), "model": "small"}, **more)
    return write_job(folder, job)


def shared(servers, a=0.7, b=0.3):
    return [served(servers[0], share=a), served(servers[1], share=b)]


def asked(server):
    return [seen.body for seen in server.posts if "messages" in seen.body]


@pytest.mark.slow
def test_shares_are_kept_and_one_item_has_one_model(tmp_path, servers, capsys):
    few = {"use": "retrieval", "queries_per_passage": 2, "question_types": {"keywords": 1}, "difficulties": None}
    whole = {"shard_size": 500, "concurrency": 16}
    job = write(tmp_path, servers, shared(servers), 1000, personas=None, task=few, run=whole, scores=[], keep=None)
    run(job, tmp_path / "out")
    summary = json.loads(capsys.readouterr().out)
    written = [row["model"] for row in rows(tmp_path / "out", "generated")]
    assert summary["items"] == 2000
    assert len(asked(servers[0])) + len(asked(servers[1])) >= 2000
    assert written.count("big") / len(written) == pytest.approx(0.7, abs=0.03)
    by_model = {each["model"]: each for each in summary["models"]}
    assert {name: each["pairs"] for name, each in by_model.items()} == {n: written.count(n) for n in ("big", "small")}
    assert sum(each["items"] for each in by_model.values()) == 2000
    assert by_model["big"]["prompt_tokens"] == 11 * len(asked(servers[0]))
    assert main(["status", str(tmp_path / "out")]) == 0


def test_a_killed_run_goes_on_byte_equal(tmp_path, servers):
    job = write(tmp_path, servers, shared(servers))
    run(job, tmp_path / "clean")
    for allowed in (12, 12):
        servers[0].log.clear()
        servers[0].rule = lambda _, n=allowed: GONE if len(asked(servers[0])) > n else None
        with pytest.raises(ServerRefused):
            run(job, tmp_path / "out")
    servers[0].rule = lambda _: None
    run(job, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_stage_one_may_have_another_model(tmp_path, servers):
    job = write(tmp_path, servers, {"config": served(servers[1]), "query": shared(servers, 1, 1)}, 6)
    run(job, tmp_path / "out")
    names = [[each["response_format"]["json_schema"]["name"] for each in asked(server)] for server in servers]
    assert set(names[0]) == {"query"}
    assert set(names[1]) == {"config", "query"}
    assert names[1].count("config") == names[0].count("query") + names[1].count("query")
    assert {row["model"] for row in rows(tmp_path / "out", "generated")} == {"big", "small"}


def test_other_shares_are_another_job(tmp_path, servers):
    run(write(tmp_path, servers, shared(servers)), tmp_path / "out")
    with pytest.raises(OutputError, match=r"llm\.all\.0\.share: 0\.7 -> 0\.5"):
        run(write(tmp_path, servers, shared(servers, 0.5, 0.5)), tmp_path / "out")
    with pytest.raises(OutputError, match=r"llm\.use"):
        run(write(tmp_path, servers, served(servers[0])), tmp_path / "out")


def test_each_model_has_its_own_room_and_servers_may_move(tmp_path, servers):
    llm = [served(servers[0], share=1, max_tokens=40), served(servers[1], share=1)]
    job = write(tmp_path, servers, llm, 6)
    run(job, tmp_path / "out")
    rooms = [{body["max_completion_tokens"] for body in asked(server)} for server in servers]
    assert rooms[0] == {40}
    assert min(rooms[1]) > 40
    with Loopback(("big",)) as moved:
        moved.chat = completion
        run(write(tmp_path, servers, [{**llm[0], "base_urls": [moved.url]}, llm[1]], 6), tmp_path / "out")
        assert not asked(moved)


def test_check_and_preview_reach_every_model(tmp_path, servers, capsys):
    job = write(tmp_path, servers, shared(servers, 1, 0.02), 100, seed=1)
    servers[1].models = ("another",)
    assert main(["check", str(job), "--json"]) != 0
    mistakes = json.loads(capsys.readouterr().out)["mistakes"]
    assert any("llm.1" in each and "another" in each for each in mistakes)
    servers[1].models = ("small",)
    assert main(["preview", str(job), "-n", "1", "--json"]) == 0
    tried = json.loads(capsys.readouterr().out)["passages"]
    assert {call["model"] for each in tried for call in each["calls"]} == {"big", "small"}
    assert len(tried) == 2


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ([], "llm: expects one model or a list of them"),
        ([{"use": "extractive"}, {"use": "extractive"}], "llm.0.share: expects a number above 0"),
        ([{"share": 1, "use": "extractive"}, {"share": 1, "use": "extratcive"}], "llm.1.use: unknown name"),
        ({"config": {"use": "extractive"}}, "llm.query: is required"),
        ({"config": {"use": "extractive"}, "query": [], "more": 1}, "llm.more: unknown key"),
        ([{"share": 1, "use": "extractive", "max_tokens": "9"}], "llm.0.max_tokens: expects a whole number"),
    ],
)
def test_mistakes_are_named_by_their_place(tmp_path, llm, said):
    data = {"corpus": {"path": "docs.jsonl"}, "personas": None, "llm": llm, "scores": []}
    with pytest.raises(JobError) as caught:
        job_from_json(data, "job.yaml", tmp_path)
    assert said in str(caught.value)


def test_a_judge_needs_one_model(tmp_path):
    two = [{"share": 1, "use": "extractive"}, {"share": 2, "use": "extractive"}]
    data = {"corpus": {"path": "docs.jsonl"}, "personas": None, "llm": two, "scores": [{"use": "judge"}]}
    with pytest.raises(JobError, match="several language models"):
        job_from_json(data, "job.yaml", tmp_path)


def test_the_draw_depends_on_seed_and_item_alone(tmp_path, servers):
    job = load_job(write(tmp_path, servers, shared(servers)))
    other = load_job(write(tmp_path, servers, shared(servers), seed=4))
    assert isinstance(job.llm, Generators)
    drawn = [[each.llm.drawn(n, 0, "query").model for n in range(2000)] for each in (job, job, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == [job.llm.drawn(n, 0, "config").model for n in range(2000)]
    assert drawn[0].count("big") / 2000 == pytest.approx(0.7, abs=0.03)
