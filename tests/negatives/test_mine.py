"""`synth mine` over pairs made elsewhere and over a run of our own: what is found, what is refused, what is said."""

import asyncio
import functools
import itertools
import json
import shutil
import tempfile
import zlib
from contextlib import AsyncExitStack
from pathlib import Path

import mining
import numpy as np
import pyarrow.parquet as pq
import pytest
from mining import vector
from running import WORDS, rows, run, shards, write_job

from synth.cli import main
from synth.cli.mine import mine_run as command
from synth.errors import JobError, ServerRefused
from synth.negatives._choosing import near_equal
from synth.runners.mining import MineArgs, options_of, plan_of, services
from synth.search import CorpusText, Excluded, build, retrieve
from synth.steps import mine as step

THINGS = (
    "ferry",
    "bakery",
    "glacier",
    "violin",
    "orchard",
    "lighthouse",
    "tannery",
    "observatory",
    "quarry",
    "aqueduct",
)
PLACES = ("Bergen", "Porto", "Graz", "Lviv", "Turku", "Cork", "Bruges", "Aarhus")
EASY = {"range": "0:30", "num_negatives": "3", "max_score": "null", "absolute_margin": "0.02"}


@pytest.fixture(autouse=True)
def _nobody_was_asked():
    mining.asked.clear()


def texts():
    """80 pairs: each thing in each place, so that a query's near passages are of the same thing or place."""
    for thing in THINGS:
        for place in PLACES:
            query = f"when was the {thing} of {place} founded"
            picked = [WORDS[zlib.crc32(f"{thing}/{place}/{n}".encode()) % len(WORDS)] for n in range(9)]
            yield query, f"The {thing} of {place} was founded by the year of the {' '.join(picked)} reform in {place}."


