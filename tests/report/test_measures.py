"""Measures of texts and vectors on sets whose values are known."""

import numpy as np
import pytest

from synth.clusters import clusters
from synth.report import measures

RNG = np.random.default_rng(1)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_vendi_score_counts_what_is_different():
    assert measures.vendi(np.repeat(np.eye(8, dtype=np.float32)[:3], 5, axis=0)) == pytest.approx(3)
    assert measures.vendi(np.eye(8, dtype=np.float32)) == pytest.approx(8)
    wide, tall = unit(RNG.normal(size=(6, 40))), unit(RNG.normal(size=(40, 6)))
    for rows in (wide, tall):
        shares = np.linalg.eigvalsh(rows.astype(np.float64) @ rows.T.astype(np.float64) / len(rows))
        shares = shares[shares > 1e-12]
        assert measures.vendi(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_facility_location_is_the_mean_of_the_nearest_chosen():
    rows = unit(RNG.normal(size=(30, 8)))
    chosen = np.arange(30) % 4 == 0
    brute = np.mean([max(float(a @ b) for b in rows[chosen]) for a in rows])
    assert measures.facility_location(rows, chosen) == pytest.approx(brute, rel=1e-5)
    assert measures.facility_location(rows, np.zeros(30, bool)) == 0


def test_clusters_find_groups_that_are_apart():
    centres = np.eye(16)[:4]
    truth = np.arange(80) % 4
    rows = unit(centres[truth] + RNG.normal(size=(80, 16)) * 0.05)
    of, found = clusters(rows, 4, np.random.default_rng(3))
    assert all(len({*of[truth == group].tolist()}) == 1 for group in range(4))
    assert len({*of.tolist()}) == 4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    again, _ = clusters(rows, 4, np.random.default_rng(3))
    assert np.array_equal(of, again)


def test_clusters_of_equal_rows():
    of, _ = clusters(np.repeat(np.eye(4, dtype=np.float32)[:1], 10, axis=0), 3, np.random.default_rng(0))
    assert len(of) == 10


def test_the_plane_is_that_of_the_largest_variance():
    rows = RNG.normal(size=(50, 6)).astype(np.float32) * np.array([5, 3, 1, 1, 1, 1], np.float32)
    points, explained = measures.in_the_plane(rows)
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert points.var(axis=0, ddof=1) == pytest.approx(values[:2], rel=1e-4)
    assert explained == pytest.approx(values[:2].sum() / values.sum(), rel=1e-4)


def test_texts():
    assert measures.distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert measures.distinct_n(["a"], 2) is None
    assert measures.compression_ratio(["the same words"] * 50) > 10 > measures.compression_ratio(["the same words"])
    assert measures.content_words(["what is the ferry to the island", "wo ist der Hafen"], ["en", "de"]) == [2, 1]
    assert measures.content_words(["mikä on lautta", "???"], ["fi", None]) == []
