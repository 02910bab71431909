"""The classification task: labels given or proposed, closed sets, texts for drawn labels, and what a run prepares."""

import asyncio
import json
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from loopback import Loopback, say
from running import WORDS, job_dict, rows, write_corpus

from synth.cli import main
from synth.job import load_job
from synth.runs.identity import sha256
from synth.shipped import shipped
from synth.stage import ChatReply
from synth.tasks import TaskSettings, Writer
from synth.tasks.classification import Classification
from synth.types import Candidates, Passage, Rejected

BANKING77 = Path(__file__).parents[2].parent / "shared" / "data" / "classification" / "banking77.parquet"
LABELS = {"ferries": "Crossings and timetables.", "weather": "Wind, rain and ice.", "money": None, "lost property": ""}
PROPOSED = {
    "Task": "Find what a given report is mostly about, by its subject",
    "Labels": [{"Label": f"subject {n}", "Definition": f"What belongs to it, number {n}."} for n in range(5)],
}
TEXT = "The boat leaves at nine every morning and takes forty minutes in calm weather."


class Scripted:
    """A chat model that answers by a function of the request."""

    slots, troubled = 1, False

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def complete(self, request):
        self.asked.append(request)
        return ChatReply(json.dumps(self.answer(request), ensure_ascii=False), "stop", "scripted")


def outcome(answer, text=TEXT, language="en", **task):
    """What becomes of one passage, and the model that was asked."""
    job = {"labels": LABELS, **task}
    stage = Classification.model_validate_json(json.dumps(job))
    chat = Scripted(answer if callable(answer) else lambda _: answer)
    writer = Writer(stage, stage.load_prompts(Path.cwd()), TaskSettings(seed=7, max_tokens=512, repair=True, top_k=0))
    found = Candidates(Passage(3, "p3", text, language, "docs"), (), ())
    return asyncio.run(writer.write(found, chat)), chat


def make(folder, task, **more):
    """A job over `more`'s or 20 short texts, written by the test double; returns its path."""
    write_corpus(folder / "docs.jsonl", 20)
    job = {
        "seed": 5,
        "corpus": {"path": str(folder / "docs.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "task": {"use": "classification", **task},
        "scores": [],
        "run": {"shard_size": 8},
        **more,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return str(path)


def test_a_passage_gets_its_label_and_the_misleading_ones():
    reply = {"Label": "Lost_Property", "Misleading": ["money", "lost property", "nonsense", "weather", "money"]}
    (pair,), chat = outcome(reply)
    assert (pair.query, pair.passage.text, pair.language) == ("lost property", TEXT, "en")
    assert pair.columns["class_label"] == "lost property"
    assert pair.columns["text"] == TEXT
    assert pair.columns["misleading_labels"] == ["money", "weather"]
    assert len(chat.asked) == 3, "a list that is too short is asked again, and then will do"
    schema = chat.asked[0].schema["properties"]
    assert schema["Label"]["enum"] == schema["Misleading"]["items"]["enum"] == [*LABELS]
    assert "- ferries: Crossings and timetables.\n- weather" in chat.asked[0].messages[0][1]


def test_a_label_of_no_set_is_a_rejected_item():
    (rejected,), _ = outcome({"Label": "harbours", "Misleading": ["money", "weather", "ferries"]})
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, len(rejected.attempts)) == ("enum", 3)
    assert "not one of the 4 labels" in rejected.detail


@pytest.mark.parametrize("prompts", ["default", "small"])
@pytest.mark.parametrize("misleading", [0, 1, 3])
def test_the_prompt_ends_with_the_text_and_asks_for_so_many(prompts, misleading):
    reply = {"Label": "ferries", "Misleading": ["weather", "money", "lost property"]}
    (pair,), chat = outcome(reply, prompts=prompts, misleading=misleading)
    assert pair.columns["misleading_labels"] == reply["Misleading"][:misleading]
    assert len(chat.asked) == 1
    assert TEXT in chat.asked[0].messages[-1][1]
    earlier = "".join(content for _, content in chat.asked[0].messages[:-1])
    assert ("Misleading" in earlier) == (misleading > 0)


def test_a_text_is_written_for_a_drawn_label_that_it_does_not_name():
    answers = iter(["Where is my LOST umbrella, the property office is shut?", "I left an umbrella on the upper deck."])
    task = {"write": True, "labels": {"lost property": {"weight": 1}, "ferries": {"weight": 0, "means": "Boats."}}}
    (pair,), chat = outcome(lambda _: {"Text": next(answers), "Misleading": ["ferries"]}, lengths=[5, 12], **task)
    assert pair.query == "I left an umbrella on the upper deck."
    assert pair.passage.text == TEXT
    assert pair.columns["class_label"] == "lost property"
    assert pair.columns["text"] == pair.query
    assert pair.columns["clarity"] in {"clear", "some_effort", "ambiguous"}
    assert (pair.requirement.length_min, pair.requirement.length_max) == (5, 12)
    assert "Length: 5 to 12 words" in chat.asked[0].messages[-1][1]
    (rejected,), _ = outcome({"Text": "A property that was lost.", "Misleading": ["ferries"]}, lengths=[3, 9], **task)
    assert rejected.reason == "label_in_text"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The boat leaves at nine every morning", "echo"),
        ("word " * 60, "repetition"),
        (" ".join(WORDS), "run_on"),
    ],
)
def test_a_text_that_repeats_is_not_taken(text, reason):
    (rejected,), _ = outcome({"Text": text, "Misleading": ["ferries"]}, write=True, lengths=[5, 12], misleading=1)
    assert rejected.reason == reason


