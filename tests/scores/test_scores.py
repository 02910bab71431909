from __future__ import annotations

import asyncio
import hashlib
import json
import time
import unicodedata
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.errors import InputError, JobError, ServerRefused
from synth.languages import language
from synth.measures import longest_shared_run
from synth.registry import find, names
from synth.scores import PairBatch, ScoreColumn, Scorer
from synth.shipped import shipped
from synth.stage import ClientSettings, Encoded, Services

SHARED = Path(__file__).parents[2].parent / "shared"
RECORDED = SHARED / "data" / "recorded" / "recorded_dev.jsonl"

PASSAGES = (
    "Bakers feed a sourdough starter with equal parts of flour and water, twice a day.",
    "Der Leuchtturm wurde 1871 erbaut und zeigt Schiffen den Weg in den Hafen.",
    "Lichens grow on bare rock where no plant finds soil.",
)


class HashEncoder:
    """A vector per (role, text) from a digest, not of unit length; notes every call."""

    def __init__(self, change=None):
        self.calls = []
        self.change = change

    async def encode(self, texts, role):
        self.calls.append((role, tuple(texts)))
        rows = [np.frombuffer(hashlib.sha256(f"{role}:{text}".encode()).digest(), np.uint8) for text in texts]
        vectors = np.array(rows, np.float32) - 127
        if self.change:
            vectors = self.change(vectors, role)
        return Encoded(vectors, np.array([len(text) > 80 for text in texts]))

    async def close(self):
        pass


def scorer(name, **options):
    return find("scores", name).model_validate(options)


def batch(*rows, documents=None, **columns):
    table = pa.table({"query": [row[0] for row in rows], "passage": [row[1] for row in rows], **columns})
    return PairBatch(table) if documents is None else PairBatch(table, documents)


def scored(name, pairs, services=Services(), **options):  # noqa: B008 - frozen and empty
    made = scorer(name, **options)
    table = asyncio.run(made.score(pairs, services))
    assert table.schema == made.columns()
    assert table.num_rows == pairs.pairs.num_rows
    return table.to_pydict()


PAIRS = [
    ("how to feed a starter", PASSAGES[0]),
    ("bare rock plants", PASSAGES[2]),
    ("how to feed a starter", PASSAGES[2]),
]


def test_cosine_is_that_of_the_encoders_vectors():
    encoder = HashEncoder()
    got = scored("cosine", batch(*PAIRS, documents=PASSAGES), Services(encoder=encoder))

    async def vector(text, role):
        row = (await HashEncoder().encode([text], role)).vectors[0].astype(np.float64)
        return row / np.linalg.norm(row)

    async def cosine(query, passage):
        return float(await vector(query, "query") @ await vector(passage, "document"))

    expected = [asyncio.run(cosine(*pair)) for pair in PAIRS]
    np.testing.assert_allclose(got["cosine"], expected, atol=1e-12)
    shuffled = [asyncio.run(cosine(q, {PASSAGES[0]: PASSAGES[1], PASSAGES[2]: PASSAGES[0]}[p])) for q, p in PAIRS]
    np.testing.assert_allclose(got["cosine_shuffled"], shuffled, atol=1e-12)
    assert got["passage_truncated"] == [True, False, False]


def test_what_an_encoder_may_have_cut_silently_is_unknown():
    class Silent(HashEncoder):
        async def encode(self, texts, role):
            return replace(await super().encode(texts, role), silent=True)

    got = scored("cosine", batch(*PAIRS, documents=PASSAGES), Services(encoder=Silent()))
    assert got["passage_truncated"] == [True, None, None]
    assert None not in got["cosine"]


def test_each_text_is_embedded_once_and_passages_in_one_call_of_their_own():
    encoder = HashEncoder()
    scored("cosine", batch(*PAIRS, documents=PASSAGES), Services(encoder=encoder))
    assert encoder.calls == [("document", PASSAGES), ("query", ("how to feed a starter", "bare rock plants"))]


