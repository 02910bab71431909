"""`synth verify` and `synth gc` on every kind of folder: each is sound as it is, and nothing of it is removed."""

import json
import os
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue import lines
from loopback import Loopback, say
from running import completion, job_dict, passage, rows, run, write_corpus, write_job

from synth.cli import main
from synth.gc import collect
from synth.verify import verify

pytestmark = pytest.mark.faults

EASY = ["--range", "0:30", "--max-score", "null", "--absolute-margin", "null"]
OLD = time.time() - 7200
MINED = "mined/00000001.parquet"


def command(*arguments):
    assert main([str(each) for each in arguments]) == 0, arguments


def mine(out, *options):
    command("mine", out, *EASY, *options, "--json")


class Place:
    """A folder for one test, with a server and a corpus of 20 passages in it."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.out = folder / "out"
        write_corpus(folder / "docs.jsonl", 20)

    def job(self, **more):
        served = {"personas": None, "task": {"use": "retrieval", "queries_per_passage": 1}}
        return write_job(self.folder, job_dict(self.server.url, self.folder, **(served | more)))

    def run(self, **more):
        run(self.job(**more), self.out)

    def filter(self, **more):
        rows = [{"query": f"what does report {n} say", "passage": passage(n)} for n in range(20)]
        lines(self.folder / "pairs.jsonl", [*rows, {"query": "", "passage": "Nobody asks."}])
        job = {
            "data": {"path": str(self.folder / "pairs.jsonl")},
            "embed": {"use": "mining:Bag"},
            "scores": [{"use": "cosine"}],
            "keep": {"cosine": {"above": 0.0}},
            "run": {"shard_size": 8},
        }
        path = self.folder / "filter.json"
        path.write_text(json.dumps(job | more))
        command("filter", "-c", path, "-o", self.out, "--json")


def refusing(body):
    """Nothing is written for report 3."""
    return say("I will not.") if "report number 3 " in body["messages"][-1]["content"] else completion(body)


def plain(place):
    place.run()


def sampled(place):
    command("run", place.job(), "--sample", 11, "-o", place.out, "--json")
    place.out = place.folder / "out.sample-11"


def continued(place):
    place.run()
    command("run", place.job(seed=4), "-o", place.out, "--continue", "--json")
    write_corpus(place.folder / "more.jsonl", 30)
    corpora = [
        {"name": name, "path": str(place.folder / f"{name}.jsonl"), "language": "en"} for name in ("docs", "more")
    ]
    command("run", place.job(seed=5, corpus=corpora), "-o", place.out, "--continue", "--json")
    assert (place.out / "job.3.json").exists()


def retried(place):
    place.server.chat = refusing
    place.run()
    place.server.chat = completion
    command("run", place.out, "--retry-rejected", "--json")
    assert [row["retry_of"] for row in rows(place.out, "generated") if row["retry_of"]] == ["3-0"]


def viewed(place):
    place.run()
    command("keep", place.out, "--above", "cosine=0.3", "--as", "strict")
    command("keep", place.out, "--above", "cosine=0.1")


def without_a_view(place):
    """The rules of a view that is gone stay in `index/`."""
    viewed(place)
    command("gc", place.out, "--view", "strict", "--age", "0s")
    assert len(list((place.out / "index").glob("rules-*.json"))) == 3


def filtered(place):
    place.filter()


def filtered_again(place):
    place.filter()
    command("keep", place.out, "--above", "cosine=0.1", "--as", "strict")
    place.filter(scores=[{"use": "cosine"}, {"use": "length"}])


def mined(place):
    place.filter()
    mine(place.out, "--num-negatives", 3)


def mined_with_losses(place):
    place.filter()
    mine(place.out, "--num-negatives", 15, "--on-short", "drop")
    assert list((place.out / "rejected" / "mined").iterdir())


def mined_again(place):
    mined(place)
    mine(place.out, "--num-negatives", 2)


def mined_of_a_view(place):
    place.filter()
    command("keep", place.out, "--above", "cosine=0.2", "--as", "strict")
    mine(place.out, "--view", "strict", "--num-negatives", 1)


KINDS = [plain, sampled, continued, retried, viewed, without_a_view, filtered, filtered_again]
KINDS += [mined, mined_with_losses, mined_again, mined_of_a_view]
SWAPPED = {viewed, filtered_again, mined_again}
"""Kinds with a folder in them that was swapped out, which is dead."""


@pytest.fixture
def place(tmp_path):
    with Loopback() as server:
        server.chat = completion
        yield Place(tmp_path, server)


def age(folder):
    """As if nobody had written there for two hours."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def everything(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__.replace("_", " "))
