"""The scorers that need more than one shard, more than one text, or a model of their own."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Fault, Loopback, say
from pydantic import ValidationError

from synth.cli import main
from synth.errors import InputError, JobError, OutputError, RequestRejected, ServerRefused
from synth.hashing import jaccard, shingles, tokens, windows
from synth.registry import find
from synth.rerank.chat_logprobs import p_yes
from synth.scores import PairBatch
from synth.scores.near_duplicate import rows_per_band
from synth.search import Index, _Tile, digest, part
from synth.shards.journal import claim
from synth.stage import ChatReply, ClientSettings, Encoded, Services
from synth.steps.generate import JournaledChat

CLIENT = ClientSettings(concurrency=4, notify=lambda _: None)


def made(name, kind="scores", **options):
    return find(kind, name).model_validate_json(json.dumps(options))


class Pass:
    """Shards of some pairs, `size` each."""

    def __init__(self, rows, size=7):
        self.rows, self.size = rows, size

    def shards(self):
        for number, first in enumerate(range(0, len(self.rows), self.size)):
            part = self.rows[first : first + self.size]
            table = pa.table({"query": [q for q, _ in part], "passage": [p for _, p in part]})
            yield PairBatch(table, first=first, shard=number)


def over(scorer, source, folder, services=Services()):  # noqa: B008 - frozen and empty
    """The scorer's columns over a whole pass."""
    asyncio.run(scorer.build(source.shards(), folder, services))
    return scored(scorer, source, folder, services)


def scored(scorer, source, folder, services=Services()):  # noqa: B008 - as above
    tables = [asyncio.run(scorer.score(replace(s, index=folder), services)) for s in source.shards()]
    assert all(table.schema == scorer.columns() for table in tables)
    return pa.concat_tables(tables).to_pydict()


def files_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# --- near_duplicate


def mutated(seed, count=40):
    """Texts in groups that differ by a few words, some of them in Chinese, in no order."""
    draw = random.Random(seed)  # noqa: S311 - test texts, not secrets
    words = [f"word{n}" for n in range(50)]
    texts = []
    for _ in range(count):
        base = draw.choices(words, k=30)
        for _ in range(3):
            changed = list(base)
            for _ in range(draw.randint(0, 3)):
                changed[draw.randrange(30)] = draw.choice(words)
            texts.append(" ".join(changed))
    chinese = "面团在冰箱里冷藏发酵十二到十八小时，酵母活动变慢，而乳酸菌继续产酸，面包因此风味更浓，也更耐放。"
    texts += [chinese, chinese.replace("十八", "十六"), chinese.replace("，", "、"), chinese[::-1]]
    draw.shuffle(texts)
    return texts


def exact_clusters(texts, threshold):
    sets = [set(shingles(text, 3).tolist()) for text in texts]
    group = list(range(len(texts)))
    for a, b in itertools.combinations(range(len(texts)), 2):
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold:
            low, high = sorted((group[a], group[b]))
            group = [low if g == high else g for g in group]
    return group


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_near_duplicates_are_those_of_exact_jaccard(tmp_path, threshold):
    texts = mutated(3)
    source = Pass([(text, f"{text} passage {n // 2}") for n, text in enumerate(texts)])
    found = over(made("near_duplicate", threshold=threshold), source, tmp_path / "index")
    assert found["query_cluster"] == exact_clusters(texts, threshold)
    assert found["passage_cluster"] == exact_clusters([p for _, p in source.rows], threshold)
    assert len(set(found["query_cluster"])) < len(texts)


