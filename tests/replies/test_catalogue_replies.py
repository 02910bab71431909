"""Bad replies of a model, each through a whole run: every row of the catalogue with its stated result.

The numbers are those of docs/reliability.md. One passage, one item; stage one has nothing to choose unless it is what
is tried, so the reply is that of stage two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from catalogue import lines, rows
from loopback import Loopback, say
from running import write_job

from synth.cli import main

pytestmark = pytest.mark.faults

PASSAGE = "The ferry to the island leaves the harbour at nine in the morning and takes forty minutes in calm weather."
QUERY = "when does the ferry to the island leave"
GOOD = json.dumps({"Query": QUERY})
EXAMPLE_ECHO = "<query>"


@dataclass(frozen=True)
class Case:
    """A reply (or the JSON body of an answer), and what the item becomes."""

    text: str | None = ""
    finish: str = "stop"
    body: dict[str, Any] | None = None
    query: str | None = None
    """The accepted query; None where the item is rejected."""
    reason: str = ""
    asked: int = 3
    """Requests that the item costs."""
    repaired: bool = False
    task: dict[str, Any] = field(default_factory=dict)


def accepted(text, query=QUERY, **more):
    return Case(text, query=query, asked=1, **more)


def repaired(text, query=QUERY, **more):
    return accepted(text, query, repaired=True, **more)


def rejected(text, reason, **more):
    return Case(text, reason=reason, **more)


TWO_STAGES = {"question_types": "auto", "difficulties": "auto"}
CASES = {
    "L1 fenced": accepted(f"```json\n{GOOD}\n```"),
    "L2 closed reasoning": accepted(f"<think>Let me see.</think>\n\n{GOOD}"),
    "L2 reasoning without end": rejected(f"<think>Let me see {GOOD}", "think"),
    "L3 prose around one object": accepted(f"Here you are: {GOOD} I hope it helps."),
    "L3 prose around two objects": rejected(f'{GOOD} or {{"Query": "another one"}}', "many"),
    "L4 a trailing comma": repaired(GOOD[:-1] + ",}"),
    "L4 single quotes": repaired(f"{{'Query': '{QUERY}'}}"),
    "L4 Python literals": repaired(f'{{"Query": "{QUERY}", "sure": True}}'),
    "L4 quotes inside": repaired('{"Query": "what is a "cold" harbour"}', 'what is a "cold" harbour'),
    "L4 a Spanish key": repaired(json.dumps({"Consulta": QUERY})),
    "L4 a Chinese key": repaired(json.dumps({"查询": QUERY}, ensure_ascii=False)),
    "L4 no repair": rejected(GOOD[:-1] + ",}", "json", task={"repair": False}),
    "L6 further keys": accepted(json.dumps({"Query": QUERY, "Language": "en", "why": [1, 2]})),
    "L2 a draft in unopened reasoning": rejected(f"What of {GOOD}?</think>I cannot write one.", "refusal"),
    "L7 a key with two values": rejected(GOOD[:-1] + ', "Query": "another one"}', "many"),
    "L8 the object under another key": repaired(f'{{"status": "ok", "result": {GOOD}}}'),
    "L8 the value of another key": rejected('{"status": "ok"}', "key"),
    "L9 an array of many": rejected(f'[{GOOD}, {{"Query": "another one"}}]', "many"),
    "L13 a refusal": rejected("I'm sorry, but I can't help with that.", "refusal"),
    "L14 an empty string": rejected("", "empty"),
    "L14 null": rejected(None, "empty"),
    "L14 choices empty": Case(body={"model": "tiny", "choices": []}, reason="empty"),
    "L14 choices null": Case(body={"model": "tiny", "choices": None}, reason="empty"),
    "L15 cut off": rejected(GOOD[:-8], "truncated", finish="length"),
    "L15 cut off after a whole object": rejected(GOOD, "truncated", finish="length"),
    "L16 white space without end": rejected('{"Query": ' + " \n" * 300, "whitespace_loop", finish="length"),
    "L17 the server's filter": rejected("", "filtered", finish="content_filter", asked=1),
    "L18 another language": accepted(
        json.dumps({"Query": "wann fährt die Fähre zur Insel ab"}), "wann fährt die Fähre zur Insel ab"
    ),
    "L19 a copy of the passage": accepted(json.dumps({"Query": PASSAGE}), PASSAGE),
    "L20 too short": accepted('{"Query": "ferry"}', "ferry"),
    "L21 a placeholder": rejected(json.dumps({"Query": EXAMPLE_ECHO}), "echo"),
    "L23 NaN": rejected('{"Query": NaN}', "json"),
    "L24 nested without end": rejected('{"Query": ' + "[" * 100_000, "too_large"),
    "L24 two megabytes": rejected(json.dumps({"Query": "x" * 2_000_000}), "too_large"),
    "L26 a terminal escape": rejected(json.dumps({"Query": "ferry \x1b[2J times"}), "control"),
    "L26 NUL": rejected(json.dumps({"Query": "ferry \0 times"}), "control"),
    "L27 HTML and Markdown": accepted('{"Query": "<b>ferry</b> **times** & tides"}', "<b>ferry</b> **times** & tides"),
    "a lone surrogate": rejected('{"Query": "ferry \\ud800 times"}', "surrogate"),
    "another type": rejected('{"Query": ["ferry"]}', "type"),
    "L29 two equal choices": Case(
        body=say(GOOD) | {"choices": say(GOOD)["choices"] * 2},
        query=QUERY,
        asked=1,
    ),
}
CHOICES = {
    "L11 case, space and hyphen": (lambda part: part["enum"][0].upper().replace("_", "-"), None),
    "L11 none of those offered": (lambda _: "riddle", "enum"),
}


def go(place, chat, **task):
    """Run one passage over a server that answers so; returns the output folder and the number of requests."""
    lines(place / "docs.jsonl", [{"id": "d0", "text": PASSAGE}])
    llm = {"repair": task.pop("repair")} if "repair" in task else {}
    with Loopback() as server:
        server.chat = chat
        job = {
            "corpus": {"path": str(place / "docs.jsonl"), "language": "en"},
            "personas": None,
            "llm": {"use": "vllm_server", "model": "tiny", "base_urls": [server.url], **llm},
            "task": {"use": "retrieval", "question_types": {"yes_or_no": 1}, "difficulties": None} | task,
            "scores": [{"use": "length"}, {"use": "language"}, {"use": "copying"}],
            "keep": {},
            "limits": {"max_unusable_share": 1},
        }
        assert main(["run", str(write_job(place, job)), "-o", str(place / "out"), "--json"]) == 0
        return place / "out", [seen.body for seen in server.posts]


@pytest.mark.parametrize("name", CASES)
def test_a_reply_becomes_what_is_stated(name, tmp_path):
    case = CASES[name]
    body = case.body or say(case.text, finish_reason=case.finish)
    out, asked = go(tmp_path, lambda _: body, **case.task)
    pairs, refused = rows(out, "kept"), rows(out, "rejected/generated")
    assert len(asked) == case.asked
    assert len({each["seed"] for each in asked}) == len(asked)
    if case.query is not None:
        assert [(row["query"], row["repaired"]) for row in pairs] == [(case.query, case.repaired)]
        return
    assert pairs == []
    assert [row["reason"] for row in refused] == [case.reason]
    attempts = refused[0]["attempts"]
    assert [each["reason"] for each in attempts] == [case.reason] * case.asked
    assert all(len((each["reply"] or "").encode()) <= 8192 for each in attempts)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_becomes_what_is_stated(name, tmp_path):
    choose, reason = CHOICES[name]

    def chat(body):
        parts = body["response_format"]["json_schema"]["schema"]["properties"]
        return say(GOOD if "Query" in parts else json.dumps({key: choose(part) for key, part in parts.items()}))

    out, _ = go(tmp_path, chat, **TWO_STAGES)
    assert [row["reason"] for row in rows(out, "rejected/generated")] == ([reason] if reason else [])
    if reason:
        assert "allowed" in rows(out, "rejected/generated")[0]["detail"]


def test_l15_the_second_try_has_twice_the_room_and_no_more(tmp_path):
    _, asked = go(tmp_path, lambda _: say(GOOD[:-8], finish_reason="length"))
    rooms = [each.get("max_tokens") or each["max_completion_tokens"] for each in asked]
    assert rooms == [rooms[0], rooms[0] * 2, rooms[0] * 2]


def test_l17_to_l20_are_measured_and_not_refused(tmp_path):
    out, _ = go(tmp_path, lambda _: say(json.dumps({"Query": PASSAGE})))
    (row,) = rows(out, "kept")
    assert row["copied_share"] == pytest.approx(1)
    assert row["language_ok"] is not False
    out, _ = go(tmp_path / "b" if (tmp_path / "b").mkdir() is None else tmp_path, lambda _: say('{"Query": "ferry"}'))
    (row,) = rows(out, "kept")
    assert row["length_error"] > 0


def test_l18_asked_again_where_the_job_wants_it(tmp_path):
    german = json.dumps({"Query": "wann fährt die Fähre am Morgen vom Hafen zur Insel ab"})
    out, asked = go(tmp_path, lambda _: say(german), retry_on=["language"])
    assert len(asked) == 3
    (row,) = rows(out, "kept")
    assert row["language_ok"] is False


def test_l12_a_character_that_was_not_offered(tmp_path):
    lines(tmp_path / "docs.jsonl", [{"id": "d0", "text": PASSAGE}])

    def chat(body):
        parts = body["response_format"]["json_schema"]["schema"]["properties"]
        found = {
            key: "a pirate" if key == "Character" else part["enum"][0] for key, part in parts.items() if key != "Query"
        }
        return say(json.dumps(found or {"Query": QUERY}))

    with Loopback() as server:
        server.chat = chat
        served = {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]}
        job = {
            "corpus": {"path": str(tmp_path / "docs.jsonl"), "language": "en"},
            "personas": {"path": str(tmp_path / "people.txt")},
            "llm": served,
            "embed": served,
            "limits": {"max_unusable_share": 1},
        }
        assert main(["run", str(write_job(tmp_path, job)), "-o", str(tmp_path / "out"), "--json"]) == 0
    (row,) = rows(tmp_path / "out", "rejected/generated")
    assert (row["reason"], len(row["attempts"])) == ("character", 3)


def test_l28_another_model_in_the_reply_is_told_once(tmp_path, capsys):
    lines(tmp_path / "docs.jsonl", [{"id": "d0", "text": PASSAGE}])
    go(tmp_path, lambda _: say(GOOD, model="somebody-else"))
    assert capsys.readouterr().err.count("somebody-else") == 1


def test_every_row_of_the_catalogue_has_its_test():
    numbers = {1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29}
    named = {int(name.split()[0][1:]) for name in [*CASES, *CHOICES] if name.startswith("L")}
    assert named | {12, 28} == numbers
