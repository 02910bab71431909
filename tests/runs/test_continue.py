"""Changed plans: an edited job, more data and rejected items go on in the same folder, as revisions of the run."""

import json
from collections import Counter
from contextlib import contextmanager

import polars as pl
import pytest
from loopback import Fault, say
from running import audit, completion, contents, footer, job_dict, passage, rows, run, shards, write_corpus, write_job

from synth.cli import main
from synth.cli.run import run_target as command
from synth.errors import OutputError, ServerRefused
from synth.pipeline import RunArgs, resolve
from synth.verify import verify

GONE = Fault(307, headers={"Location": "http://127.0.0.1:9/elsewhere"})
"""A redirect is refused at once and ends the run."""


@pytest.fixture
def place(tmp_path, server):
    """A folder with a corpus of 30 passages and a job over the loopback server."""
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 30)
    return tmp_path


def write(place, server, **more):
    return write_job(place, job_dict(server.url, place, **more))


def go_on(job, out, *settings, retry=False):
    command(resolve(job, out, settings, None), as_json=True, args=RunArgs(continue_edited=True, retry=retry))


def chats(server):
    return [json.dumps(seen.body, sort_keys=True) for seen in server.posts if "messages" in seen.body]


@contextmanager
def gone_after(server, calls):
    """The server begins to redirect after so many chat calls more, which ends a run."""
    limit = len(chats(server)) + calls
    server.rule = lambda _: GONE if len(chats(server)) > limit else None
    with pytest.raises(ServerRefused):
        yield
    server.rule = lambda _: None


def interrupted(job, out, server, calls=55):
    with gone_after(server, calls):
        run(job, out)


def proved(out):
    report = verify(out, deep=True)
    assert report.damage == ()
    assert report.complete
    return {step.step: step for step in report.steps}


def revisions(out):
    return {row["passage_id"]: row["revision"] for row in rows(out, "generated")}


@pytest.mark.slow
def test_an_edited_job_goes_on_and_what_was_begun_keeps_its_revision(place, server):
    out = place / "out"
    interrupted(write(place, server), out, server)
    done = {path.name: path.read_bytes() for path in shards(out, "generated")}
    begun = {path.name for path in (out / "wip").glob("generated-*.jnl")}
    assert done
    assert begun
    asked = len(chats(server))
    edited = write(place, server, task={"use": "retrieval", "queries_per_passage": 2, "guidance": "Sailors ask."})
    with pytest.raises(OutputError) as caught:
        run(edited, out)
    assert 'was started with other settings: task.guidance: null -> "Sailors ask.".' in str(caught.value)
    assert "--continue" in str(caught.value)
    go_on(edited, out)
    audit(out)
    proved(out)
    assert {name: (out / "generated" / name).read_bytes() for name in done} == done
    under = {path.name: set(pl.read_parquet(path)["revision"]) for path in shards(out, "generated")}
    old = {*done, *(f"{name.removeprefix('generated-').removesuffix('.jnl')}.parquet" for name in begun)}
    assert under == {name: {1} if name in old else {2} for name in under}
    sent = [json.loads(body) for body in chats(server)[asked:]]
    guided = Counter("Sailors ask." in json.dumps(body["messages"]) for body in sent)
    assert guided[True] > 0
    assert guided[False] > 0
    assert json.loads((out / "job.2.json").read_text())["identity"]["revision"] == 2
    assert len(chats(server)) - len(set(chats(server))) <= 4, "only what was in flight when the server went is repeated"


@pytest.mark.slow
def test_going_on_is_the_same_whoever_goes_on(place, server):
    """Once a revision is written down, its job file, the folder alone and a crash in between all end alike."""
    edited = {"seed": 9}
    ends = []
    for name in ("once", "killed"):
        out = place / name
        interrupted(write(place, server), out, server)
        job = write(place, server, **edited)
        if name == "killed":
            with gone_after(server, 20):
                go_on(job, out)
            command(resolve(out, None, (), None), as_json=True)
        else:
            go_on(job, out)
        run(job, out)
        audit(out)
        ends.append(sorted((row["id"], row["revision"]) for row in rows(out, "generated")))
        assert not (out / "job.3.json").exists()
    assert {revision for _, revision in ends[0]} == {1, 2}
    assert {identity for identity, _ in ends[0]} == {identity for identity, _ in ends[1]}