@pytest.mark.slow
def test_clusters_do_not_depend_on_how_the_pass_is_cut(tmp_path):
    texts = mutated(5, 20)
    rows = [(text, texts[n // 3]) for n, text in enumerate(texts)]
    whole = over(made("near_duplicate"), Pass(rows, len(rows)), tmp_path / "a")
    assert over(made("near_duplicate"), Pass(rows, 4), tmp_path / "b") == whole


def test_texts_that_differ_in_case_and_marks_only_are_one_cluster(tmp_path):
    rows = [("Who built the dam?", "p one"), ("who built the DAM", "p two"), ("", "p"), ("?!", "p"), ("", "p")]
    found = over(made("near_duplicate"), Pass(rows, 2), tmp_path / "index")
    assert found["query_cluster"] == [0, 0, 2, 3, 2]
    assert found["passage_cluster"] == [0, 1, 2, 2, 2]


@pytest.mark.slow
def test_an_index_built_after_a_kill_has_the_same_bytes(tmp_path):
    source = Pass([(text, text[::-1]) for text in mutated(7, 15)])
    scorer = made("near_duplicate")
    over(scorer, source, tmp_path / "whole")
    over(scorer, source, tmp_path / "cut")
    whole = files_in(tmp_path / "whole")
    (tmp_path / "cut" / "manifest.json").unlink()
    for name in list(whole)[::3]:
        (tmp_path / "cut" / name).unlink(missing_ok=True)
    with pytest.raises(OutputError, match="not complete"):
        scored(scorer, source, tmp_path / "cut")
    over(scorer, source, tmp_path / "cut")
    assert files_in(tmp_path / "cut") == whole


def test_a_pass_without_pairs_has_no_clusters(tmp_path):
    asyncio.run(made("near_duplicate").build(iter(()), tmp_path / "index", Services()))
    assert (tmp_path / "index" / "manifest.json").exists()


@given(st.lists(st.text(max_size=40), min_size=2, max_size=2))
def test_jaccard_of_shingles_is_that_of_their_sets(texts):
    a, b = (shingles(text, 3) for text in texts)
    left, right = set(a.tolist()), set(b.tolist())
    assert jaccard(a, b) == len(left & right) / len(left | right)


def test_bands_miss_a_pair_at_the_threshold_once_in_a_million():
    for threshold in (0.3, 0.5, 0.8, 0.9, 0.99):
        rows = rows_per_band(threshold)
        assert (1 - threshold**rows) ** (128 // rows) <= 1e-6


def test_tokens_are_words_or_characters_by_script():
    assert tokens("Hello, well-known “World”!") == ["hello", "well-known", "world"]
    assert tokens("面包，ok") == ["面", "包", "ok"]
    assert tokens("हिन्दी में।") == ["हिन्दी", "में"]
    assert len(windows("a b c d", 3)) == 2


# --- round_trip


@cache
def few_values(text, width):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(-2, 3, width)


class Rounded:
    """Unit vectors with few values, so that ties and near-ties abound; refuses texts that say so."""

    slots = 1

    def __init__(self, width):
        self.width, self.calls = width, []

    async def encode(self, texts, role):
        self.calls += [(role, text) for text in texts]
        if any("refused" in text for text in texts):
            raise RequestRejected("too_long")
        rows = np.array([few_values(text, self.width) for text in texts], np.float32)
        rows[:, 0] += 0.5
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return Encoded(rows, np.zeros(len(texts), np.bool_))

    async def close(self):
        pass


def brute_force(encoder, rows):
    """Rank and margin by a plain loop in float64 over the vectors as they are stored."""

    def vectors(texts, role):
        found = asyncio.run(encoder.encode(texts, role)).vectors.astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    passages = list(dict.fromkeys(p for _, p in rows))
    stored = vectors(passages, "document").astype("<f2").astype(np.float64)
    queries = vectors([q for q, _ in rows], "query").astype(np.float32).astype(np.float64)
    ranks, margins = [], []
    for query, (_, passage) in zip(queries, rows, strict=True):
        cosines = [float((query * vector).sum()) for vector in stored]
        own = cosines.pop(passages.index(passage))
        ranks.append(1 + sum(other > own for other in cosines))
        margins.append(own - max(cosines))
    return {"round_trip_rank": ranks, "round_trip_margin": margins}


@pytest.mark.parametrize("width", [2, 5, 48])
def test_round_trip_is_a_brute_force_loop(tmp_path, width):
    rows = [(f"query {n}", f"passage {n // 2}") for n in range(90)]
    found = over(made("round_trip"), Pass(rows), tmp_path / "index", Services(encoder=Rounded(width)))
    assert found == brute_force(Rounded(width), rows)
    assert len(set(found["round_trip_rank"])) > 2


def test_round_trip_embeds_each_passage_once_and_goes_on_after_a_kill(tmp_path):
    rows = [(f"query {n}", f"passage {n % 11}") for n in range(40)]
    encoder, scorer = Rounded(8), made("round_trip")
    whole = over(scorer, Pass(rows), tmp_path / "a", Services(encoder=encoder))
    documents = [text for role, text in encoder.calls if role == "document"]
    assert sorted(documents) == sorted({p for _, p in rows})
    size = sum(p.stat().st_size for p in (tmp_path / "a").glob("*.bin"))
    assert size == scorer.index_bytes(11, 8)

    class Dies(Rounded):
        async def encode(self, texts, role):
            if "passage 9" in texts:
                raise KeyboardInterrupt
            return await super().encode(texts, role)

    with pytest.raises(KeyboardInterrupt):
        over(scorer, Pass(rows), tmp_path / "b", Services(encoder=Dies(8)))
    encoder.calls.clear()
    assert over(scorer, Pass(rows), tmp_path / "b", Services(encoder=encoder)) == whole
    assert len([role for role, _ in encoder.calls if role == "document"]) == 4
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def test_round_trip_knows_nothing_of_texts_that_are_refused(tmp_path):
    rows = [("q1", "p1"), ("q refused", "p2"), ("q3", "p refused"), ("q4", "p4")]
    found = over(made("round_trip"), Pass(rows, 2), tmp_path / "i", Services(encoder=Rounded(6)))
    assert [rank is None for rank in found["round_trip_rank"]] == [False, True, True, False]
    alone = over(made("round_trip"), Pass([("q", "p")]), tmp_path / "j", Services(encoder=Rounded(6)))
    assert alone == {"round_trip_rank": [1], "round_trip_margin": [None]}


def products_of(monkeypatch):
    """Pairs of a query and a passage that are multiplied in a search."""
    counted, see = [], _Tile.see

    def counting(self, first, block, absent, room):
        counted.append(len(self._queries) * len(block))
        see(self, first, block, absent, room)

    monkeypatch.setattr(_Tile, "see", counting)
    return counted


ASKED = [(f"query {n}", f"passage {n // 2}") for n in range(90)]


def test_round_trip_among_as_many_as_there_are_is_the_whole_search(tmp_path):
    services = Services(encoder=Rounded(5))
    whole = over(made("round_trip"), Pass(ASKED), tmp_path / "all", services)
    for among in (44, 45, 1000):
        assert over(made("round_trip", among=among), Pass(ASKED), tmp_path / str(among), services) == whole
    assert over(made("round_trip", among=43), Pass(ASKED), tmp_path / "43", services) != whole


@pytest.mark.parametrize("among", [1, 7, 43])
def test_round_trip_ranks_each_own_passage_among_the_same_drawn_ones(tmp_path, among):
    """By a plain loop: the other passages with the lowest digests, as many for a pair whose own one was drawn."""
    found = over(made("round_trip", among=among), Pass(ASKED), tmp_path / "i", Services(encoder=Rounded(5)))
    passages = sorted({p for _, p in ASKED}, key=lambda text: np.frombuffer(digest(text), "<u8")[::-1].tolist())
    for n, (query, own) in list(enumerate(ASKED))[::4]:
        others = [text for text in passages[: among + 1] if text != own][:among]
        assert len(others) == among
        alone = brute_force(Rounded(5), [(query, text) for text in (own, *others)])
        assert found["round_trip_rank"][n] == alone["round_trip_rank"][0]
        assert found["round_trip_margin"][n] == alone["round_trip_margin"][0]


def test_the_draw_does_not_depend_on_the_order_of_the_pairs_nor_on_the_shards(tmp_path):
    services, scorer = Services(encoder=Rounded(5)), made("round_trip", among=9)
    shuffled = random.Random(1).sample(ASKED, len(ASKED))  # noqa: S311 - an order, not secrets
    ranks = over(scorer, Pass(ASKED), tmp_path / "a", services)["round_trip_rank"]
    again = over(scorer, Pass(shuffled, 31), tmp_path / "b", services)["round_trip_rank"]
    assert dict(zip(ASKED, ranks, strict=True)) == dict(zip(shuffled, again, strict=True))


def test_a_draw_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr("synth.scores.round_trip.BLOCK", 4)
    encoder, scorer = Rounded(8), made("round_trip", among=9)
    whole = over(scorer, Pass(ASKED), tmp_path / "a", Services(encoder=encoder))
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir() if path.suffix in {".bin", ".rows"})
    assert size == scorer.index_bytes(45, 8)
    put = Index.put

    def killed(self, name, array):
        if name == part("drawn", 1):
            raise KeyboardInterrupt
        put(self, name, array)

    monkeypatch.setattr(Index, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        over(scorer, Pass(ASKED), tmp_path / "b", Services(encoder=encoder))
    monkeypatch.setattr(Index, "put", put)
    encoder.calls.clear()
    assert over(scorer, Pass(ASKED), tmp_path / "b", Services(encoder=encoder)) == whole
    assert "document" not in {role for role, _ in encoder.calls}
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def test_the_cost_of_a_draw_grows_with_the_pairs_and_not_with_their_square(tmp_path, monkeypatch):
    counted = products_of(monkeypatch)
    for pairs in (100, 200, 400):
        rows = [(f"query {n}", f"passage {n}") for n in range(pairs)]
        for among, wanted in ((9, 10 * pairs), (None, pairs * pairs)):
            counted.clear()
            folder = tmp_path / f"{pairs}-{among}"
            over(made("round_trip", among=among), Pass(rows, 50), folder, Services(encoder=Rounded(4)))
            assert sum(counted) == wanted


def test_by_default_so_many_are_drawn_where_there_are_more(tmp_path, monkeypatch):
    monkeypatch.setattr("synth.scores.round_trip.DRAWN", 43)
    services = Services(encoder=Rounded(5))
    found = over(made("round_trip"), Pass(ASKED), tmp_path / "a", services)
    assert found == over(made("round_trip", among=43), Pass(ASKED), tmp_path / "b", services)
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["drawn"] == 44
    before = made("round_trip").identity()
    assert "among" not in before
    assert before != made("round_trip", among=43).identity()


def test_round_trip_refuses_an_index_of_other_passages(tmp_path):
    services = Services(encoder=Rounded(6))
    over(made("round_trip"), Pass([("q", "p")]), tmp_path / "i", services)
    with pytest.raises(OutputError, match="other passages"):
        scored(made("round_trip"), Pass([("q", "another")]), tmp_path / "i", services)


# --- self_contained

POINTING = (
    "What is the main idea of the passage?",
    "According to the text, who founded the city?",
    "what does this article say about whales",
    "Which methods are mentioned above?",
    "Was sagt der Text über Wale?",
    "Welche Gründe werden im Text genannt?",
    "Laut diesem Artikel, wer gewann?",
    "Selon le texte, qui a gagné ?",
    "De quoi parle cet article ?",
    "Según el texto, ¿quién ganó?",
    "¿De qué trata este artículo?",
    "Segundo o texto, quem venceu?",
    "Secondo il testo, chi ha vinto?",
    "Volgens de tekst, wie won?",
    "Według tekstu, kto wygrał?",
    "Согласно тексту, кто победил?",
    "О чём говорится в этой статье?",
    "Згідно з текстом, хто переміг?",
    "Metne göre kim kazandı?",
    "وفقا للنص، من فاز؟",
    "ما الفكرة الرئيسية في النص؟",
    "طبق متن، چه کسی برنده شد؟",
    "לפי הטקסט, מי ניצח?",
    "गद्यांश के अनुसार कौन जीता?",
    "Theo đoạn văn, ai thắng?",
    "Menurut teks, siapa yang menang?",
    "Enligt texten, vem vann?",
    "Ifølge teksten, hvem vandt?",
    "Podle textu, kdo vyhrál?",
    "Σύμφωνα με το κείμενο, ποιος κέρδισε;",
    "Conform textului, cine a câștigat?",
    "A szöveg szerint ki nyert?",
    "Tekstin mukaan kuka voitti?",
    "根据上文，谁赢了？",
    "文中提到的主要原因是什么",
    "本文的主要观点是什么",
    "这篇文章主要讲了什么",
    "この文章によると、誰が勝ったか",
    "이 글의 주제는 무엇인가?",
    "ตามบทความนี้ ใครชนะ",
)
SEARCHES = (
    "this article of the constitution guarantees free speech",
    "what does article 5 of the treaty say",
    "how to center the text in a table",
    "passage of time in general relativity",
    "northwest passage first crossing",
    "text message delivery failed",
    "according to the author of Hamlet what is a ghost",
    "document required for a visa",
    "who is the author of the theory of relativity",
    "wie ändere ich den Text in Word",
    "Wer schrieb den Text der Nationalhymne",
    "comment modifier le texte d'un PDF",
    "article 49.3 de la constitution",
    "cómo traducir texto en línea",
    "o texto da constituição",
    "как найти слово в тексте",
    "soạn thảo văn bản trong word",
    "日本文化の特徴",
    "英语作文中常见错误",
    "日本文学史",
    "这本书的作者是谁",
    "글쓰기 잘하는 방법",
)


def test_queries_that_point_at_an_unseen_text_are_told_from_searches_about_texts():
    rows = [(query, "p") for query in (*POINTING, *SEARCHES)]
    table = pa.table({"query": [q for q, _ in rows], "passage": [p for _, p in rows]})
    found = asyncio.run(made("self_contained").score(PairBatch(table), Services()))["self_contained"].to_pylist()
    wrong = [
        query
        for (query, _), good, want in zip(rows, found, [False] * len(POINTING) + [True] * len(SEARCHES), strict=True)
        if good != want
    ]
    assert wrong == []


def test_as_names_columns_by_what_they_measure():
    assert made("self_contained", **{"as": "standalone"}).columns().names == ["standalone"]
    assert made("round_trip", **{"as": "rt"}).columns().names == ["rt_rank", "rt_margin"]
    assert made("near_duplicate", **{"as": "dup"}).columns().names == ["dup_query_cluster", "dup_passage_cluster"]
    assert made("contamination", files=["x"], **{"as": "leak"}).columns().names == [
        "leak", "leak_contamination", "leak_by",
    ]  # fmt: skip


# --- contamination

BENCHMARK = (
    "which treaty ended the long war between the two northern kingdoms",
    "capital of the island",
    "面包在冰箱里发酵多久最好吃",
)
SUSPECTS = (
    "tell me which treaty ended the long war between the two northern kingdoms please",
    "Capital of the island?",
    "面包在冰箱里发酵多久最好呢",
    "how do tides follow the moon",
)


def write_benchmark(folder, kind):
    path = folder / f"bench.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"n": [1, 2, 3], "query": BENCHMARK}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"question": text}) + "\n" for text in BENCHMARK))
    elif kind == "csv":
        path.write_text("id,query\n" + "".join(f"{n},{text}\n" for n, text in enumerate(BENCHMARK)))
    else:
        path.write_text("\n".join(BENCHMARK))
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "txt"])
def test_contamination_finds_runs_and_near_duplicates_in_every_kind_of_file(tmp_path, kind):
    path = write_benchmark(tmp_path, kind)
    table = pa.table({"query": SUSPECTS, "passage": ["p"] * 4})
    found = asyncio.run(made("contamination", files=[str(path)]).score(PairBatch(table), Services())).to_pydict()
    assert found["contaminated"] == [True, True, True, False]
    assert found["contaminated_by"] == [f"bench.{kind}:{n}" if n else None for n in (1, 2, 3, 0)]
    assert found["contamination"][1] == 1.0
    assert found["contamination"][0] == 9 / 12  # triples in common; of the runs of 8 it is 4 of 7
    assert found["contamination"][3] == 0.0


def test_contamination_is_the_files_content_and_not_their_place(tmp_path):
    path = write_benchmark(tmp_path, "txt")
    before = made("contamination", files=[str(path)]).identity()
    moved = path.rename(tmp_path / "moved.txt")
    assert made("contamination", files=[str(moved)]).identity() == before
    moved.write_text("another question about another thing")
    assert made("contamination", files=[str(moved)]).identity() != before


def test_contamination_refuses_files_that_it_cannot_read(tmp_path):
    with pytest.raises(JobError, match=r"none\.jsonl"):
        made("contamination", files=[str(tmp_path / "none.jsonl")]).identity()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "torn.jsonl").write_text('{"query": "fine"}\n{"query": \n')
    (tmp_path / "other.jsonl").write_text('{"number": 3}\n')
    batch = PairBatch(pa.table({"query": ["q"], "passage": ["p"]}))
    for name in ("torn.parquet", "torn.jsonl", "other.jsonl"):
        with pytest.raises(InputError, match=name):
            asyncio.run(made("contamination", files=[str(tmp_path / name)]).score(batch, Services()))


# --- judge


class Says:
    slots = 3

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    async def complete(self, request):
        self.asked.append(request)
        reply = self.replies[(len(self.asked) - 1) % len(self.replies)]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, ChatReply) else ChatReply(reply, "stop", "grader")

    async def close(self):
        pass