def test_a_single_passage_has_no_shuffled_cosine_and_no_row_needs_no_call():
    encoder = HashEncoder()
    assert scored("cosine", batch(PAIRS[0]), Services(encoder=encoder))["cosine_shuffled"] == [None]
    empty = PairBatch(pa.table({"query": pa.array([], pa.string()), "passage": pa.array([], pa.string())}), PASSAGES)
    encoder.calls.clear()
    assert scored("cosine", empty, Services(encoder=encoder))["cosine"] == []
    assert encoder.calls == []


def poisoned(value):
    def change(vectors, role):
        if role == "query":
            vectors[0, :] = value if value == 0 else vectors[0, :]
            vectors[0, 3] = value
        return vectors

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (poisoned(np.nan), "NaN"),
        (poisoned(np.inf), "infinity"),
        (poisoned(0.0), "zeros"),
        (lambda vectors, role: vectors[:, :16] if role == "query" else vectors, "16 dimensions"),
        (lambda vectors, role: vectors[:1], "came back"),  # noqa: ARG005 - the encoder calls it with both
    ],
)
def test_vectors_that_have_no_cosine_stop_the_run(change, says):
    with pytest.raises(ServerRefused, match=says):
        scored("cosine", batch(*PAIRS), Services(encoder=HashEncoder(change)))


def test_cosine_without_an_encoder_says_what_to_add():
    assert find("scores", "cosine").needs == {"encoder"}
    with pytest.raises(JobError, match="embed:"):
        scored("cosine", batch(*PAIRS))


@pytest.mark.slow
def test_cosine_equals_that_of_sentence_transformers():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    embedder = find("embed", "sentence_transformers")()
    encoder = embedder.open(ClientSettings(), "")
    got = scored("cosine", batch(*PAIRS, documents=PASSAGES), Services(encoder=encoder))
    model = sentence_transformers.SentenceTransformer(embedder.folder())
    expected = [float(model.similarity(*model.encode(list(pair))[:, None])[0, 0]) for pair in PAIRS]
    np.testing.assert_allclose(got["cosine"], expected, atol=1e-5)


def test_detected_language_and_language_ok():
    queries = [
        ("How often should a sourdough starter be fed?", "en"),
        ("Wie oft muss man einen Sauerteig füttern?", "en"),
        ("Wie oft muss man einen Sauerteig füttern?", "de"),
        ("怎样喂养酸面团才能保持活力？", "zh-Hans"),
        ("How often should a sourdough starter be fed?", None),
        ("How often should a sourdough starter be fed?", "und"),
        ("How often should a sourdough starter be fed?", "tlh"),
        ("1871", "de"),
    ]
    pairs = batch(*[(q, PASSAGES[0]) for q, _ in queries], query_language=[code for _, code in queries])
    got = scored("language", pairs)
    assert got["language_ok"] == [True, False, True, True, None, None, None, None]
    assert got["detected_language"][:4] == ["en", "de", "de", "zh-Hans"]
    assert got["detected_language"][7] == "und"
    assert scored("language", batch(PAIRS[0]))["language_ok"] == [None]


@pytest.mark.parametrize(
    ("low", "high", "unit", "length", "error"),
    [
        (4, 6, "words", 5, 0.0),
        (5, 5, "words", 5, 0.0),
        (10, 20, "words", 5, 0.5),
        (1, 2, "words", 5, 1.5),
        (1, 4, None, 5, 0.25),
        (10, 17, "characters", 17, 0.0),
        (1, 10, "characters", 17, 0.7),
        (None, None, "words", 5, None),
        (None, 4, "words", 5, 0.25),
        (10, None, "words", 5, 0.5),
        (0, 0, "words", 5, 5.0),
    ],
)
def test_length_error_is_relative_to_the_nearest_bound(low, high, unit, length, error):
    columns = {"length_min": [low], "length_max": [high], "length_unit": [unit], "query_language": ["en"]}
    got = scored("length", batch(("how to feed a starter", PASSAGES[0]), **columns))
    assert got["length"] == [length]
    assert got["length_error"] == [pytest.approx(error)]


