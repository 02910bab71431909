"""`synth view` without a browser: what it answers, to whom, and what becomes of marks."""

import json
import os
import signal
import subprocess
import sys

import polars as pl
import pytest
from loopback import Loopback
from running import job_dict, run, write_corpus, write_job
from viewing import HOSTILE, asked, fetched, rows, served, spoiled

from synth.cli import main
from synth.marks import FILE

EVERYWHERE = "0.0.0.0"  # noqa: S104 - to be refused


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with two passages whose replies were no use, and the server that was asked."""
    folder = tmp_path_factory.mktemp("view")
    with Loopback() as server:
        server.chat = spoiled
        write_corpus(folder / "docs.jsonl", 16)
        with (folder / "docs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": "short", "text": "x"}) + "\n")
            file.write(json.dumps({"id": "bad", "text": f"The report number 99 is about the mill: {HOSTILE}"}) + "\n")
        job = job_dict(server.url, folder, scores=[{"use": "cosine"}, {"use": "copying"}])
        run(write_job(folder, job), folder / "out")
        assert main(["keep", str(folder / "out"), "--above", "cosine=0.25", "--as", "strict"]) == 0
        with served(folder / "out") as url:
            yield folder / "out", url, [post.body for post in server.posts if "messages" in post.body]


@pytest.fixture
def out(home):
    yield home[0]
    (home[0] / FILE).unlink(missing_ok=True)


@pytest.fixture
def url(home):
    return home[1]


def stored(out, part):
    return pl.read_parquet(f"{out}/{part}/*.parquet")


def test_every_kind_of_row_is_there(out, url):
    found = {each["name"]: each["rows"] for each in asked(url, "about")[1]["parts"]}
    parts = ("kept", "views/strict", "generated", "rejected/kept", "rejected/views/strict", "rejected/generated")
    assert found == {part: stored(out, part).height for part in (*parts, "rejected/passages")}


def test_filters_search_and_order_are_those_of_polars(out, url):
    every = stored(out, "generated")
    scored = stored(out, "rejected/kept")
    word, kind = every["query"][0].split()[-2], every["question_type"][0]
    part, total = rows(url, "generated", filters=[["query", word.upper()], ["question_type", kind[:4]]])
    wanted = every.filter(pl.col("query").str.contains(word, literal=True), pl.col("question_type") == kind)
    assert total == wanted.height > 0
    assert [row["id"] for row in part] == wanted["id"].to_list()
    for text, condition in (
        ("0.1..0.2", pl.col("cosine").is_between(0.1, 0.2)),
        (">0.15", pl.col("cosine") > 0.15),
        ("<=0.15", pl.col("cosine") <= 0.15),
        ("none", pl.col("cosine").is_null()),
    ):
        assert rows(url, "rejected/kept", filters=[["cosine", text]])[1] == scored.filter(condition).height
    assert rows(url, "generated", filters=[["repaired", "false"]])[1] == every.height
    assert rows(url, "rejected/kept", filters=[["failed", "cosine above"]])[1] == scored.height
    assert (
        rows(url, "generated", search="onerror=")[1] == every.filter(pl.col("passage").str.contains("onerror")).height
    )
    ordered = scored.sort("cosine", descending=True)["id"].to_list()
    pages = [rows(url, "rejected/kept", page=page, size=7, sort=["cosine", True])[0] for page in (1, 2)]
    assert [row["id"] for page in pages for row in page] == ordered[:14]


def test_what_cannot_be_asked_is_said(url):
    what = {"part": "kept", "page": 1, "size": 5, "search": "", "sort": None}
    status, found = asked(url, "rows", **what, filters=[["cosine", "above 3"]])
    assert (status, found["error"].startswith("cosine: above 3 is not a condition")) == (400, True)
    assert asked(url, "rows", **what, filters=[["nothing", "x"]])[0] == 400
    assert asked(url, "rows", **what | {"part": "../../etc"}, filters=[])[0] == 400
    assert asked(url, "row", part="kept", row=10**6)[0] == 400
    assert asked(url, "row", part="kept")[0] == 400
    assert fetched(f"{url}/row", "no mapping")[0] == 400


def test_a_rejected_item_shows_its_passage_its_prompts_and_its_replies(home, out, url):
    items = stored(out, "rejected/generated").to_dicts()
    texts = dict(stored(out, "passages").select("id", "text").iter_rows())
    for number, item in enumerate(items):
        found = asked(url, "row", part="rejected/generated", row=number)[1]
        assert found["passage"]["passage"] == texts[item["passage_id"]]
        assert [each["reply"] for each in found["row"]["attempts"]] == [each["reply"] for each in item["attempts"]]
        prompts = asked(url, "prompts", part="rejected/generated", row=number)[1]["prompts"]
        sent = {each["seed"]: each["messages"] for each in home[2]}
        wanted = [[[m["role"], m["content"]] for m in sent[each["seed"]]] for each in item["attempts"]]
        assert prompts == wanted
        assert len(prompts) == len(item["attempts"]) > 1


def test_the_last_mark_of_a_row_holds(out, url):
    first, second = (row["id"] for row in rows(url)[0][:2])
    for row, mark, comment in (
        (first, "good", ""),
        (second, "bad", "«zu eng»\n"),
        (first, "bad", ""),
        (first, None, ""),
    ):
        assert asked(url, "mark", id=row, mark=mark, comment=comment)[0] == 200
    lines = [json.loads(line) for line in (out / FILE).read_text(encoding="utf-8").splitlines()]
    assert [(each["id"], each["mark"]) for each in lines] == [
        (first, "good"),
        (second, "bad"),
        (first, "bad"),
        (first, None),
    ]
    assert asked(url, "about")[1]["marks"] == {"good": 0, "bad": 1}
    marked, total = rows(url, filters=[["my mark", "bad"]])
    assert [(row["id"], row["my comment"]) for row in marked] == [(second, "«zu eng»\n")]
    assert total == 1
    assert rows(url, filters=[["my mark", "none"]])[1] == stored(out, "kept").height - 1
    for wrong in ({"id": "../x", "mark": "good"}, {"id": first, "mark": "fine"}, {"id": first, "comment": 3}):
        assert asked(url, "mark", **wrong)[0] == 400


def test_a_line_that_a_kill_cut_off_costs_no_other(out, url, capsys):
    first, second = (row["id"] for row in rows(url)[0][:2])
    asked(url, "mark", id=first, mark="good")
    with (out / FILE).open("a") as file:
        file.write('{"id": "5-1", "ma')
    asked(url, "mark", id=second, mark="bad")
    assert asked(url, "about")[1]["marks"] == {"good": 1, "bad": 1}
    assert main(["verify", str(out)]) == 0
    assert "marks.jsonl: line 2 is not a mark" in capsys.readouterr().out


def test_marks_are_labels_of_a_sweep(out, url, capsys):
    pairs = {
        row["id"]: row["cosine"] for row in stored(out, "rejected/kept").to_dicts() + stored(out, "kept").to_dicts()
    }
    assert main(["sweep", str(out), "--label-column", "marks"]) == 2
    assert "synth view" in capsys.readouterr().err
    for row, cosine in pairs.items():
        asked(url, "mark", id=row, mark="good" if cosine > 0.15 else "bad")
    assert main(["sweep", str(out), "--label-column", "marks", "--target", "precision=0.9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["auc"]["cosine"] == 1
    fit = found["proposed"][0]["fit"]
    assert fit["labelled"] == len(pairs)
    assert fit["precision"]["value"] >= 0.9
    assert fit["recall"]["value"] == 1


def test_only_who_knows_the_token_is_answered(url):
    assert fetched(f"{url}/about", {}, **{"X-Synth-Token": "another"})[0] == 401
    assert fetched(f"{url}/mark", {"id": "0-0", "mark": "good"}, **{"X-Synth-Token": ""})[0] == 401
    assert fetched(f"{url}/", Host="attacker.example")[0] == 403
    assert fetched(f"{url}/about", {}, Host="attacker.example:80")[0] == 403
    assert fetched(f"{url}/about", {}, Host="][")[0] in (400, 403)
    for name in ("localhost", "localhost:1", "127.0.0.1", "[::1]:80"):
        assert fetched(f"{url}/about", {}, Host=name)[0] == 200
    assert fetched(f"{url}/about")[0] == 405
    for path in ("/job.json", "/../job.json", "/..%2fjob.json", "/static/view.js", "/kept/00000000.parquet"):
        status, headers, _ = fetched(url + path)
        assert status == 404
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    for path in ("/", "/view.js", "/view.css", "/tabulator.js", "/tabulator.css"):
        status, headers, text = fetched(url + path)
        assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert text


def test_a_run_is_served_to_others_only_with_a_token(out, capsys):
    assert main(["view", str(out), "--host", EVERYWHERE]) == 2
    assert "Name a --token" in capsys.readouterr().err
    assert main(["view", str(out), "--host", EVERYWHERE, "--token", "short"]) == 2
    assert main(["view", str(out.parent)]) == 4


def test_the_command_prints_an_address_and_ends_with_ctrl_c(out):
    command = [sys.executable, "-m", "synth", "view", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SYNTH_VIEW_TOKEN": "x" * 16},
    )
    address, _, token = process.stdout.readline().strip().partition("#")
    assert (token, fetched(address)[0]) == ("x" * 16, 200)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Traceback" not in said