def judged(chat, rows=(("q", "p"),), **options):
    table = pa.table({"query": [q for q, _ in rows], "passage": [p for _, p in rows]})
    batch = PairBatch(table, tuple(dict.fromkeys(p for _, p in rows)))
    found = asyncio.run(made("judge", **options).score(batch, Services(chat=chat))).to_pydict()
    return list(zip(found["judge_relevance"], found["judge_answerability"], strict=True))


def test_a_judge_asks_again_until_the_grades_are_grades():
    chat = Says("no idea", '{"Relevance": 9, "Answerability": 1}', '{"Relevance": 4, "Answerability": "2"}')
    assert judged(chat) == [(4, 2)]
    assert len({request.seed for request in chat.asked}) == 3
    assert chat.asked[0].schema["required"] == ["Relevance", "Answerability"]
    assert judged(Says('{"Relevance": 4}'), attempts=2) == [(None, None)]
    assert judged(Says(ChatReply(None, "content_filter", "m"))) == [(None, None)]
    assert judged(Says(RequestRejected("too_long"))) == [(None, None)]


def test_a_judge_sees_the_passage_before_the_query_and_no_control_tokens():
    chat = Says('{"Relevance": 5, "Answerability": 5}')
    judged(chat, [("why <|im_end|> so", "Because <|im_start|>system."), ("who", "Because <|im_start|>system.")])
    prompts = [request.messages[1][1] for request in chat.asked]
    assert prompts[0].index("Because") < prompts[0].index("why")
    assert chat.asked[0].messages[0] == chat.asked[1].messages[0]
    assert "<|im_" not in prompts[0]
    assert prompts[0].split("<query>")[0] == prompts[1].split("<query>")[0]
    assert {request.key.position for request in chat.asked} == {0}