def test_length_of_data_made_elsewhere_is_counted_by_its_own_script():
    pairs = batch(
        ("怎样喂养酸面团才能保持活力？", PASSAGES[0]), ("feed a starter", PASSAGES[0]), query_language=["Klingon", None]
    )
    got = scored("length", pairs)
    assert got["length"][0] > 3
    assert got["length"][1] == 3
    assert got["length_error"] == [None, None]


@pytest.mark.parametrize(
    ("query", "copied"),
    [
        ("FLOUR  and\nWater", 1.0),
        ("flour and milk", 10 / 14),
        ("zzzz", 0.0),
        ("feed", 1.0),
        ("why feed", 5 / 8),
    ],
)
def test_copied_is_the_longest_shared_run_by_the_length_of_the_query(query, copied):
    assert scored("copying", batch((query, PASSAGES[0])))["copied_share"] == [pytest.approx(copied)]


def test_copied_folds_case_as_unicode_does_and_leaves_keywords_alone():
    passage = "Die Straße zum Hafen"
    pairs = batch(
        ("STRASSE", passage), ("Straße", passage), (" ", passage), question_type=["summary", "keywords", "summary"]
    )
    assert scored("copying", pairs)["copied_share"] == [1.0, None, None]


@pytest.mark.parametrize("text", ["où trouver des crêpes salées", "ガラスの町", "각설탕 공장", "tiếng Việt phổ thông"])
def test_measures_do_not_depend_on_the_unicode_form(text):
    pairs = batch(
        *(
            (unicodedata.normalize(one, text), unicodedata.normalize(other, text))
            for one, other in product(FORMS, FORMS)
        ),
        length_unit=["characters"] * 4,
    )
    assert scored("copying", pairs)["copied_share"] == [1.0] * 4
    assert len(set(scored("length", pairs)["length"])) == 1
    assert len(set(scored("language", pairs)["detected_language"])) == 1


FORMS = ("NFC", "NFD")


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_longest_shared_run_is_that_of_trying_all(text, other):
    ends = range(len(text) + 1)
    runs = [text[i:j] for i in ends for j in ends[i:]]
    assert longest_shared_run(text, other) == max(len(run) for run in runs if run in other)


def test_copying_takes_about_a_millisecond_a_pair():
    words = [hashlib.sha256(str(n).encode()).hexdigest()[: 3 + n % 7] for n in range(1400)]
    passage = " ".join(words)[:8000]
    pairs = batch(*[(" ".join(words[n : n + 40 : 5])[:60], passage) for n in range(40)])
    start = time.process_time()
    scored("copying", pairs)
    assert (time.process_time() - start) / 40 < 0.005


# --- answerable

SHIPPED = [
    json.loads(line) for line in shipped("configs", "quickstart", "english.jsonl").read_text("utf-8").splitlines()
]
TEXTS = {row["id"]: row["text"] for row in SHIPPED}
NEEDS = (
    ("what do leafcutter ants use the chewed leaves for", "bio-01"),
    ("Which parasitic mould threatens a fungus garden of Atta?", "bio-01"),
    ("eel larva drifting from the Sargasso sea", "bio-02"),
    ("why did the recruitment of glass eels collapse", "bio-02"),
)
GENERIC = (
    "where can i find guidance for someone in this situation",
    "what should people know before they start",
    "how does it work, and why does it matter?",
    "is there any more information about this",
)


def answerable(*pairs, **columns):
    documents = (*TEXTS.values(), *(passage for _, passage in pairs))
    return scored("answerable", batch(*pairs, documents=documents, **columns))["answerable"]


def test_a_query_that_any_passage_might_answer_falls_and_one_that_needs_its_passage_does_not():
    own = [(query, TEXTS[passage]) for query, passage in NEEDS]
    found = answerable(*own, *((query, text) for query in GENERIC for _, text in own))
    assert min(found[: len(own)]) > 0.3
    generic = found[len(own) :]
    assert sum(value < 0.2 for value in generic) >= 0.85 * len(generic)
    assert max(generic) < min(found[: len(own)])
    other = answerable(*own, *((query, TEXTS["med-01"]) for query, _ in NEEDS))
    assert max(other[len(own) :]) < 0.2