def test_every_kind_of_folder_is_sound_and_nothing_of_it_is_dead(place, make):
    make(place)
    reports = [verify(place.out, deep=deep) for deep in (False, True)]
    before = everything(place.out)
    age(place.out)
    collect(place.out)
    gone = before - everything(place.out)
    assert {name.rsplit("-", 2)[0] for name in gone if not name.startswith(".rejects/")} <= {".kept", ".mined"}
    assert bool(gone) == (make in SWAPPED)
    for report in [*reports, verify(place.out), verify(place.out, deep=True)]:
        assert report.damage == ()
        assert report.complete
    assert report.notes == ()
    assert {note.what.split(":")[0] for each in reports for note in each.notes} <= {"a hidden view (3 shards)"}


def rewrite(path, change=lambda table: table, keys=None):
    """Another valid file with the same metadata, but for `keys`."""
    table = pq.read_table(path)
    path.unlink()
    meta = table.schema.metadata | (keys or {})
    pq.write_table(change(table).replace_schema_metadata(meta), path, write_page_checksum=True)


def other_query(table):
    column = pa.array([f"{each}?" for each in table["query"].to_pylist()], table.schema.field("query").type)
    return table.set_column(table.column_names.index("query"), table.schema.field("query"), column)


def record_of(out):
    (path,) = (out / "index").glob("mined-*.json")
    return path


DAMAGES = {
    "a row lost": (lambda out: rewrite(out / MINED, lambda t: t.slice(1)), MINED, "holds"),
    "a row twice": (lambda out: rewrite(out / MINED, lambda t: t.take([0, *range(len(t) - 1)])), MINED, "neither"),
    "pairs of other bytes": (lambda out: rewrite(out / MINED.replace("mined", "kept")), MINED, "different bytes"),
    "another run's shard": (
        lambda out: shutil.copy(out / "mined/00000000.parquet", out / MINED),
        MINED,
        "was moved or copied",
    ),
    "other options": (
        lambda out: rewrite(out / MINED, keys={b"synth.identity": b"ab" * 32}),
        MINED,
        "other settings",
    ),
    "an edited record": (
        lambda out: record_of(out).write_text(record_of(out).read_text().replace('"seed": ', '"seed": 9')),
        "index/mined-",
        "does not match",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_negatives_is_found_and_named(place, name):
    mined(place)
    damage, file, words = DAMAGES[name]
    damage(place.out)
    found = [each for each in verify(place.out).damage if each.file.startswith(file)]
    assert any(words in each.what for each in found), verify(place.out).damage


def test_a_changed_text_among_negatives_is_found_in_deep_mode(place):
    mined(place)
    rewrite(place.out / MINED, other_query)
    assert [each.file for each in verify(place.out, deep=True).damage] == [MINED]


@pytest.mark.parametrize("kind", ["rules", "view"])
def test_negatives_of_pairs_that_are_no_longer_kept_are_no_damage(place, kind):
    """The view was made anew, or is gone: what was mined of it stays and says so."""
    if kind == "rules":
        mined(place)
        command("keep", place.out, "--above", "cosine=0.05")
    else:
        mined_of_a_view(place)
        command("gc", place.out, "--view", "strict", "--age", "0s")
    report = verify(place.out, deep=True)
    assert report.damage == ()
    assert any(note.file == "mined" and "mine" in note.what for note in report.notes)


def test_what_was_begun_is_kept_until_it_is_done(place, monkeypatch):
    """Other negatives are filled aside; stopped before the swap, they go on where they are."""
    mined(place)
    with monkeypatch.context() as patch:
        patch.setattr("synth.steps.mine.Mining.swap", lambda _: None)
        mine(place.out, "--num-negatives", 2)
    (hidden,) = place.out.glob(".mined-*")
    age(place.out)
    result = collect(place.out)
    assert hidden.is_dir()
    assert any(hidden.name in line for line in result.left)
    mine(place.out, "--num-negatives", 2)
    age(place.out)
    collect(place.out)
    assert not hidden.exists(), "what was swapped out is dead"
    assert verify(place.out, deep=True).notes == ()