def test_what_a_judge_said_is_remembered(tmp_path):
    journal = claim(tmp_path / "j", tmp_path / "shard", locked=True)
    rows = [("q1", "p"), ("q2", "p"), ("q1", "p"), ("q3", "other")]
    first = Says('{"Relevance": 3, "Answerability": 2}')
    answer = judged(JournaledChat(first, journal, lambda: False), rows)
    assert len(first.asked) == 3
    journal.close()
    again = claim(tmp_path / "j", tmp_path / "shard", locked=True)
    assert judged(JournaledChat(Says(AssertionError("asked again")), again, lambda: False), rows) == answer
    again.close()


def test_a_judge_may_bring_its_own_model():
    own = made("judge", llm={"use": "vllm_server", "model": "m", "base_urls": ["http://127.0.0.1:1"]})
    assert own.brings == {"chat"}
    assert made("judge").brings == frozenset()
    moved = made("judge", llm={"use": "vllm_server", "model": "m", "base_urls": ["http://127.0.0.1:2"]})
    assert own.identity() == moved.identity() != made("judge").identity()
    with pytest.raises(ValidationError, match=r"modell: unknown key\. Did you mean 'model'"):
        made("judge", llm={"use": "vllm_server", "modell": "m", "base_urls": ["http://127.0.0.1:2"]})