def test_the_words_of_identifiers_and_other_forms_of_a_word_count():
    code = "impl Fuzzer { fn runTarget(&mut self, corpus_size: usize) {} }"
    rows = [(f"how are {word} handled", code) for word in ("run_target", "run targets", "corpusSize", "Corpus-size")]
    assert min(answerable(*rows, ("how are missed crashes handled", code))[:4]) > 0.4
    assert answerable(*rows, ("how are missed crashes handled", code))[4] == 0


@pytest.mark.parametrize(
    ("passage", "own", "other"),
    [
        (
            "大熊猫的前掌除了五根趾头之外，还有一个由桡侧籽骨增大而成的突起，通常称为伪拇指。",
            "伪拇指是由哪块骨头形成的",
            "青蒿素怎样提取",
        ),
        ("รถไฟขบวนแรกออกจากกรุงเทพเวลาเก้าโมงเช้า", "รถไฟขบวนแรกออกกี่โมง", "วิธีทำแกงเขียวหวาน"),
    ],
)
def test_scripts_without_spaces_are_compared_by_neighbouring_characters(passage, own, other):
    found = answerable((own, passage), (other, passage))
    assert found[0] > 0.2 > found[1]


def test_pairs_across_languages_and_queries_without_a_word_have_no_answerable():
    german = "Wie alt ist der Leuchtturm?"
    rows = [
        (german, PASSAGES[1]),
        (german, PASSAGES[0]),
        (german, PASSAGES[1]),
        ("?!", PASSAGES[1]),
        (german, PASSAGES[0]),
    ]
    asked, held = ["deu_Latn", "de", None, "de", "German"], ["de", "en", "en", "de", "und"]
    found = answerable(*rows, query_language=asked, passage_language=held)
    assert [value is None for value in found] == [False, True, False, True, False]
    assert scorer("answerable").outputs[0].missing == "keep"


def test_answerable_does_not_depend_on_the_order_of_rows_and_works_on_one_pair():
    rows = [(query, TEXTS[passage]) for query, passage in NEEDS]
    assert answerable(*rows) == answerable(*rows[::-1])[::-1]
    (alone,) = scored("answerable", batch(rows[0]))["answerable"]
    assert 0 < alone < 1


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("cosine", ["mini", "mini_passage_truncated", "mini_shuffled"]),
        ("language", ["mini_detected_language", "mini_ok"]),
        ("length", ["mini", "mini_error"]),
        ("copying", ["mini"]),
    ],
)
def test_as_renames_the_columns_of_a_second_scorer_of_a_kind(name, columns):
    second = scorer(name, **{"as": "mini"})
    assert second.columns().names == columns
    assert second.name == "mini"
    assert scorer(name).name == name
    assert second.identity() != scorer(name).identity()
    pairs = batch(*PAIRS)
    assert list(scored(name, pairs, Services(encoder=HashEncoder()), **{"as": "mini"})) == columns


class Nothing:
    """Empty shards as a pass, and a model that is never asked."""

    slots = batch_size = 1

    def shards(self):
        return iter(())


@pytest.mark.parametrize("name", names("scores"))
def test_every_scorer_explains_itself_and_works_on_no_row(name, tmp_path):
    (tmp_path / "protected.txt").write_text("a question of a benchmark\n")
    options = {
        "contamination": {"files": (str(tmp_path / "protected.txt"),)},
        "seed_overlap": {"queries": str(tmp_path / "protected.txt")},
        "reranker": {"model": {"use": "cross_encoder", "model": "never-loaded"}},
    }.get(name, {})
    made = scorer(name, **options)
    assert made.__doc__
    services = Services(encoder=HashEncoder(), chat=Nothing(), reranker=Nothing())
    empty = PairBatch(pa.table({"query": pa.array([], pa.string()), "passage": pa.array([], pa.string())}), ())
    if made.scope == "pass":
        asyncio.run(made.build(iter(()), tmp_path / "index", services))
        empty = replace(empty, index=tmp_path / "index")
    assert scored(name, empty, services, **options) == {column: [] for column in made.columns().names}