@pytest.mark.slow
def test_a_changed_number_of_queries_holds_for_what_is_not_begun(place, server):
    out = place / "out"
    interrupted(write(place, server), out, server)
    go_on(write(place, server, task={"use": "retrieval", "queries_per_passage": 1}), out)
    steps = proved(out)
    kinds = Counter(row["revision"] for row in rows(out, "generated"))
    assert kinds[1] % 2 == 0
    assert steps["generated"].rows_in == kinds[1] + kinds[2] < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"run": {"shard_size": 9, "concurrency": 4}}, "shard_size: 8 -> 9"),
        ({"corpus": {"path": "other.jsonl", "language": "en"}}, "inputs.0"),
        ({"corpus": {"path": "docs.jsonl", "language": "en", "carry": ["id"]}}, "corpus.carry: id was not carried"),
    ],
)
def test_what_no_revision_can_change_is_refused(place, server, monkeypatch, more, named):
    monkeypatch.chdir(place)
    corpus = {"path": "docs.jsonl", "language": "en"}
    run(write(place, server, corpus=corpus), place / "out")
    write_corpus(place / "other.jsonl", 30)
    with pytest.raises(OutputError) as caught:
        go_on(write(place, server, **({"corpus": corpus} | more)), place / "out")
    assert caught.value.exit_code == 4
    assert named in str(caught.value)
    assert "no revision can change it" in str(caught.value)
    assert not (place / "out" / "job.2.json").exists()


def test_changed_and_removed_data_are_refused_with_the_file_named(place, server):
    out = place / "out"
    (place / "many").mkdir()
    write_corpus(place / "many" / "a.jsonl", 10)
    write_corpus(place / "many" / "b.jsonl", 9)
    job = write(place, server, corpus={"path": str(place / "many" / "*.jsonl"), "language": "en", "duplicates": "keep"})
    run(job, out)
    write_corpus(place / "many" / "b.jsonl", 8)
    with pytest.raises(OutputError, match=r"b\.jsonl changed, [0-9a-f]{16} -> [0-9a-f]{16}"):
        go_on(job, out)
    (place / "many" / "b.jsonl").unlink()
    with pytest.raises(OutputError, match=r"b\.jsonl was removed"):
        go_on(job, out)


@pytest.mark.slow
def test_appended_files_and_corpora_become_new_shards(place, server):
    """Also a file whose name sorts before the others: positions never move."""
    out = place / "out"
    (place / "many").mkdir()
    write_corpus(place / "many" / "m.jsonl", 12)
    first = {"name": "many", "path": str(place / "many" / "*.jsonl"), "language": "en"}
    job = write(place, server, corpus=[first])
    run(job, out)
    before, calls = contents(out), len(chats(server))
    lines = (place / "many" / "m.jsonl").read_text().splitlines()
    new = [json.dumps({"id": f"n{n}", "text": passage(100 + n)}) for n in range(5)]
    (place / "many" / "a.jsonl").write_text("\n".join([lines[3], *new, "{broken"]))
    with pytest.raises(OutputError) as caught:
        run(job, out)
    assert f"inputs: {place / 'many' / 'a.jsonl'} is new" in str(caught.value)
    assert "--continue" in str(caught.value)
    second = {"name": "docs", "path": str(place / "docs.jsonl"), "language": "en"}
    job = write(place, server, corpus=[first, second])
    go_on(job, out)
    steps = proved(out)
    audit(out)
    after = contents(out)
    assert {name: after[name] for name in before if not name.startswith("index")} == before
    assert len(set(chats(server))) == len(chats(server)) > calls
    assert [int(footer(path)["first"]) for path in shards(out, "passages")] == [0, 8, 12, 20, 28]
    reasons = Counter((row["reason"], row["source"]) for row in rows(out, "rejected/passages"))
    assert reasons == {("duplicate", "many"): 1, ("json", "many"): 1, ("duplicate", "docs"): 12}
    assert steps["passages"].rejected == 14
    row = next(row for row in rows(out, "passages") if row["id"] == "n0")
    assert (row["position"], row["source_row"]) == (12, 13)
    totals = json.loads((out / "index" / "passages.2.json").read_text())
    assert (totals["rows_in"], totals["passages"], totals["shards"]) == (12 + 7 + 30, 12 + 5 + 18, 5)
    assert {row["revision"] for row in rows(out, "generated") if int(row["id"].split("-")[0]) >= 12} == {2}
    assert pl.scan_parquet(out / "kept" / "*.parquet").collect().height == len(rows(out, "kept"))