# --- reranker


def reranked(server_scorer, rows, memory=None):
    async def go():
        models = server_scorer.open(CLIENT, "the task's instruction")
        table = pa.table({"query": [q for q, _ in rows], "passage": [p for _, p in rows]})
        batch = PairBatch(table, (), remember=memory)
        try:
            return await server_scorer.score(batch, Services(**models))
        finally:
            await models["reranker"].close()

    return asyncio.run(go())["reranker"].to_pylist()


def shared_words(query, document):
    words = set(query.split())
    return len(words & set(document.split())) / len(words)


class ScoreServer(Loopback):
    """Also answers /v1/score by the words that query and document share; refuses documents that say `poison`."""

    def _serve(self, seen):
        from aiohttp import web

        if seen.path != "/v1/score" or seen.method != "POST":
            return super()._serve(seen)
        pairs = list(zip(seen.body["queries"], seen.body["documents"], strict=True))
        if any("poison" in document for _, document in pairs):
            return web.json_response({"error": {"message": "maximum context length", "code": 400}}, status=400)
        data = [{"index": n, "score": shared_words(*pair)} for n, pair in enumerate(pairs)]
        return web.json_response({"data": data[::-1]})


ROWS = [(f"a b c{n}", f"b c{n} d" if n % 2 else "nothing") for n in range(11)]


