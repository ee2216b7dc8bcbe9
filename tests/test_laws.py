"""Judges that know the exact law, against quadrature, sampling and the judges of two samples."""

import math

import pytest
import torch

from meanflow_lite.data.batches import seeded
from meanflow_lite.data.toys import Checkerboard, toy
from meanflow_lite.evaluation.distances import energy_distance
from meanflow_lite.evaluation.laws import (
    Law,
    OutlierShare,
    SlicedWasserstein,
    energy_to_law,
    law_of,
    mean_norm,
)

EXACT = ("gaussian", "mixture_a", "product", "ring", "classes")


def draws(name, n, seed):
    return toy(name).sample(n, seeded(seed, 0, 1))[0]


@pytest.mark.parametrize("name", EXACT)
def test_the_law_has_the_moments_and_the_quantiles_of_the_samples(name):
    law, x = law_of(toy(name)), draws(name, 100_000, 0).double()
    mean, covariance = law.moments()
    torch.testing.assert_close(x.mean(0), mean, atol=0.03, rtol=0.0)
    found = torch.cov(x.T).reshape(covariance.shape)
    torch.testing.assert_close(found, covariance, atol=0.06, rtol=0.0)
    along = torch.ones(law.dim, dtype=torch.float64) / math.sqrt(law.dim)
    ranks = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    wanted = (x @ along).quantile(ranks)
    torch.testing.assert_close(law.projected(along).quantiles(ranks), wanted, atol=0.05, rtol=0.0)


def test_the_mean_norm_is_that_of_closed_forms():
    """Rayleigh's and Maxwell's mean, the folded normal's, and a distance when nothing spreads."""
    zero = torch.zeros(1, 1, 2, dtype=torch.float64)
    flat = torch.ones(1, 2, dtype=torch.float64)
    rayleigh = math.sqrt(math.pi / 2)
    torch.testing.assert_close(float(mean_norm(zero, flat)), rayleigh, rtol=1e-8, atol=0.0)
    three, wide = torch.zeros(1, 1, 3, dtype=torch.float64), torch.full((1, 3), 4.0).double()
    maxwell = 2 * math.sqrt(8 / math.pi)
    torch.testing.assert_close(float(mean_norm(three, wide)), maxwell, rtol=1e-7, atol=0.0)
    m, s = 0.7, 0.5
    folded = s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2))
    folded += m * math.erf(m / (s * math.sqrt(2)))
    found = mean_norm(torch.full((1, 1, 1), m).double(), torch.full((1, 1), s**2).double())
    torch.testing.assert_close(float(found), folded, rtol=1e-7, atol=0.0)
    far = torch.tensor([[[30.0, 40.0]]], dtype=torch.float64)
    torch.testing.assert_close(float(mean_norm(far, 1e-6 * flat)), 50.0, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("name", EXACT)
def test_a_perfect_generator_scores_zero_on_average_and_a_shifted_one_does_not(name):
    law = law_of(toy(name))
    scores = torch.tensor([energy_to_law(draws(name, 512, k), law) for k in range(12)])
    assert scores.mean().abs() < 4 * scores.std() / math.sqrt(12)
    assert (scores < 0).any() and (scores > 0).any()
    assert energy_to_law(draws(name, 512, 0) + 0.5, law) > 10 * float(scores.std())


@pytest.mark.parametrize("name", ["mixture_a", "product"])
def test_the_energy_distance_is_that_of_two_large_samples(name):
    made = 0.7 * draws(name, 2000, 3) + 0.4
    of_samples = energy_distance(made, draws(name, 20_000, 4))
    torch.testing.assert_close(
        energy_to_law(made, law_of(toy(name))), of_samples, atol=5e-3, rtol=0.02
    )


@pytest.mark.parametrize("name", ["mixture_a", "ring"])
def test_the_sliced_distance_of_a_shift_is_the_shift_seen_along_the_directions(name):
    """In one dimension a shift by a is at distance a; in two its mean square projection is half."""
    law = law_of(toy(name))
    judge, far = SlicedWasserstein(law, 4000), 3.0
    own = judge(draws(name, 4000, 5))
    moved = judge(draws(name, 4000, 5) + far * torch.ones(law.dim) / math.sqrt(law.dim))
    torch.testing.assert_close(moved, far / math.sqrt(law.dim), atol=0.1, rtol=0.0)
    assert own < 0.25


def test_the_share_of_outliers_is_one_in_a_hundred_for_the_data_and_more_for_a_bridge():
    judge = OutlierShare(law_of(toy("ring")))
    own = judge(draws("ring", 20_000, 6))
    assert 0.006 < own < 0.014
    bridges = (draws("ring", 500, 7) + draws("ring", 500, 8)) / 2
    assert judge(bridges) > 0.5


def test_judges_refuse_what_they_cannot_judge():
    law = law_of(toy("ring"))
    with pytest.raises(ValueError, match="Checkerboard"):
        law_of(Checkerboard())
    with pytest.raises(ValueError, match=r"\[n, 2\]"):
        energy_to_law(torch.zeros(5, 3), law)
    with pytest.raises(ValueError, match="NaN"):
        energy_to_law(torch.full((5, 2), torch.nan), law)
    with pytest.raises(ValueError, match="built for 8 rows"):
        SlicedWasserstein(law, 8)(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="one dimension"):
        law.quantiles(torch.tensor([0.5]))
    three = Law(torch.ones(1), torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="one or two dimensions"):
        SlicedWasserstein(three, 8)