@pytest.mark.slow
def test_data_appended_before_the_inputs_were_read_to_their_end(place, server):
    """The part of the first revision is read under its own job, whatever came since."""
    out = place / "out"
    corpus = {"path": str(place / "*.jsonl"), "language": "en"}
    whole = place / "whole"
    run(write(place, server, corpus=corpus), whole)
    interrupted(write(place, server, corpus=corpus), out, server, 20)
    (out / "index" / "passages.json").unlink()
    shards(out, "passages")[-1].unlink()
    write_corpus(place / "more.jsonl", 40)
    go_on(write(place, server, corpus=corpus), out)
    proved(out)
    firsts = [path.read_bytes() for path in shards(whole, "passages")]
    assert [path.read_bytes() for path in shards(out, "passages")[: len(firsts)]] == firsts
    assert len(rows(out, "passages")) == 40


def test_a_sample_is_not_extended(place, server):
    (place / "many").mkdir()
    write_corpus(place / "many" / "a.jsonl", 20)
    job = write(place, server, corpus={"path": str(place / "many" / "*.jsonl"), "language": "en"})
    command(resolve(job, place / "out", (), 6), as_json=True)
    write_corpus(place / "many" / "b.jsonl", 3)
    with pytest.raises(OutputError, match="a sample is not extended"):
        command(resolve(job, place / "out", (), 6), as_json=True, args=RunArgs(continue_edited=True))


@pytest.mark.slow
def test_a_library_that_is_gone_begins_open_shards_anew(place, server, capsys):
    out = place / "out"
    interrupted(write(place, server), out, server)
    job = write(place, server)
    (place / "people.txt").write_text("".join(f"a person with {n} boats\n" for n in range(9)))
    go_on(job, out)
    audit(out)
    proved(out)
    assert "starts again under revision 2" in capsys.readouterr().err
    assert all("boats" in row["character"] for row in rows(out, "generated") if row["revision"] == 2)


REFUSED = [passage(n) for n in (3, 11, 12)]


def refusing(body):
    """Stage two is refused for three passages, but for the second query of the first of them."""
    prompt = body["messages"][-1]["content"]
    if "Query" not in body["response_format"]["json_schema"]["schema"]["properties"]:
        return completion(body)
    return say("I will not.") if any(text in prompt for text in REFUSED) else completion(body)