def test_in_a_script_without_spaces_the_label_is_looked_for_as_a_whole():
    task = {"write": True, "labels": ["渔业", "交通"], "misleading": 0, "lengths": [5, 40]}
    text = "受低温影响，今年的渔业产量大幅下降，市场价格上涨。"
    (rejected,), _ = outcome({"Text": text}, "港口结冰，船只停航。", "zh-Hans", **task)
    drawn = rejected.detail if isinstance(rejected, Rejected) else rejected.columns["class_label"]
    assert ("渔业" in drawn) == isinstance(rejected, Rejected)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"labels": ["a"]}, "needs two labels or more"),
        ({"labels": ["a b", "A_B"]}, "differ in case, spaces or marks only"),
        ({"labels": ["a", "b", "a"]}, "names the label 'a' twice"),
        ({"labels": {"a": {"weight": 0}, "b": {"weight": 0}}}, "at least one weight above 0"),
        ({"labels": "nowhere.yaml"}, "nowhere.yaml"),
        ({"labels": ["a", "b"], "queries_per_passage": 2}, "goes with `write: true`"),
        ({"labels": ["a", "b"], "clarity": {"murky": 1}}, "clarity 'murky' is not one of"),
    ],
)
def test_a_mistake_in_the_job_is_named(task, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", make(tmp_path, task)]) == 2
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "content",
    [
        "labels: [ferries, weather]\n",
        "ferries: Crossings.\nweather: Wind.\n",
        "task: Find the subject\nlabels: {ferries: Crossings., weather: {means: Wind.}}\n",
        json.dumps({"prepared": {"task": "Find it", "labels": {"ferries": "a", "weather": "b"}}, "sha256": "0"}),
    ],
)
def test_labels_come_from_a_file_which_the_run_keeps(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.yaml").write_text(content)
    job = make(tmp_path, {"labels": "labels.yaml", "misleading": 1})
    assert main(["run", job, "-o", "out"]) == 0
    assert {row["class_label"] for row in rows("out", "generated")} == {"ferries", "weather"}
    assert (tmp_path / "out" / "prompts" / "labels.yaml").read_text() == content
    assert not (tmp_path / "out" / "prepared.json").exists()


def test_labels_are_proposed_once_and_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job = make(tmp_path, {"sample": 6})
    assert main(["check", job]) == 0
    assert "4 to 20, which the model proposes once from 6 passages" in " ".join(capsys.readouterr().out.split())
    assert main(["preview", job, "-n", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert main(["run", job, "-o", "out"]) == 0
    kept = json.loads((tmp_path / "out" / "prepared.json").read_text())["prepared"]
    assert kept == shown["prepared"], "preview asks what a run asks"
    assert len(kept["labels"]) >= 4
    found = rows("out", "kept")
    assert len(found) == 20
    assert {row["class_label"] for row in found} <= {*kept["labels"]}
    assert all({*row["misleading_labels"]} <= {*kept["labels"]} - {row["class_label"]} for row in found)
    assert main(["verify", "out", "--deep"]) == 0
    assert not list((tmp_path / "out" / "wip").iterdir())


def test_the_label_mix_stands_in_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = {"red": {"weight": 3}, "blue": {"weight": 1}}
    job = make(tmp_path, {"labels": labels, "write": True, "misleading": 1, "lengths": [4, 30]})
    assert main(["run", job, "-o", "out", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    found = Counter(row["class_label"] for row in rows("out", "generated"))
    assert summary["mixes"]["class_label"] == dict(found)
    assert summary["asked"]["class_label"] == {"red": 0.75, "blue": 0.25}
    assert found["red"] > found["blue"] > 0


def test_a_proposal_that_cannot_be_used_ends_the_run_and_is_asked_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = threading.Event()

    def answer(body):
        parts = body["response_format"]["json_schema"]["schema"]["properties"]
        if "Label" in parts:
            return say(json.dumps({"Label": "subject 1", "Misleading": ["subject 2"]}))
        return say(json.dumps(PROPOSED if good.is_set() else PROPOSED | {"Labels": PROPOSED["Labels"][:2]}))

    with Loopback() as server:
        server.chat = answer
        job = make(tmp_path, {"misleading": 1}, llm=job_dict(server.url, tmp_path)["llm"])
        assert main(["run", job, "-o", "out"]) == 6
        assert "2 different labels" in " ".join(capsys.readouterr().err.split())
        assert len(server.posts) == 3
        good.set()
        assert main(["run", job, "-o", "out"]) == 0
        assert len(server.posts) == 3 + 1 + 20
        assert main(["run", job, "-o", "out"]) == 0
        assert len(server.posts) == 3 + 1 + 20, "nothing is asked twice"


def test_an_edited_or_missing_proposal_is_damage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job, path = make(tmp_path, {}), tmp_path / "out" / "prepared.json"
    assert main(["run", job, "-o", "out"]) == 0
    good = path.read_text()
    (tmp_path / "out" / "generated" / "00000002.parquet").unlink()
    edited = good.replace('"task": "', '"task": "x')
    for bad, said in ((edited, "was edited"), ("{", "cannot be read"), (None, "missing")):
        path.unlink(missing_ok=True)
        if bad is not None:
            path.write_text(bad)
        assert main(["verify", "out"]) == 4
        assert "prepared.json" in capsys.readouterr().out
        assert main(["run", job, "-o", "out"]) == 4
        assert said in " ".join(capsys.readouterr().err.split())
    path.write_text(good)
    assert main(["run", job, "-o", "out"]) == 0
    labels = sorted(json.loads(good)["prepared"]["labels"])
    renamed = json.loads(good)["prepared"] | {"labels": {"other": "x", **dict.fromkeys(labels[1:], "x")}}
    path.write_text(json.dumps({"prepared": renamed, "sha256": sha256(renamed)}))
    capsys.readouterr()
    assert main(["verify", "out", "--deep"]) == 4
    assert f"has the label '{labels[0]}', which is not of the set" in " ".join(capsys.readouterr().out.split())


def test_exports_have_texts_with_labels_in_every_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make(tmp_path, {"labels": ["red", "blue", "green"], "misleading": 1})
    assert main(["run", job, "-o", "out"]) == 0
    assert 'select_columns(["text", "class_label"])' in (tmp_path / "out" / "README.md").read_text()
    pairs = rows("out", "kept")
    texts = {row["text"]: row["class_label"] for row in pairs}
    found = {}
    for form in ("sentence-transformers", "mteb", "jsonl"):
        assert main(["export", "out", "--to", form, "-o", form, "--split", "test=0.4"]) == 0
        found[form] = [row for path in Path(form).glob("data/t*.parquet") for row in pq.read_table(path).to_pylist()]
    trained, measured = found["sentence-transformers"], found["mteb"]
    assert len(trained) == sum(len(row["misleading_labels"]) == 1 for row in pairs)
    assert {row["anchor"]: row["positive"] for row in trained}.items() <= texts.items()
    assert all({row["positive"], row["negative_1"]} < {"red", "blue", "green"} for row in trained)
    assert {row["text"]: row["label"] for row in measured} == texts
    labels = [{*pq.read_table(path)["label"].to_pylist()} for path in Path("mteb", "data").glob("*.parquet")]
    assert len(labels[0] & labels[1]) > 1, "pairs with one label are not a group"
    advice = " ".join(Path("sentence-transformers", "TRAIN.md").read_text().split())
    assert "it cannot be larger than the number of labels" in advice
    first = json.loads(Path("jsonl", "train.jsonl").read_text().splitlines()[0])
    assert first["class_label"] == texts[first["text"]]


def test_the_shipped_job_runs(tmp_path, monkeypatch):
    job = shipped("configs", "classification.yaml")
    monkeypatch.chdir(job.parents[1])
    settings = [part for each in ("llm={use: extractive}", "scores=[]", "keep=null") for part in ("-s", each)]
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--sample", "6", *settings]) == 0
    found = rows(tmp_path / "out.sample-6", "kept")
    assert len(found) == 6
    assert {row["class_label"] for row in found} <= {*load_job(job).task.labels.root}


def test_the_margin_says_whether_a_text_is_nearer_to_its_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Loopback() as server:  # its vectors are bags of words
        served = job_dict(server.url, tmp_path)["embed"]
        job = make(
            tmp_path, {"labels": ["the_report_is_about", "zebras"]}, embed=served, scores=[{"use": "label_margin"}]
        )
        assert main(["run", job, "-o", "out"]) == 0
    found = {row["class_label"]: row for row in rows("out", "kept")}
    assert found["the_report_is_about"]["label_margin"] > 0 > found["zebras"]["label_margin"]
    assert found["the_report_is_about"]["label_cosine"] > found["zebras"]["label_cosine"]


@pytest.mark.skipif(not BANKING77.exists(), reason="Banking77 is not beside this checkout")
def test_banking77_keeps_to_its_77_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pq.read_table(BANKING77)
    labels = sorted(set(table["label"].to_pylist()))
    pq.write_table(table.slice(0, 100), tmp_path / "banking.parquet")
    corpus = {"path": str(tmp_path / "banking.parquet"), "carry": ["label"], "language": "en", "min_chars": 1}
    job = make(tmp_path, {"labels": labels}, corpus=corpus, run={"shard_size": 50})
    assert main(["run", job, "-o", "out"]) == 0
    found = rows("out", "generated")
    assert len(found) + len(rows("out", "rejected/passages")) == 100
    assert {name for row in found for name in (row["class_label"], *row["misleading_labels"])} <= {*labels}
    assert all(row["class_label"] not in row["misleading_labels"] for row in found)
    assert {row["input_label"] for row in found} <= {*labels}
    assert main(["verify", "out", "--deep"]) == 0