@functools.cache
def finished():
    """The pass over all `texts` that most tests mine, made once; its folder goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="pairs")
    passed(Path(folder.name), list(texts()))
    mining.asked.clear()
    return folder


def pairs(tmp_path, given=None, **job):
    """A finished pass over pairs, and its folder; `columns` are further columns, one value a pair."""
    if given is None and not job:
        shutil.copytree(finished().name, tmp_path, dirs_exist_ok=True)
        return tmp_path / "out"
    return passed(tmp_path, list(texts()) if given is None else given, **job)


def passed(folder, given, *, columns=None, **job):
    data = folder / "pairs.jsonl"
    own = [dict(zip(columns or {}, values, strict=True)) for values in zip(*(columns or {}).values(), strict=True)]
    lines = [{"query": q, "passage": p, **(own[n] if own else {})} for n, (q, p) in enumerate(given)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    embed = {"use": "mining:Bag"}
    base = {"data": {"path": str(data)}, "embed": embed, "scores": [{"use": "cosine"}]}
    base["keep"] = {"cosine": {"above": 0}}
    base |= {"run": {"shard_size": 20}}
    run(write_job(folder, base | job), folder / "out")
    return folder / "out"


def mine(out, options=None, **given):
    command(out, MineArgs(options=EASY | (options or {}), **given), as_json=True)
    return rows(out, "mined")


def bytes_of(out):
    found = {path.name: path.read_bytes() for path in shards(out, "mined")}
    return found | {f"rejected/{path.name}": path.read_bytes() for path in shards(out, "rejected/mined")}


def test_every_negative_says_why_it_is_one(tmp_path):
    found = mine(pairs(tmp_path))
    assert len(found) == 80
    own = dict(texts())
    for row in found:
        assert len(row["negatives"]) == 3
        assert row["passage"] == own[row["query"]]
        bar = float(vector(row["passage"]) @ vector(row["query"]))
        for negative in row["negatives"]:
            assert negative["passage"] != row["passage"]
            cosine = float(vector(negative["passage"]) @ vector(row["query"]))
            assert negative["score"] == pytest.approx(cosine, abs=2e-3)
            assert negative["margin"] == pytest.approx(bar - negative["score"], abs=2e-3)
            assert negative["margin"] >= 0.02
            assert (negative["source"], negative["reranker"]) == ("mined", None)
            assert int(negative["passage_id"].partition("-")[0]) == list(own.values()).index(negative["passage"])
        ranks = [negative["rank"] for negative in row["negatives"]]
        assert ranks == sorted(ranks)
        assert {each["reason"] for each in row["refused"]} <= {"positive", "absolute_margin", "near_positive"}


SCORES = [{"use": "cosine"}, {"use": "round_trip"}]


@pytest.mark.parametrize("scores", [SCORES, SCORES[:1]], ids=["kept vectors", "no kept vectors"])
def test_passages_that_the_pass_has_embedded_are_not_embedded_again(scores, tmp_path):
    out = pairs(tmp_path, scores=scores)
    asked = {text for role, text in mining.asked if role == "document"}
    assert asked == {passage for _, passage in texts()}
    mining.asked.clear()
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "The harbour of Oulu was founded late."}) + "\n")
    found = mine(out, corpus=[str(tmp_path / "more.jsonl")])
    again = [text for role, text in mining.asked if role == "document"]
    assert set(again) == ({"The harbour of Oulu was founded late."} if len(scores) == 2 else {*asked, *again})
    for row in found:
        for negative in row["negatives"]:
            cosine = float(vector(negative["passage"]) @ vector(row["query"]))
            assert negative["score"] == pytest.approx(cosine, abs=2e-3)


def test_vectors_of_another_embedder_are_not_reused(tmp_path):
    out = pairs(tmp_path, scores=SCORES)
    mining.asked.clear()
    mine(out, settings=["embed.model=other"])
    assert len({text for role, text in mining.asked if role == "document"}) == 80


def test_search_finds_what_a_plain_loop_finds():
    rng = np.random.default_rng(3)
    for width, count, depth in [(8, 50, 7), (24, 700, 30), (3, 5, 9)]:
        made = rng.normal(size=(count, width))
        stored = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype("<f2")
        stored[rng.integers(0, count, 3)] = 0
        stored[1] = stored[0]
        queries = rng.normal(size=(11, width)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        never = [(n, np.sort(rng.choice(count, 2, replace=False))) for n in range(11)]

        class Stored:
            def blocks(self, stored=stored):
                return ((first, stored[first : first + 64]) for first in range(0, len(stored), 64))

            def gather(self, rows, stored=stored):
                return stored[rows]

        hits = retrieve(queries, Stored(), depth, Excluded.of(never))
        exact = (queries.astype(np.float64)[:, None] * stored.astype(np.float64)).sum(axis=2)
        for n, (_, out) in enumerate(never):
            order = [r for r in np.lexsort((np.arange(count), -exact[n])) if stored[r].any() and r not in out][:depth]
            assert hits.rows[n].tolist() == order + [-1] * (depth - len(order))
            np.testing.assert_array_equal(hits.scores[n][: len(order)], exact[n][order])


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["top", "random", "quantiles"])
def test_stopped_after_any_shard_the_bytes_are_the_same(tmp_path, monkeypatch, sample):
    options = {"sample": sample, "reranker": "{use: 'mining:Verdicts'}"}
    out = pairs(tmp_path)
    aside = tmp_path / "aside"
    shutil.copytree(out, aside)
    mine(out, options)
    whole = bytes_of(out)
    assert len(whole) == 4
    monkeypatch.setattr("synth.steps.neighbours.TOGETHER", 1)  # what is searched together shall not show either
    for _ in range(4):
        plan = plan_of(aside, MineArgs(options=EASY | options), print)

        async def one(plan=plan):
            async with AsyncExitStack() as stack:
                work = step.Mining(plan, services(plan, stack, lambda _: None), lambda _: None)
                async for _ in work.work(await work.prepare()):
                    return

        asyncio.run(one())
    assert bytes_of(aside) == whole


@pytest.mark.slow
def test_a_reply_that_was_paid_for_is_not_asked_again(tmp_path, monkeypatch):
    options = {"reranker": "{use: 'mining:Verdicts'}"}
    out = pairs(tmp_path)
    monkeypatch.setattr(step, "with_columns", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mine(out, options)
    monkeypatch.undo()
    before = [each for each in mining.asked if each[0] == "pair"]
    mine(out, options)
    both = [each for each in mining.asked if each[0] == "pair"]
    mining.asked.clear()
    (tmp_path / "whole").mkdir()
    mine(pairs(tmp_path / "whole"), options)
    assert before
    assert both == [each for each in mining.asked if each[0] == "pair"]


@pytest.mark.slow
def test_the_same_again_does_nothing_and_other_options_replace_it(tmp_path, capsys):
    out = pairs(tmp_path)
    mine(out)
    before = bytes_of(out)
    mining.asked.clear()
    mine(out)
    assert (bytes_of(out), mining.asked) == (before, [])
    capsys.readouterr()
    found = mine(out, {"num_negatives": "2"})
    assert json.loads(capsys.readouterr().out)["made"] == 4
    assert {len(row["negatives"]) for row in found} == {2}
    assert not [text for role, text in mining.asked if role == "document"]  # the index is the same
    assert main(["verify", str(out)]) == 0


def test_three_passages_end_before_anything_is_embedded(tmp_path):
    out = pairs(tmp_path, list(texts())[:3])
    mining.asked.clear()
    with pytest.raises(JobError, match=r"3 passages, and the window begins after 20 of them.*--range 0:5"):
        command(out, MineArgs(options={}), as_json=True)
    assert mining.asked == []
    found = mine(out, {"range": "0:10", "absolute_margin": "null", "near": "null", "near_cosine": "null"})
    assert [len(row["negatives"]) for row in found] == [2, 2, 2]


def test_what_answers_a_query_anywhere_is_no_negative_of_it(tmp_path):
    given = list(texts())
    given.append((given[0][0].upper() + "  ", given[1][1]))  # the first query again, in other letters
    found = mine(pairs(tmp_path, given))
    first = next(row for row in found if row["query"] == given[0][0])
    again = next(row for row in found if row["id"] == "80-0")
    for row in (first, again):
        assert {given[0][1], given[1][1]}.isdisjoint(each["passage"] for each in row["negatives"])
        least = min(float(vector(row["query"]) @ vector(each)) for each in (given[0][1], given[1][1]))
        assert all(each["score"] + each["margin"] == pytest.approx(least, abs=2e-3) for each in row["negatives"])


def test_a_pair_that_its_label_denies_has_no_positive_and_may_be_a_negative(tmp_path):
    given = list(texts())
    given.append((given[0][0], given[1][1]))
    data = {"path": str(tmp_path / "pairs.jsonl"), "label": "good"}
    keep = {"cosine": {"above": 0}, "label": None}
    out = pairs(tmp_path, given, columns={"good": [1.0] * 80 + [0.0]}, data=data, keep=keep)
    found = mine(out, {"num_negatives": "25"})
    assert "80-0" not in {row["id"] for row in found}
    (lost,) = rows(out, "rejected/mined")
    assert (lost["id"], lost["step"], lost["reason"]) == ("80-0", "mined", "no_positive")
    first = next(row for row in found if row["id"] == "0-0")
    assert given[1][1] in {each["passage"] for each in first["negatives"]}


@pytest.mark.parametrize(
    "edit",
    [
        str.upper,
        lambda text: text.replace("by the year", "in a year"),
        lambda text: text + " It is still there today.",
        lambda text: text.replace(".", "!").replace(" ", "  "),
        lambda text: " ".join(text.split()[:-2]),
    ],
)
def test_a_light_edit_of_a_positive_is_no_negative(tmp_path, edit):
    given = list(texts())[:24]
    corpus = tmp_path / "corpus.jsonl"
    copies = [edit(passage) for _, passage in given]
    corpus.write_text("".join(json.dumps({"id": f"c{n}", "text": t}) + "\n" for n, t in enumerate(copies)), "utf-8")
    bare = {"absolute_margin": "null"}
    out = pairs(tmp_path, given)
    found = mine(out, bare, corpus=[str(corpus)])
    for row in found:
        n = int(row["id"].partition("-")[0])
        assert copies[n] not in {each["passage"] for each in row["negatives"]}
    assert any(each["reason"] == "near_positive" for row in found for each in row["refused"])
    off = tmp_path / "off.yaml"
    off.write_text("near: null\nnear_cosine: null\n", "utf-8")
    taken = mine(out, bare, corpus=[str(corpus)], file=off)
    assert any(copies[n] in {each["passage"] for each in row["negatives"]} for n, row in enumerate(taken))


def test_texts_in_unspaced_scripts_are_compared_by_their_characters():
    text = "北海道的渡轮在清晨离开港口，船长向岸上的人群挥手致意，随后驶向遥远的岛屿。"
    assert near_equal(text, text.replace("清晨", "傍晚"), 0.8)
    assert not near_equal(text, "面包师在夜里揉好面团，等到天亮以后把热面包卖给邻居和路过的行人。", 0.8)


def test_chunks_of_the_positives_document_stay_out_unless_asked(tmp_path):
    given = list(texts())
    documents = [n // 8 for n in range(80)]  # all places of one thing
    out = pairs(tmp_path, given, columns={"doc": documents})
    found = mine(out, document="doc")
    place = {passage: documents[n] for n, (_, passage) in enumerate(given)}
    assert all(place[each["passage"]] != place[row["passage"]] for row in found for each in row["negatives"])
    allowed = mine(out, {"same_document": True}, document="doc")
    assert any(place[each["passage"]] == place[row["passage"]] for row in allowed for each in row["negatives"])
    with pytest.raises(JobError, match="no column chapter"):
        mine(out, document="chapter")


def test_what_has_no_vector_or_no_text_ends_as_stated(tmp_path):
    given = list(texts())
    given[3] = ("NaN in the query", given[3][1])
    given[4] = (given[4][0], "NaN in its only passage, which is otherwise fine.")
    given[5] = (given[5][0], "REFUSED by the server, this passage is.")
    corpus = tmp_path / "corpus.jsonl"
    more = ["", "   ", "NaN in a passage of the corpus", "A quarry of marble near Porto."]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in more), encoding="utf-8")
    out = pairs(tmp_path, given, scores=[{"use": "length"}], keep={})
    found = mine(out, corpus=[str(corpus)])
    lost = {row["id"]: row["reason"] for row in rows(out, "rejected/mined")}
    assert lost == {"3-0": "no_vector", "4-0": "no_vector", "5-0": "no_vector"}
    assert len(found) == 77
    assert not [each for row in found for each in row["negatives"] if "NaN" in each["passage"]]


def test_rows_of_a_corpus_that_cannot_be_used_are_counted_aloud(tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    good = [json.dumps({"id": n, "text": f"The tannery of place {n} is quite old."}) for n in range(40)]
    bad = [json.dumps({"id": 1, "text": ""}), json.dumps({"id": 2, "text": None}), "no json"]
    corpus.write_text("".join(f"{line}\n" for line in [*good, *bad]), encoding="utf-8")
    out = pairs(tmp_path)
    command(out, MineArgs(options=EASY, corpus=(str(corpus),)), as_json=False)
    assert "3 rows without usable text" in capsys.readouterr().err


def test_an_embedder_that_gives_nothing_but_nan_is_refused(tmp_path):
    texts = [CorpusText("a", "NaN one"), CorpusText("b", "NaN two")]
    with pytest.raises(ServerRefused, match="no passage got a usable vector"):
        asyncio.run(build(tmp_path / "index", lambda: texts, mining.Bag().open(None, ""), print))


@pytest.mark.parametrize("on_short", ["keep", "drop", "fill"])
def test_too_few_are_kept_dropped_or_filled(tmp_path, on_short):
    out = pairs(tmp_path)
    # Ranks counted before the rules: what the margin refuses among them is missing.
    found = mine(out, {"num_negatives": "12", "range": "0:12", "window": "before", "on_short": on_short})
    lost = rows(out, "rejected/mined")
    assert len(found) + len(lost) == 80
    counts = {len(row["negatives"]) for row in found}
    if on_short == "keep":
        assert min(counts) < 12
        assert not lost
    if on_short == "drop":
        assert counts == {12}
        assert {(row["reason"], row["detail"]) for row in lost} == {("too_few", "fewer than 12 negatives are left")}
        assert all(len(row["negatives"]) < 12 for row in lost)
    if on_short == "fill":
        assert (counts, lost) == ({12}, [])
        assert {each["source"] for row in found for each in row["negatives"]} == {"mined", "random"}
    for row in found:
        taken = {each["passage"] for each in row["negatives"]}
        assert len(taken) == len(row["negatives"])
        assert row["passage"] not in taken
        assert all((each["rank"] is None) == (each["source"] == "random") for each in row["negatives"])
        assert all(each["margin"] >= 0.02 for each in row["negatives"])


def test_the_reranker_rejects_promotes_and_leaves_what_it_cannot_judge(tmp_path):
    given = list(texts())
    marks = {1: "P=0.95", 2: "P=0.6", 3: "P=nan", 8: "P=0.2"}
    given = [(query, f"{passage} {marks.get(n, '')}".strip()) for n, (query, passage) in enumerate(given)]
    options = {"reranker": "{use: 'mining:Verdicts'}", "near": "null", "near_cosine": "null"}
    found = mine(pairs(tmp_path, given), options)
    taken = [each for row in found for each in row["negatives"]]
    assert {each["reranker"] for each in taken} <= {0.1, 0.2}
    promoted = [each for row in found for each in row["extra_positives"]]
    assert promoted
    assert {each["reranker"] for each in promoted} == {0.95}
    reasons = {each["reason"] for row in found for each in row["refused"]}
    assert {"promoted", "reranker", "no_verdict"} <= reasons


def test_a_sample_by_quantiles_spreads_over_the_rerankers_scores(tmp_path):
    given = [(f"what is in hall {n}", f"Hall {n} holds item {n} of the P={n / 40} collection.") for n in range(40)]
    out = pairs(tmp_path, given)
    options = EASY | {
        "num_negatives": "5",
        "absolute_margin": "null",
        "near_cosine": "null",
        "near": "null",
    }
    options |= {"reranker": "{use: 'mining:Verdicts'}", "reject_above": "1", "promote_above": "null"}
    for row in mine(out, options | {"range": "0:39", "sample": "quantiles"}):
        scores = sorted(each["reranker"] for each in row["negatives"])
        others = sorted(n / 40 for n in range(40) if f"Hall {n} " not in row["passage"])
        assert scores[0] <= others[1]
        assert scores[-1] >= others[-2]
        assert all(0.2 < high - low < 0.3 for low, high in itertools.pairwise(scores))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["bm25", "hybrid"])
def test_words_find_what_vectors_miss(tmp_path, by):
    pytest.importorskip("bm25s")
    out = pairs(tmp_path)
    found = mine(out, {"by": by})
    for row in found:
        for each in row["negatives"]:
            assert each["score"] == pytest.approx(float(vector(each["passage"]) @ vector(row["query"])), abs=2e-3)
    if by == "bm25":
        thing = [row["query"].split()[3] for row in found]
        place = [row["query"].split()[5] for row in found]
        rarest = [row["negatives"][0]["passage"] for row in found]
        assert all(t in text or p in text for t, p, text in zip(thing, place, rarest, strict=True))


def test_a_view_without_pairs_replaces_no_negatives(tmp_path):
    out = pairs(tmp_path)
    before = mine(out)
    assert main(["keep", str(out), "--above", "cosine=0.9999", "--as", "none"]) == 0
    with pytest.raises(JobError, match="no pair passed its rules"):
        mine(out, view="none")
    assert rows(out, "mined") == before


def test_views_can_be_mined_and_unfinished_runs_cannot(tmp_path):
    out = pairs(tmp_path)
    assert main(["keep", str(out), "--above", "cosine=0.65", "--as", "strict"]) == 0
    found = mine(out, view="strict")
    assert [row["id"] for row in found] == [row["id"] for row in rows(out, "views/strict")]
    with pytest.raises(JobError, match="no view lax"):
        mine(out, view="lax")
    shards(out, "kept")[1].unlink()
    with pytest.raises(JobError, match=r"not finished \(kept: 3 of 4 shards\)"):
        mine(out)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"range": "50:20"}, "range"),
        ({"range": "0:4", "num_negatives": "5"}, "has 4 ranks, num_negatives is 5"),
        ({"range": "twenty"}, "is not a range"),
        ({"sample": "best"}, "sample"),
        ({"sample": "quantiles"}, "reranker"),
        ({"max_score": "high"}, "max_score"),
        ({"reranker": "{use: nothing}"}, "unknown name 'nothing'"),
        ({"use": "guessed"}, "unknown name 'guessed'"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(options, what):
    with pytest.raises(JobError, match=what):
        options_of(None, options)


def test_defaults_are_those_of_the_documents():
    use, options = options_of(None, {})
    assert use == "mined"
    assert (options.range, options.window, options.num_negatives) == ((20, 50), "after", 5)
    assert (options.max_score, options.absolute_margin, options.relative_margin) == (0.8, 0.1, None)


def test_the_command_says_what_it_did(tmp_path, capsys):
    out = pairs(tmp_path)
    capsys.readouterr()
    assert (
        main(["mine", str(out), "--range", "0:30", "--num-negatives", "3", "--max-score", "null", "--sample", "random"])
        == 0
    )
    said_, told = capsys.readouterr()
    assert "80 passages, 96 dimensions: 0.0 MB of vectors" in told
    assert "80 pairs:" in said_
    assert "refused: " in said_
    assert pq.read_schema(shards(out, "mined")[0]).names[-3:] == ["negatives", "extra_positives", "refused"]


def test_status_counts_mined_shards_and_says_how_to_go_on(tmp_path, capsys):
    out = pairs(tmp_path)
    mine(out)
    capsys.readouterr()
    assert main(["status", str(out), "--json"]) == 0
    last = json.loads(capsys.readouterr().out)["steps"][-1]
    assert (last["step"], last["shards"], last["of"], last["rows_out"]) == ("mined", 4, 4, 80)
    shards(out, "mined")[0].unlink()
    assert main(["status", str(out)]) == 0
    assert f"resume with: synth mine {out}" in capsys.readouterr().out