def test_the_vllm_reranker_scores_in_batches_and_halves_round_a_refusal():
    with ScoreServer() as server:
        scorer = made(
            "reranker", model={"use": "vllm_server", "model": "tiny", "base_urls": [server.url], "batch_size": 4}
        )
        assert reranked(scorer, ROWS) == [shared_words(*row) for row in ROWS]
        assert [len(seen.body["queries"]) for seen in server.posts] == [4, 4, 3]
        assert server.posts[0].body["instruction"] == "the task's instruction"
        poisoned = [*ROWS[:3], ("a", "poison"), *ROWS[3:6]]
        found = reranked(scorer, poisoned)
        assert [value is None for value in found] == [False] * 3 + [True] + [False] * 3


def test_rerank_scores_are_remembered_by_batch(tmp_path):
    journal = claim(tmp_path / "j", tmp_path / "shard", locked=True)
    with ScoreServer() as server:
        scorer = made(
            "reranker", model={"use": "vllm_server", "model": "tiny", "base_urls": [server.url], "batch_size": 4}
        )
        first = reranked(scorer, ROWS, journal)
        server.log.clear()
        assert reranked(scorer, ROWS, journal) == first
        assert server.posts == []
    journal.close()


def test_a_score_that_is_no_probability_is_asked_again_and_never_kept():
    with ScoreServer() as server:
        server.fail(Fault(200, {"data": [{"index": 0, "score": 3.5}]}))
        scorer = made("reranker", model={"use": "vllm_server", "model": "tiny", "base_urls": [server.url]})
        assert reranked(scorer, [("a", "a")]) == [1.0]


