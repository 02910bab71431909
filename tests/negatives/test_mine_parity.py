"""The same negatives as sentence-transformers' `mine_hard_negatives` from the same vectors, whatever the settings."""

import random

import numpy as np
import pytest

from synth.negatives import Item, Positives
from synth.negatives._negatives import query_key, query_keys
from synth.negatives.mined import Mined
from synth.search import products

WIDTH = 32


class Corpus:
    """Vectors as `Mined` reads them, in memory."""

    def __init__(self, vectors):
        self.vectors, self.count, self.width = vectors.astype("<f2"), len(vectors), vectors.shape[1]

    def blocks(self):
        for first in range(0, self.count, 16):  # small, so that candidates come from several
            yield first, self.vectors[first : first + 16]

    def gather(self, rows):
        return self.vectors[rows]


class Model:
    """As much of a SentenceTransformer as mining needs: given vectors, dot products."""

    device = "cpu"

    def __init__(self, vectors):
        self._vectors = vectors

    def encode_query(self, texts, **_options):
        return np.array([self._vectors[text] for text in texts], np.float32)

    encode_document = encode_query

    def similarity(self, a, b):
        torch = pytest.importorskip("torch")
        return torch.as_tensor(np.asarray(a)) @ torch.as_tensor(np.asarray(b)).T

    def similarity_pairwise(self, a, b):
        torch = pytest.importorskip("torch")
        return (torch.as_tensor(np.asarray(a)) * torch.as_tensor(np.asarray(b))).sum(dim=-1)


def drawn(seed):
    """Texts with vectors, pairs (some queries with several positives), a corpus, and settings."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)  # noqa: S311 - tests
    queries = [f"q{n}" for n in range(draw.randint(1, 12))]
    passages = [f"p{n}" for n in range(draw.randint(2, 90))]
    centre = rng.normal(size=WIDTH)
    made = rng.normal(size=(len(queries) + len(passages), WIDTH)) + draw.choice([0, 0.5, 1.5]) * centre
    made = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype("<f2").astype(np.float32)
    vectors = dict(zip([*queries, *passages], made, strict=True))
    positives = draw.randint(1, 3)
    pairs = [(query, draw.choice(passages)) for query in queries for _ in range(draw.randint(1, positives))]
    if draw.random() < 0.5:
        pairs.append(draw.choice(pairs))
    corpus = draw.sample(passages, draw.randint(0, len(passages))) if draw.random() < 0.7 else None
    low = draw.choice([0, 0, 1, 3, 10])
    count = draw.randint(1, 6)

    def maybe(low, high):
        return round(draw.uniform(low, high), 3) if draw.random() < 0.5 else None

    return (
        vectors,
        pairs,
        corpus,
        {
            "range_min": low,
            "range_max": draw.choice([None, low + count, low + count + draw.randint(0, 40)]),
            "max_score": maybe(-0.2, 0.9),
            "min_score": maybe(-0.5, 0.5),
            "absolute_margin": maybe(0, 0.4),
            "relative_margin": maybe(0, 0.9),
            "num_negatives": count,
        },
    )


def theirs(vectors, pairs, corpus, settings, **more):
    """{query: its negatives in order}; `triplet` gives what there is, also where it is too few."""
    datasets = pytest.importorskip("datasets")
    util = pytest.importorskip("sentence_transformers.util", reason="the extra `local` is not installed")
    data = datasets.Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [p for _, p in pairs]})
    rows = util.mine_hard_negatives(data, Model(vectors), corpus=corpus, verbose=False, **settings, **more)
    found = {query: [] for query, _ in pairs}
    for row in rows:
        if row["negative"] not in found[row["anchor"]]:
            found[row["anchor"]].append(row["negative"])
    return found


def ours(vectors, pairs, corpus, settings, sample="top"):
    """({query: its negatives in order}, {query: the set that is drawn from})."""
    texts = list(dict.fromkeys([*(corpus or []), *(passage for _, passage in pairs)]))
    row = {text: n for n, text in enumerate(texts)}
    index = Corpus(np.array([vectors[text] for text in texts]))
    rows = np.array([row[passage] for _, passage in pairs], np.int64)
    known = Positives([(query_keys(query for query, _ in pairs), rows)])
    items = []
    for n, query in enumerate(dict.fromkeys(query for query, _ in pairs)):
        mine = known.of(query_key(query))
        bar = products(vectors[query][None], np.zeros(len(mine), np.int64), index, mine).min()
        nothing = np.empty(0, np.int64)
        items.append(Item(f"{n}-0", n, 0, 0, query, "", vectors[query], mine, float(bar), nothing))
    names = ("max_score", "min_score", "absolute_margin", "relative_margin", "num_negatives")
    options = Mined(
        range=(settings["range_min"], settings["range_max"]),
        window="after",
        sample=sample,
        **{name: settings[name] for name in names},
    )
    pools = options.search(items, index, known.most)
    drawn = {item.query: [texts[each.row] for each in pool.candidates] for item, pool in zip(items, pools, strict=True)}
    taken = {}
    for item, pool in zip(items, pools, strict=True):
        ordered = options._ordered(item, pool, 7).take(options.num_negatives)
        taken[item.query] = [texts[each.row] for each in sorted(ordered, key=lambda each: each.rank)]
    return taken, drawn


def check(seed, monkeypatch):
    vectors, pairs, corpus, settings = drawn(seed)
    taken, pool = ours(vectors, pairs, corpus, settings)
    try:
        assert taken == theirs(vectors, pairs, corpus, settings), settings
    except ZeroDivisionError:  # theirs divides by the candidates left, when a margin has left none and min_score is set
        assert not any(taken.values())
        assert settings["min_score"] is not None
        return 0
    sizes = []
    monkeypatch.setattr(
        "sentence_transformers.util.hard_negatives.random.sample",
        lambda options, k: sizes.append(len(options)) or sorted(random.Random(seed).sample(options, k)),  # noqa: S311 - tests
    )
    random_ours, same_pool = ours(vectors, pairs, corpus, settings, "random")
    random_theirs = theirs(vectors, pairs, corpus, settings, sampling_strategy="random")
    monkeypatch.undo()
    assert pool == same_pool
    least = settings["num_negatives"]
    assert sizes == [max(len(pool[query]), least) for query in dict.fromkeys(q for q, _ in pairs)], settings
    for query, found in random_theirs.items():
        assert set(found) <= set(pool[query])
        assert len(found) == len(random_ours[query]) == min(len(pool[query]), least)
        assert set(random_ours[query]) <= set(pool[query])
    return sum(map(len, taken.values()))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_drawn_settings_give_the_same_negatives(monkeypatch):
    assert sum(check(seed, monkeypatch) for seed in range(1000)) > 4000


def test_equal_scores_come_in_the_order_of_the_corpus():
    """Where theirs says nothing: torch's topk may give equal scores in any order."""
    vectors = {"q": np.eye(1, WIDTH, dtype=np.float32)[0]} | {
        f"p{n}": np.eye(1, WIDTH, dtype=np.float32)[0] for n in range(6)
    }
    settings = dict.fromkeys(("max_score", "min_score", "absolute_margin", "relative_margin"))
    settings |= {"range_min": 0, "range_max": 5, "num_negatives": 3}
    taken, _ = ours(vectors, [("q", "p5")], [f"p{n}" for n in range(5)], settings)
    assert taken == {"q": ["p0", "p1", "p2"]}


