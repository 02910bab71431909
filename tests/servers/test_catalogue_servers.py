"""Bad servers, each through a whole run on real time: every row of the catalogue with its stated result.

The numbers are those of docs/reliability.md. What takes minutes is tried on a clock of its own in other files;
`ELSEWHERE` says where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from catalogue import lines, rows
from loopback import Fault, Loopback, bag_of_words, say
from running import completion, passage, write_job

from synth.cli import main

pytestmark = pytest.mark.faults

PASSAGES = 6
ELSEWHERE = {
    "V1 in mid-run": ("llm/test_vllm_server.py", "test_a_key_that_fails_in_the_middle_is_tried_three_times"),
    "V4 in mid-run": (
        "llm/test_vllm_server.py",
        "test_bad_requests_from_the_start_are_the_jobs_fault_later_ones_the_items",
    ),
    "V7": ("servers/test_outages.py", "test_what_time_cures_is_asked_again"),
    "V8": ("servers/test_formats.py", "test_a_spent_quota_ends_the_run_at_once_quoting_the_provider"),
    "V8 in mid-run": ("llm/test_vllm_server.py", "test_a_key_that_fails_in_the_middle_is_tried_three_times"),
    "V10": ("servers/test_outages.py", "test_a_model_that_is_still_loading_is_waited_for"),
    "V12": ("servers/test_outages.py", "test_a_hang_and_a_slow_drip_end_at_the_total_deadline"),
    "V17": ("llm/test_vllm_server.py", "test_an_unknown_certificate_is_refused_and_ca_file_cures_it"),
    "V19": ("llm/test_vllm_server.py", "test_proxies_are_used_only_with_trust_env_and_never_for_this_machine"),
    "V20": ("llm/test_vllm_server.py", "test_another_checkpoint_after_a_restart_is_refused"),
    "V21": ("servers/test_outages.py", "test_requests_of_a_passage_meet_one_server_and_a_dead_one_hands_over"),
    "V22": ("embed/test_embedders.py", "test_another_width_in_the_middle_is_refused"),
    "V26": ("scores/test_scorers_more.py", "test_a_missing_token_counts_only_where_it_cannot_matter"),
}


def html(status):
    return Fault(status, "<html><body>Bad <b>Gateway</b>\x1b[2J</body></html>", {"Content-Type": "text/html"})


PASSING = {
    "V6 429 with seconds": Fault(429, headers={"Retry-After": "0.2"}),
    "V6 429 with milliseconds": Fault(429, headers={"Retry-After-Ms": "150"}),
    "V6 429 with a date": Fault(429, headers={"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}),
    "V7 429 bare": Fault(429),
    "V9 500": Fault(500),
    "V9 502 with HTML": html(502),
    "V9 503": Fault(503),
    "V9 504": Fault(504),
    "V10 503 while loading": Fault(503, {"error": {"message": "model is loading"}}),
    "V11 no headers": Fault(delay=5),
    "V12 a slow drip": Fault(200, {"choices": []}, drip=0.2),
    "V13 reset": Fault(reset=True),
    "V13 end in the body": Fault(200, {"choices": []}, short=True),
    "V14 200 with HTML": html(200),
    "V15 200 with broken JSON": Fault(200, '{"choices": [{"mess'),
    "V27 a date from another year": Fault(503, headers={"Date": "Mon, 01 Jan 1990 00:00:00 GMT"}),
}
LONG = "This model's maximum context length is 8 tokens. Please reduce the length of the messages."
FINAL = {
    "V1 401": (Fault(401), 5, ("401", "api_key_env")),
    "V1 403": (Fault(403), 5, ("403", "api_key_env")),
    "V2 404": (Fault(404), 5, ("404", "/chat/completions")),
    "V4 400 on every row": (Fault(400, {"error": {"message": "no such parameter: zebra"}}), 5, ("20", "zebra")),
    "V16 a redirect": (Fault(307, headers={"Location": "http://u:pw@127.0.0.1:9/v1?k=1"}), 5, ("127.0.0.1:9",)),
}


@dataclass
class Place:
    folder: Path
    server: Loopback

    def run(self, count=PASSAGES, **more):
        lines(self.folder / "docs.jsonl", [{"id": f"d{n}", "text": passage(n)} for n in range(count)])
        served = {"use": "vllm_server", "model": "tiny", "base_urls": [self.server.url]}
        job: dict[str, Any] = {
            "corpus": {"path": str(self.folder / "docs.jsonl"), "language": "en"},
            "personas": None,
            "llm": served,
            "embed": served,
            "task": {"use": "retrieval"},
            "scores": [{"use": "cosine"}],
            "keep": {},
            "limits": {"max_unusable_share": 1},
            "run": {"shard_size": 3, "concurrency": 2, "request_timeout": 0.5},
        }
        return main(["run", str(write_job(self.folder, job | more)), "-o", str(self.folder / "out"), "--json"])

    def rows(self, step):
        return rows(self.folder / "out", step)


@pytest.fixture
def place(tmp_path, server):
    server.chat = completion
    return Place(tmp_path, server)


def chats(server):
    return [seen for seen in server.posts if "messages" in seen.body]


@pytest.mark.parametrize("name", PASSING)
def test_what_time_cures_costs_no_item_an_attempt(name, place, capsys):
    """The third request fails twice; the run is whole, and nobody was charged."""
    failing = iter([PASSING[name]] * 2)
    place.server.rule = lambda seen: (
        next(failing, None) if len(chats(place.server)) > 3 and seen.method == "POST" else None
    )
    assert place.run() == 0, capsys.readouterr().err
    assert len(place.rows("kept")) == PASSAGES
    assert all(row["attempts"] <= 2 for row in place.rows("kept")), "one try for each stage"
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert all(len(line) < 700 for line in said.splitlines())


@pytest.mark.parametrize("name", FINAL)
def test_what_waiting_does_not_cure_ends_in_5(name, place, capsys):
    fault, code, words = FINAL[name]
    place.server.rule = lambda seen: fault if "messages" in (seen.body or {}) else None
    assert place.run(count=30) == code
    said = capsys.readouterr().err
    assert [each for each in words if each not in said] == []
    assert "pw@" not in said
    assert "k=1" not in said
    assert place.rows("rejected/generated") == [], "no item is to blame"
    place.server.rule = lambda _: None
    assert place.run(count=30) == 0
    assert len(place.rows("kept")) == 30


def test_v2_an_unknown_model_lists_what_there_is(place, capsys):
    place.server.models = ("other",)
    assert place.run() == 5
    assert "other" in capsys.readouterr().err


def test_v3_a_prompt_that_does_not_fit_is_one_rejected_item(place):
    body = {"error": {"message": LONG, "code": 400}}
    place.server.rule = lambda seen: (
        Fault(400, body) if "report number 2" in seen.text and "messages" in seen.text else None
    )
    assert place.run() == 0
    (row,) = place.rows("rejected/generated")
    assert (row["reason"], row["passage_id"], len(row["attempts"])) == ("too_long", "d2", 1)


def test_v18_nobody_listens(place, capsys):
    place.server.stop()
    assert place.run(limits={"startup": 0.5}) == 5
    assert "limits.startup" in capsys.readouterr().err
    place.server.start()
    assert place.run() == 0


def test_v18_no_such_host(place, capsys):
    served = {"use": "vllm_server", "model": "tiny", "base_urls": ["http://synth.invalid:8000/v1"]}
    assert place.run(llm=served, limits={"startup": 3.0}) == 5  # a name may take a second to be looked up
    assert "synth.invalid" in capsys.readouterr().err


def test_v19_proxies_of_the_environment_are_shown_in_check(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "exempt.invalid")
    monkeypatch.delenv("NO_PROXY", raising=False)
    lines(tmp_path / "docs.jsonl", [{"id": "d0", "text": passage(0)}])
    for trust, host, said in (
        (
            False,
            "far.invalid",
            "far.invalid is reached directly: the proxy of the environment counts with trust_env only",
        ),
        (True, "far.invalid", "far.invalid is reached through the proxy http://proxy.example:3128"),
        (True, "exempt.invalid", "exempt.invalid is reached directly: the environment exempts it"),
        (True, "127.0.0.1:9", None),
    ):
        served = {"use": "vllm_server", "model": "m", "base_urls": [f"http://{host}/v1"], "trust_env": trust}
        job = {"corpus": {"path": str(tmp_path / "docs.jsonl"), "language": "en"}, "llm": served, "embed": served}
        main(["check", str(write_job(tmp_path, job)), "--offline"])
        out = " ".join(capsys.readouterr().out.split())
        assert ("is reached" in out) == (said is not None)
        assert said is None or said in out
        assert "secret" not in out


@pytest.mark.parametrize("broken", ["nan", "inf", "null", "zero"], ids=lambda name: f"V23 {name}")
def test_v23_a_text_without_a_usable_vector_costs_itself_alone(place, broken):
    values: dict[str, Any] = {"nan": [float("nan")] * 64, "inf": [float("inf")] * 64, "null": None, "zero": [0.0] * 64}
    place.server.embed = lambda text: values[broken] if "number 4 " in text else bag_of_words(text)
    assert place.run(personas={"path": str(place.folder / "people.txt"), "top_k": 2}) == 0
    (row,) = place.rows("rejected/generated")
    assert (row["reason"], row["passage_id"]) == ("embedding", "d4")
    assert {row["passage_id"] for row in place.rows("kept")} == {"d0", "d1", "d2", "d3", "d5"}


def test_v23_a_query_without_a_vector_has_no_score(place):
    place.server.embed = lambda text: None if text.startswith("what does report 5 ") else bag_of_words(text)
    assert place.run(keep={"cosine": {"above": -1.0}}) == 0
    (row,) = place.rows("rejected/kept")
    assert (row["passage_id"], row["cosine"]) == ("d5", None)


def test_v22_another_width_in_mid_run_commits_nothing(place, capsys):
    """The second shard's vectors are shorter than the first's."""

    def embed(text):
        vector = bag_of_words(text)
        return (
            vector[:32] if re.search(r"number [345] ", text) or re.match(r"what does report [345] ", text) else vector
        )

    def too_early(seen):
        first_is_scored = any((place.folder / "out" / "scores").glob("*/00000000.parquet"))
        return Fault(503) if re.search(r"report number [345] ", seen.text) and not first_is_scored else None

    place.server.embed, place.server.rule = embed, too_early
    assert place.run(run={"shard_size": 3, "concurrency": 1}) == 5
    assert "dimensions" in capsys.readouterr().err
    (folder,) = (place.folder / "out" / "scores").iterdir()
    assert [path.name for path in folder.iterdir()] == ["00000000.parquet"]
    place.server.embed = bag_of_words
    assert place.run(run={"shard_size": 3, "concurrency": 1}) == 0
    assert {row["passage_id"] for row in place.rows("kept")} == {f"d{number}" for number in range(6)}


def test_p9_a_poisoned_item_costs_its_attempts_once_whatever_stops_the_run(place):
    """Stopped after each of its tries and gone on with, then run thrice more: three requests in all."""
    poisoned = "report number 4 "

    def chat(body):
        return say("no JSON") if poisoned in body["messages"][-1]["content"] else completion(body)

    def tries():
        return [seen.body["seed"] for seen in chats(place.server) if poisoned in seen.text]

    gone = Fault(307, headers={"Location": "http://127.0.0.1:9/"})
    place.server.chat = chat
    for allowed in (1, 2):
        place.server.rule = lambda seen, n=allowed: gone if poisoned in seen.text and len(tries()) > n else None
        assert place.run(run={"shard_size": 3, "concurrency": 1}) == 5
    place.server.rule = lambda _: None
    for _ in range(4):
        assert place.run() == 0
    (row,) = place.rows("rejected/generated")
    assert (row["passage_id"], row["reason"]) == ("d4", "refusal")
    assert [each["reply"] for each in row["attempts"]] == ["no JSON"] * 3
    assert [each["seed"] for each in row["attempts"]] == list(dict.fromkeys(tries()))
    assert len(tries()) == 3 + 2, "and the two that were refused"
    assert len(chats(place.server)) == len({seen.text for seen in chats(place.server)}) + 2


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_is_tried_elsewhere_is_there(number):
    name, function = ELSEWHERE[number]
    assert f"def {function}(" in (Path(__file__).parents[1] / name).read_text("utf-8")


def test_every_row_of_the_catalogue_has_its_test():
    numbers = {1, 2, 3, 4, *range(6, 24), 26, 27}
    named = {int(name.split()[0][1:]) for name in [*PASSING, *FINAL, *ELSEWHERE]}
    assert named | {2, 3, 18, 19, 22, 23} == numbers