def logprobs(**listed):
    top = [{"token": token.replace("_", " "), "logprob": float(np.log(p))} for token, p in listed.items()]
    answer = say("yes")
    answer["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return answer


def test_the_chat_reranker_reads_the_verdict_off_the_first_token():
    with Loopback() as server:
        model = {"use": "chat_logprobs", "model": "tiny", "base_url": server.url, "api_key_env": None}
        scorer = made("reranker", model=model, instruction="mine")
        server.chat = lambda _: logprobs(yes=0.5, Yes=0.1, _no=0.2, maybe=0.1)
        assert reranked(scorer, [("q", "d")]) == [pytest.approx(0.75)]
        assert "<Instruct>: mine\n<Query>: q\n<Document>: d" in server.posts[0].body["messages"][1]["content"]
        server.log.clear()
        server.chat = lambda body: (
            logprobs(yes=0.5, maybe=0.3) if body["top_logprobs"] == 5 else logprobs(yes=0.5, no=0.3)
        )
        assert reranked(scorer, [("q", "d")]) == [pytest.approx(0.625)]
        assert [seen.body["top_logprobs"] for seen in server.posts] == [5, 20]
        for without in (logprobs(maybe=0.5, perhaps=0.3), say("yes")):
            server.chat = lambda body, bad=without: bad if "<Query>: q" in str(body) else logprobs(yes=0.5, no=0.3)
            assert reranked(scorer, [("q", "d")]) == [None]
            server.chat = lambda _, bad=without: bad
            with pytest.raises(ServerRefused, match="rejects the simplest request"):
                reranked(scorer, [("q", "d")])


def test_a_missing_token_counts_only_where_it_cannot_matter():
    assert p_yes({"yes": np.log(0.99), "x": np.log(1e-6)}) == 1.0
    assert p_yes({"no": np.log(0.99), "x": np.log(1e-6)}) == 0.0
    assert p_yes({"yes": np.log(0.9), "x": np.log(0.05)}) is None
    assert p_yes({}) is None


def test_a_reranker_without_a_model_or_with_a_wrong_one_is_told_at_the_job():
    with pytest.raises(ValidationError, match=r"use: names no stage. One of"):
        made("reranker", model={"model": "x"})
    with pytest.raises(ValidationError, match="Did you mean 'vllm_server'"):
        made("reranker", model={"use": "vllm_serve", "model": "x"})


def checked(folder, capsys, scorer, *flags):
    """Exit code and report of `synth check` over a pass with this scorer, and what it prints for people."""
    (folder / "pairs.jsonl").write_text('{"query": "how do tides rise", "passage": "Tides follow the moon."}\n')
    data = {"path": str(folder / "pairs.jsonl"), "query_language": "en", "passage_language": "en"}
    job = folder / "job.yaml"
    job.write_text(json.dumps({"data": data, "scores": [{"use": "length"}, scorer], "keep": {}}))
    capsys.readouterr()
    code = main(["check", str(job), "--json", *flags])
    told = json.loads(capsys.readouterr().out)
    assert main(["check", str(job), *flags]) == code
    return code, told, capsys.readouterr().out


def served(url, **more):
    return {"use": "reranker", "model": {"use": "vllm_server", "model": "tiny", "base_urls": [url]}, **more}


def test_check_asks_a_reranker_whether_it_prefers_an_answer(tmp_path, capsys):
    with ScoreServer() as server:
        code, told, out = checked(tmp_path, capsys, served(server.url, instruction="Find the cure."))
        (asked,) = told["servers"]
        assert code == 0
        assert told["data"]["languages"] == {"en > en": 1}
        assert asked["section"] == "scores.1.model"
        assert asked["results"][0]["paraphrase"] > asked["results"][0]["unrelated"] == 0
        assert f"scores.1.model vllm_server tiny at {server.url}: vLLM 0.32.0" in " ".join(out.split())
        assert server.posts[0].path == "/v1/score"
        assert server.posts[0].body["instruction"] == "Find the cure."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Fault(404), r"for the model 'tiny': was the server started for this kind of model\?$"),
        (Fault(200, {"data": [{"index": n, "score": 0.5} for n in (0, 1)]}), "is this a reranker"),
        (Fault(200, {"data": []}), "something that is not scores"),
        (Fault(400), "scripted 400"),
    ],
)
def test_check_says_why_a_reranker_is_of_no_use(tmp_path, capsys, answer, said):
    with ScoreServer() as server:
        server.rule = lambda seen: answer if seen.method == "POST" else None
        code, told, out = checked(tmp_path, capsys, served(server.url))
    assert code == 5
    assert ": answers" not in out
    assert any(re.search(said, text) for text in told["mistakes"]), told["mistakes"]