@pytest.mark.slow
def test_the_window_of_the_documentation():
    """The example of docs/negatives.md: a positive at 0.90, passages at 0.95, 0.94, 0.93 and so on."""
    scores = np.array([0.95 - 0.01 * n for n in range(60)] + [0.90])
    vectors = {"q": np.eye(1, WIDTH, dtype=np.float32)[0]}
    for n, score in enumerate(scores):
        made = np.zeros(WIDTH, np.float32)
        made[0], made[1 + n % 31] = score, np.sqrt(1 - score**2)
        vectors[f"d{n}"] = made.astype("<f2").astype(np.float32)
    corpus, pairs = [f"d{n}" for n in range(60)], [("q", "d60")]
    bare = {"range_min": 20, "range_max": 50, "num_negatives": 3} | dict.fromkeys(
        ("max_score", "min_score", "absolute_margin", "relative_margin")
    )
    # Half-way between two scores, so that no rounding decides.
    ruled = bare | {"max_score": 0.805, "absolute_margin": 0.095}
    assert ours(vectors, pairs, corpus, bare)[0] == {"q": ["d20", "d21", "d22"]}
    assert (
        ours(vectors, pairs, corpus, ruled)[0] == {"q": ["d35", "d36", "d37"]} == theirs(vectors, pairs, corpus, ruled)
    )
    before = Mined(range=(20, 50), window="before", num_negatives=3, max_score=0.805, absolute_margin=0.095)
    item = Item("0-0", 0, 0, 0, "q", "", vectors["q"], np.array([60]), 0.9, np.empty(0, np.int64))
    index = Corpus(np.array([vectors[f"d{n}"] for n in range(61)]))
    (pool,) = before.search([item], index, 1)
    assert [each.row for each in pool.take(3)] == [20, 21, 22]
