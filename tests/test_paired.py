"""Differences seed by seed: what pairing gains, and what it refuses."""

import math

import numpy as np
import pytest

from meanflow_lite.evaluation.paired import paired_difference, paired_ratio

SEEDS = np.random.default_rng(0).normal(10, 3, 10).tolist()


def test_pairing_finds_a_difference_that_the_scatter_over_seeds_hides():
    noise = np.random.default_rng(1).normal(size=10)
    worse = [a + 0.5 + 0.1 * b for a, b in zip(SEEDS, noise, strict=True)]
    found = paired_difference(worse, SEEDS)
    assert found.worse == found.n == 10 and found.differs
    assert 0 < found.interval.low < 0.5 < found.interval.high < 1
    shuffled = paired_difference(worse, SEEDS[::-1])
    assert shuffled.interval.low < 0 < shuffled.interval.high


def test_the_sign_test_is_binomial_and_ties_do_not_count():
    found = paired_difference([2.0] * 5 + [0.0, 1.0], [1.0] * 7)
    assert (found.worse, found.n) == (5, 6)
    assert math.isclose(found.sign, 2 * (6 + 1) / 2**6)
    same = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert same.n == 0 and same.sign == 1.0 and not same.differs


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_ratio_is_of_geometric_means_and_turns_over(factor):
    scaled = [factor * value for value in SEEDS]
    found, back = paired_ratio(scaled, SEEDS), paired_ratio(SEEDS, scaled)
    assert math.isclose(found.interval.center, factor)
    assert math.isclose(found.interval.center * back.interval.center, 1.0)


def test_a_ratio_of_excesses_and_unequal_seeds_are_refused():
    with pytest.raises(ValueError, match="paired_difference"):
        paired_ratio([1.0, -0.1], [1.0, 1.0])
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
