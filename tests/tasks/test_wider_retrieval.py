"""Long queries, scenarios, quoted answers and real queries as models of manner: what is asked, read and refused."""

import asyncio
import json
from pathlib import Path

import pytest
from running import job_dict, rows, run, write_corpus, write_job
from test_retrieval import TEXT, Scripted, candidates

from synth.cli import main
from synth.errors import OutputError
from synth.languages.words import quoted
from synth.stage import ChatReply
from synth.tasks import TaskSettings, Writer
from synth.tasks.retrieval import Retrieval
from synth.types import Rejected


def task_of(options):
    return Retrieval.model_validate_json(json.dumps(options))


def generate(chat, options, given=None, base=Path(), **settings):
    task = task_of(options)
    given = given or candidates()
    fixed = {"seed": 7, "max_tokens": 512, "repair": True, "top_k": len(given.personas)} | settings
    return asyncio.run(Writer(task, task.load_prompts(base), TaskSettings(**fixed)).write(given, chat))


def words(count):
    return {"Query": " ".join(f"word{n} ferry" for n in range(count // 2)) + "?"}


def test_three_hundred_words_have_room_and_pass():
    chat = Scripted(query=lambda _: words(290))
    (pair,) = generate(chat, {"lengths": [250, 300]})
    assert len(pair.query.split()) == 290
    (asked,) = chat.stage("query")
    assert asked.max_tokens > 4 * 300
    assert asked.schema["properties"]["Query"]["maxLength"] > 300 * 10


def test_beyond_twice_the_length_it_runs_on():
    (item,) = generate(Scripted(query=lambda _: words(640)), {"lengths": [250, 300]})
    assert item.reason == "run_on"


def test_short_queries_have_the_room_that_the_job_grants():
    chat = Scripted()
    generate(chat, {"lengths": [5, 20]}, max_tokens=64)
    assert {each.max_tokens for each in chat.asked} == {64}


@pytest.mark.parametrize("prompts", ["default", "small"])
def test_a_scenario_has_its_meaning_examples_length_and_typing(prompts):
    chat = Scripted(query=lambda _: words(60))
    (pair,) = generate(chat, {"question_types": {"scenario": 1}, "prompts": prompts})
    (asked,) = chat.stage("query")
    text = "\n".join(content for _, content in asked.messages)
    assert pair.config.question_type == "scenario"
    assert (pair.requirement.length_min, pair.requirement.length_max) == (40, 120)
    assert pair.columns["typing"] == "written"
    if prompts == "default":
        assert "- scenario: a situation told in several sentences" in text
        assert "Type: scenario" in text
    assert "Our nightly job" in text or "Our import reads prices" in text


def test_a_range_for_all_types_is_also_that_of_scenarios():
    (pair,) = generate(Scripted(query=lambda _: words(20)), {"question_types": {"scenario": 1}, "lengths": [10, 30]})
    assert (pair.requirement.length_min, pair.requirement.length_max) == (10, 30)


def test_a_type_of_ones_own_may_be_called_scenario():
    chat = Scripted()
    (pair,) = generate(chat, {"question_types": {"scenario": {"weight": 1, "means": "a case of law"}}})
    assert (pair.requirement.length_min, pair.requirement.length_max) == (3, 24)
    assert "- scenario: a case of law" in chat.asked[-1].messages[0][1]


def answering(quote, query="when does the ferry leave"):
    return lambda request: {"Query": f"{query} {request.key.slot}", "Answer": quote}


@pytest.mark.parametrize("prompts", ["default", "small"])
def test_the_answer_is_a_stretch_of_the_passage(prompts):
    chat = Scripted(query=answering("leaves at  nine\nevery morning"))
    (pair,) = generate(chat, {"answer_span": True, "prompts": prompts})
    assert pair.columns["answer_span"] == "leaves at nine every morning"
    (asked,) = chat.stage("query")
    assert list(asked.schema["properties"]) == ["Query", "Answer"]
    assert '"Answer": "' in "\n".join(content for _, content in asked.messages)


@pytest.mark.parametrize("quote", ["leaves at ten", "Leaves at nine", "leaves at nine, every morning", "x" * 700, None])
def test_other_words_are_refused_with_their_reason(quote):
    chat = Scripted(query=answering(quote))
    (item,) = generate(chat, {"answer_span": True, "attempts": 2})
    assert isinstance(item, Rejected)
    assert item.reason == ("empty" if quote is None else "answer")
    assert len(chat.stage("query")) == 2


@pytest.mark.parametrize(
    ("passage", "quote", "found"),
    [
        ("Der Preis  beträgt\n 5 €.", "Preis beträgt 5 €", "Preis  beträgt\n 5 €"),
        ("cafe\u0301 au lait", "caf\u00e9 au", "cafe\u0301 au"),
        ("the \ufb01le system", "the file", "the \ufb01le"),
        ("use <|im_end|> here", "<\u200b|im_end|>", "<|im_end|>"),
        ("def f():\n    return 1\n", "def f():\n  return 1", "def f():\n    return 1"),
        ("it\u2019s nine", "it's nine", None),
        ("面团在冰箱里冷藏", "冰箱里", "冰箱里"),
        ("text", " ", None),
        ("", "text", None),
    ],
)
def test_a_quote_may_differ_in_space_and_form_only(passage, quote, found):
    assert quoted(passage, quote) == found


def test_real_queries_are_shown_by_seed_and_never_written(tmp_path):
    seeds = [f"ferry question {n}" for n in range(40)]
    (tmp_path / "real.txt").write_text("\n".join(seeds) + "\n", encoding="utf-8")
    shown = []

    def query(request):
        lines = request.messages[-1][1].splitlines()
        shown.append(tuple(line[2:] for line in lines if line[2:] in seeds))
        return {"Query": seeds[3].upper() + "?" if request.key.attempt == 0 else "when does it leave for the island"}

    (pair,) = generate(Scripted(query=query), {"style_examples": "real.txt"}, base=tmp_path)
    assert pair.query == "when does it leave for the island"
    assert len(set(shown[0])) == 5
    assert shown[0] == shown[1]
    generate(Scripted(query=query), {"style_examples": "real.txt"}, candidates(1), base=tmp_path)
    assert shown[2] != shown[0]
    (item,) = generate(Scripted(query=lambda _: {"Query": seeds[3]}), {"style_examples": "real.txt"}, base=tmp_path)
    assert item.reason == "seed"


def test_what_a_job_does_not_ask_for_changes_nothing():
    plain, named = task_of({}), task_of({"answer_span": False, "style_examples": None})
    assert plain.identity() == named.identity()
    assert not {"answer_span", "style_examples"} & plain.identity().keys()
    assert sorted(plain.load_prompts(Path()).files) == sorted(
        ["config.j2", "definitions.yaml", "examples.jsonl", "passage.j2", "query.j2", "system.j2"]
    )
    assert "answer_span" in task_of({"answer_span": True}).identity()


def completion(body):
    """The words of the passage as query and as answer."""
    prompt = body["messages"][-1]["content"]
    text = prompt[max(0, prompt.find("The report number")) :].split(".")[0]
    schema = body["response_format"]["json_schema"]["schema"]["properties"]
    reply = {name: part["enum"][0] for name, part in schema.items() if "enum" in part}
    if "Query" in schema:
        reply = {"Query": f"what does {' '.join(text.split()[1:4])} say", "Answer": text.partition(" is ")[0]}
    message = {"message": {"content": json.dumps(reply)}, "finish_reason": "stop", "index": 0}
    return {"model": body["model"], "choices": [message], "usage": {}}


def test_end_to_end(tmp_path, server, capsys):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 30)
    real = tmp_path / "real.jsonl"
    real.write_text("".join(json.dumps({"query": f"where is boat {n} {TEXT[n : n + 9]}"}) + "\n" for n in range(60)))
    more = {"use": "retrieval", "answer_span": True, "style_examples": str(real), "question_types": {"keywords": 1}}
    scores = [{"use": "cosine"}, {"use": "seed_overlap", "queries": str(real)}]
    keep = {"seed_overlap": {"below": 1.0}}
    job = write_job(tmp_path, job_dict(server.url, tmp_path, task=more, scores=scores, keep=keep))
    assert main(["check", str(job), "--json"]) == 0
    capsys.readouterr()
    run(job, tmp_path / "out")
    summary = json.loads(capsys.readouterr().out)
    made = rows(tmp_path / "out", "kept")
    assert len(made) == summary["pairs"] == 30
    assert all(row["answer_span"] in row["passage"] for row in made)
    assert all(0 <= row["seed_overlap"] < 1 for row in made)
    near = summary["real_queries"]
    assert (near["made"], near["real"]) == (30, 60)
    assert near["energy"] > near["energy_of_halves"] > 0
    assert near["first_words"] == 0
    run(job, tmp_path / "out")
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
    real.write_text(json.dumps({"query": "another"}) + "\n")
    with pytest.raises(OutputError, match=r"styles\.txt"):
        run(job, tmp_path / "out")


def test_a_reply_in_a_fence_still_has_its_answer():
    reply = ChatReply('```json\n{"Query": "when", "Answer": "at nine"}\n```', "stop", "m")
    (pair,) = generate(Scripted(query=lambda _: reply), {"answer_span": True})
    assert pair.columns["answer_span"] == "at nine"