@pytest.mark.slow
def test_rejected_items_are_asked_again_as_new_ones(place, server, capsys):
    out = place / "out"
    server.chat = refusing
    job = write(place, server)
    run(job, out)
    old = {row["id"] for row in rows(out, "rejected/generated")}
    assert old == {f"{n}-{slot}" for n in (3, 11, 12) for slot in (0, 1)}
    before = contents(out)
    server.chat = lambda body: say("I will not.") if REFUSED[2] in json.dumps(body) else completion(body)
    calls = len(chats(server))
    capsys.readouterr()
    assert main(["run", str(job), "-o", str(out), "--retry-rejected", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    after = contents(out)
    assert {name: after[name] for name in before} == before, "what was there stays as it is"
    asked_again = [row["retry_of"] for row in rows(out, "passages") if row["retry_of"]]
    assert asked_again == ["3-0", "3-1", "11-0", "11-1", "12-0", "12-1"]
    new = {row["retry_of"]: row for row in rows(out, "generated") if row["retry_of"]}
    assert set(new) == {f"{n}-{slot}" for n in (3, 11) for slot in (0, 1)}
    for item, row in new.items():
        assert row["passage"] == passage(int(item.split("-")[0]))
        assert row["id"].split("-")[1] == item.split("-")[1]
        assert int(row["id"].split("-")[0]) >= 30
        assert row["revision"] == 2
    steps = proved(out)
    assert steps["generated"].retried == 6
    assert (told["items"], sum(told["unusable"].values())) == (60, 2)
    asked = chats(server)[calls:]
    assert all(any(text in body for text in REFUSED) for body in asked)

    calls = len(chats(server))
    server.chat = completion
    assert main(["run", str(out), "--retry-rejected", "--json"]) == 0
    steps = proved(out)
    assert steps["generated"].retried == 8
    again = {row["retry_of"] for row in rows(out, "generated") if row["revision"] == 3}
    assert len(again) == 2
    calls = len(chats(server))
    capsys.readouterr()
    assert main(["run", str(out), "--retry-rejected", "--json"]) == 0
    assert "no rejected item is left" in capsys.readouterr().err
    assert len(chats(server)) == calls
    assert not (out / "job.4.json").exists()


@pytest.mark.slow
def test_a_retried_item_sees_what_its_passage_has_already(place, server):
    out = place / "out"
    text = passage(5)
    first = []

    def once(body):
        mine = text in json.dumps(body)
        query = "Query" in body["response_format"]["json_schema"]["schema"]["properties"]
        if mine and query and not first:
            first.append(body)
            return completion(body)
        return say("I will not.") if mine and query else completion(body)

    server.chat = once
    job = write(place, server)
    run(job, out)
    (row,) = [row for row in rows(out, "generated") if row["passage"] == text]
    (lost,) = rows(out, "rejected/generated")
    assert (row["id"], lost["id"]) == ("5-0", "5-1")
    server.chat = completion
    calls = len(chats(server))
    command(resolve(job, out, (), None), as_json=True, args=RunArgs(retry=True))
    assert any(row["query"] in body for body in chats(server)[calls:])


@pytest.mark.slow
def test_a_retry_that_was_interrupted_goes_on_and_begins_no_other(place, server):
    out = place / "out"
    server.chat = lambda body: (
        say("I will not.") if any(passage(n) in json.dumps(body) for n in range(20)) else completion(body)
    )
    job = write(place, server)
    run(job, out)
    server.chat = completion
    with gone_after(server, 9):
        command(resolve(job, out, (), None), as_json=True, args=RunArgs(retry=True))
    command(resolve(job, out, (), None), as_json=True, args=RunArgs(retry=True))
    assert proved(out)["generated"].retried == 40
    assert not (out / "job.3.json").exists()


@pytest.mark.slow
def test_rules_and_scorers_used_last_are_those_of_the_folder(place, server):
    out = place / "out"
    run(write(place, server), out)
    everything = len(rows(out, "generated"))
    more = {"keep": {"length_error": {"max": 99}}, "scores": [{"use": "length"}, {"use": "copying"}]}
    run(write(place, server, **more), out)
    kept = contents(out)
    assert len(rows(out, "kept")) == everything
    command(resolve(out, None, (), None), as_json=True)
    assert contents(out) == kept
    assert "copied_share" in rows(out, "kept")[0]
    assert main(["keep", str(out), "--above", "copied_share=2"]) == 2
    assert main(["keep", str(out), "--max", "copied_share=0"]) == 0
    assert len(rows(out, "kept")) < everything
    few = contents(out)
    command(resolve(out, None, (), None), as_json=True)
    assert contents(out) == few


@pytest.mark.slow
def test_new_rules_of_a_run_that_was_stopped_hold_for_its_folder(place, server):
    out = place / "out"
    interrupted(write(place, server), out, server)
    job = write(place, server, keep={"cosine": {"above": 0.99}})
    with gone_after(server, 20):
        run(job, out)
    command(resolve(out, None, (), None), as_json=True)
    assert rows(out, "kept") == []
    audit(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generated", "scores/cosine-*"])
def test_what_was_made_of_a_shard_that_is_gone_is_made_anew(place, server, name):
    out = place / "out"
    job = write(place, server)
    run(job, out)
    clean = contents(out)
    (path,) = out.glob(f"{name}/00000001.parquet")
    path.unlink()
    if name == "generated":
        server.chat = lambda body: completion(body | {"seed": 1})
    run(job, out)
    audit(out)
    proved(out)
    changed = {each for each, content in contents(out).items() if clean[each] != content}
    assert all("00000001" in each for each in changed)
    assert bool(changed) == (name == "generated")


def test_a_pass_over_existing_data_takes_appended_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    def pairs(name, numbers):
        lines = [{"query": f"what does report {n} say", "passage": passage(n), "tag": n} for n in numbers]
        (data / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    pairs("m.jsonl", range(10))
    job = {
        "data": {"path": str(data / "*.jsonl"), "query_language": "en", "passage_language": "en"},
        "scores": [{"use": "length"}, {"use": "copying"}],
        "keep": {"copied_share": {"max": 1}},
        "run": {"shard_size": 4},
    }
    path = tmp_path / "filter.yaml"
    path.write_text(json.dumps(job))
    out = tmp_path / "out"
    run(path, out)
    before = {p.name: p.read_bytes() for p in shards(out, "generated")}
    pairs("a.jsonl", range(20, 27))
    with pytest.raises(OutputError, match=r"a\.jsonl is new"):
        run(path, out)
    go_on(path, out)
    assert {p.name: p.read_bytes() for p in shards(out, "generated") if p.name in before} == before
    assert [row["tag"] for row in rows(out, "kept")] == [*range(10), *range(20, 27)]
    proved(out)
    pairs("z.jsonl", range(30, 31))
    (data / "z.jsonl").write_text('{"query": "a b c", "passage": "d e f g", "other": 1}\n')
    with pytest.raises(OutputError, match="bring columns"):
        go_on(path, out)
    assert not (out / "job.3.json").exists()