def test_check_names_the_reranker_that_is_not_there(tmp_path, capsys):
    with ScoreServer() as server:
        url = server.url
    code, told, out = checked(tmp_path, capsys, served(url))
    assert code == 5
    assert "correct scores.1.model.base_urls" in told["mistakes"][0]
    assert "NOT REACHED" in out


def test_check_asks_a_chat_model_for_its_verdict(tmp_path, capsys):
    with Loopback() as server:
        model = {"use": "chat_logprobs", "model": "tiny", "base_url": server.url, "api_key_env": None}
        scorer = {"use": "reranker", "model": model}
        server.chat = lambda body: (
            logprobs(yes=0.8, no=0.1)
            if "forgotten" in body["messages"][1]["content"][-99:]
            else logprobs(yes=0.1, no=0.8)
        )
        code, told, _ = checked(tmp_path, capsys, scorer)
        assert code == 0
        assert told["servers"][0]["results"][0]["paraphrase"] == pytest.approx(8 / 9)
        server.chat = lambda _: say("yes")
        code, told, _ = checked(tmp_path, capsys, scorer)
        assert code == 5
        assert "returns no log-probabilities" in told["mistakes"][0]


def test_a_server_on_this_machine_that_is_not_asked_is_not_called_in_process(tmp_path, capsys):
    with ScoreServer() as server:
        code, _, out = checked(tmp_path, capsys, served(server.url), "--offline")
        assert code == 0
        assert f"scores.1.model vllm_server tiny at {server.url}: not asked" in " ".join(out.split())
        assert "in this process" not in out
        assert not server.log


def test_check_tells_at_once_which_file_of_a_contamination_cannot_be_used(tmp_path, capsys):
    (tmp_path / "numbers.jsonl").write_text('{"number": 3}\n')
    for name, code in (("none.jsonl", 2), ("numbers.jsonl", 3)):
        found, told, _ = checked(tmp_path, capsys, {"use": "contamination", "files": [str(tmp_path / name)]})
        assert found == code
        assert name in told["mistakes"][0]
