"""Intervals and p-values of paired differences."""

import numpy as np
import pytest

from synth.training.statistics import change, holm


def differences(random, effect, size=209):
    """Changes of nDCG as they are: most queries stay, some jump to another rank."""
    moved = random.random(size) < 0.4
    return np.where(moved, random.choice([-0.37, 0.13, 0.37, 0.63], size) - 0.19, 0.0) + effect


@pytest.mark.slow
def test_the_interval_covers_a_planted_effect_in_19_of_20_simulations():
    random = np.random.default_rng(11)
    found = [change(np.zeros(209), differences(random, 0.05), draws=1000, seed=n) for n in range(1000)]
    inside = np.mean([each.low <= 0.05 <= each.high for each in found])
    assert 0.93 <= inside <= 0.97


def test_without_an_effect_one_p_value_in_twenty_is_below_005():
    random = np.random.default_rng(5)
    found = [change(np.zeros(60), differences(random, 0.0, 60), draws=400, seed=n).p for n in range(1000)]
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.07


def test_models_that_are_equal_are_not_told_apart():
    same = change(np.array([0.5, 1.0, 0.0]), np.array([0.5, 1.0, 0.0]))
    assert (same.mean, same.low, same.high, same.p, same.better, same.worse) == (0, 0, 0, 1, 0, 0)
    assert not same.shown


def test_four_times_the_queries_halve_the_interval():
    random = np.random.default_rng(2)
    few = change(np.zeros(100), differences(random, 0.1, 100))
    assert few.queries_for(few.half_width / 2) == pytest.approx(400, abs=1)


def test_holm_raises_p_values_by_their_rank():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