def test_a_null_text_is_named_with_its_row():
    pairs = PairBatch(pa.table({"query": ["a", None], "passage": ["b", "b"]}), ("b",))
    with pytest.raises(InputError, match="row 2: field query"):
        scored("copying", pairs)


class QueryWords(Scorer):
    """Number of words in the query."""

    least: int = 0
    """Words that every query is granted."""
    outputs = (ScoreColumn("query_words", pa.int64(), low=0),)

    async def score(self, batch, services):  # noqa: ARG002 - the seam's signature
        return self.table([max(self.least, len(query.split())) for query in batch.texts("query")])


def test_ones_own_scorer_is_a_class_and_nothing_else():
    cls = find("scores", f"{__name__}:QueryWords")
    table = asyncio.run(cls.model_validate({"least": 4}).score(batch(*PAIRS), Services()))
    assert table.to_pydict() == {"query_words": [5, 4, 5]}


UNSPACED = {"Chinese", "Traditional Chinese", "Japanese", "Thai"}


@pytest.mark.skipif(not RECORDED.exists(), reason="needs the recorded replies")
def test_the_scores_tell_recorded_faults_from_good_queries(capsys):
    rows = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["query"]]
    asked = [row["requirement"] for row in rows]
    # they were asked for words of languages that are now asked for characters
    lengths = [int(e["Length"]) if e["Language"] not in UNSPACED else None for e in asked]
    pairs = batch(
        *[(row["query"], row["passage"]) for row in rows],
        query_language=[language(each["Language"]).code for each in asked],
        passage_language=[row["passage_language"] for row in rows],
        question_type=[row["question_type"] for row in rows],
        length_min=lengths,
        length_max=lengths,
        length_unit=["words"] * len(rows),
    )
    verdicts = {
        "wrong_language": [ok is False for ok in scored("language", pairs)["language_ok"]],
        "far_over_length": [(error or 0) > 0.5 for error in scored("length", pairs)["length_error"]],
        "copied_sentence": [(share or 0) > 0.8 for share in scored("copying", pairs)["copied_share"]],
    }
    known = scored("answerable", pairs)["answerable"]
    unanswerable = [value is not None and value < 0.2 for value in known]
    counts = Counter()
    for n, row in enumerate(rows):
        fault = row["fault"] if row["fault"] in verdicts else "good"
        counts[fault, "rows"] += 1
        more = {"not answerable": unanswerable, "two languages": [value is None for value in known]}
        counts.update((fault, found) for found, flags in (verdicts | more).items() if flags[n])
    header = ["rows", *verdicts, *more]
    with capsys.disabled():
        print("\n" + " " * 16 + "".join(f"{name:>17}" for name in header))  # noqa: T201 - the table is the point
        for fault in (*verdicts, "good"):
            print(f"{fault:16}" + "".join(f"{counts[fault, name]:17}" for name in header))  # noqa: T201 - as above
    for fault in verdicts:
        assert counts[fault, fault] == counts[fault, "rows"] > 0
        assert counts["good", fault] == 0
    assert {fault: counts[fault, "not answerable"] for fault in (*verdicts, "good")} == {
        "wrong_language": 4, "far_over_length": 0, "copied_sentence": 0, "good": 0,
    }  # fmt: skip
    shares = scored("copying", pairs)["copied_share"]
    copies = [share for share, row in zip(shares, rows, strict=True) if row["fault"] == "copied_sentence"]
    good = [share or 0 for share, row in zip(shares, rows, strict=True) if row["fault"] != "copied_sentence"]
    assert min(copies) > 0.98
    assert max(good) < 0.6
