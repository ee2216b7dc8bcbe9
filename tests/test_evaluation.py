"""Distances and intervals against independent formulas, and errors to the exact field."""

import math
import tracemalloc

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meanflow_lite.data.toys import mixture_a, ring
from meanflow_lite.evaluation.distances import compare, energy_distance, wasserstein
from meanflow_lite.evaluation.exact import field_error, one_step_error, triangle_points
from meanflow_lite.evaluation.intervals import bootstrap_interval, seed_interval
from meanflow_lite.fields import instantaneous


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 2, 2)])
def test_energy_distance_is_its_definition_in_any_blocks(shape, generator):
    a = torch.randn(37, *shape, generator=generator)
    b = torch.randn(23, *shape, generator=generator) + 0.5

    def mean(x, y):
        return np.mean([[float((p - q).double().norm()) for q in y] for p in x])

    expected = 2 * mean(a, b) - mean(a, a) - mean(b, b)
    for block in (2048, 5, 1):
        assert energy_distance(a, b, block) == pytest.approx(expected, rel=1e-6)
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_energy_distance_equals_scipy_in_one_dimension(generator):
    """SciPy's is the square root of a half of ours, computed from distribution functions."""
    a, b = torch.randn(300, 1, generator=generator), torch.rand(200, 1, generator=generator)
    expected = stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    assert energy_distance(a, b) == pytest.approx(float(expected), rel=1e-4)


def test_energy_distance_floor_is_the_stated_one(generator):
    data, n = ring(), 500
    floor = np.mean(
        [
            energy_distance(data.sample(n, generator)[0], data.sample(n, generator)[0])
            for _ in range(20)
        ]
    )
    x, y = data.sample(20_000, generator)[0], data.sample(20_000, generator)[0]
    assert floor == pytest.approx(float((x - y).norm(dim=1).mean()) * 2 / n, rel=0.4)


def test_wasserstein_of_a_shift_is_its_length_and_of_sorted_points_their_distance(generator):
    a = torch.randn(200, 2, generator=generator)
    shift = torch.tensor([0.3, -0.4])
    assert wasserstein(a, a + shift) == pytest.approx(0.5, abs=1e-6)
    assert wasserstein(a, a[torch.randperm(200, generator=generator)]) < 1e-6
    x, y = torch.randn(200, 1, generator=generator), torch.rand(200, 1, generator=generator)
    expected = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    assert wasserstein(x, y) == pytest.approx(float(expected), rel=1e-5)
    # The same numbers as rows in two dimensions go through the solver.
    flat = torch.zeros(200, 1)
    assert wasserstein(torch.cat([x, flat], 1), torch.cat([y, flat], 1)) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("distance", [energy_distance, wasserstein])
def test_excess_over_the_floor_is_small_for_data_and_large_for_noise(distance, generator):
    data = ring()
    same = compare(distance, data.sample(400, generator)[0], data, generator)
    noise = compare(distance, torch.randn(400, 2, generator=generator), data, generator)
    assert same.excess == pytest.approx(same.distance - same.floor)
    assert abs(same.excess) < same.floor
    assert noise.excess > max(0.2, 4 * abs(same.excess))


def test_field_error_is_zero_on_the_exact_field_and_known_on_others(generator):
    data = mixture_a()
    z, r, t, y = triangle_points(data, 2048, generator)
    assert y is None and (r <= t).all() and float(r.mean()) == pytest.approx(1 / 3, abs=0.03)
    assert field_error(data.average, data.average, z, r, t) == 0

    def shifted(z, r, t, y=None, **cond):
        return data.average(z, r, t) + 0.25

    off = field_error(shifted, data.average, z, r, t)
    assert off == pytest.approx(0.25, rel=1e-4)
    assert field_error(instantaneous(data.velocity), data.average, z, r, t) > 0.5


def test_one_step_of_the_raw_velocity_collapses_to_the_mean(generator):
    """v(eps, 1) = eps - E[x]: every noise lands on the mean, so the error is the data's std."""
    data = mixture_a()
    eps = torch.randn(4096, 1, generator=generator)
    assert one_step_error(data.average, data.average, eps) == 0
    assert one_step_error(data.average, data.average, eps, times=[1.0, 0.5, 0.0]) < 1e-6
    collapsed = one_step_error(instantaneous(data.velocity), data.average, eps)
    mean = (data.weights * data.means).sum()
    std = (data.weights * (data.stds**2 + (data.means - mean) ** 2)).sum().sqrt()
    assert collapsed == pytest.approx(float(std), rel=0.04)
    halves = one_step_error(instantaneous(data.velocity), data.average, eps, times=[1.0, 0.5, 0.0])
    assert halves < collapsed


def test_points_of_labeled_data_carry_their_labels(generator):
    z, r, t, y = triangle_points(ring(), 64, generator, torch.float64)
    assert z.dtype == r.dtype == t.dtype == torch.float64
    assert y is not None and y.shape == (64,)


def test_seed_interval_is_students(generator):
    values = torch.randn(7, generator=generator).tolist()
    center, low, high = seed_interval(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert center == pytest.approx(np.mean(values))


def test_intervals_cover_the_truth_at_their_level():
    """Of 400 intervals of level 0.8 over standard normals, about 320 hold 0."""
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((400, 30))
    for interval in (
        lambda x: seed_interval(x, 0.8),
        lambda x: bootstrap_interval(x, level=0.8, resamples=200),
    ):
        hits = sum(low <= 0 <= high for _, low, high in map(interval, draws.tolist()))
        assert abs(hits - 320) < 4 * math.sqrt(400 * 0.8 * 0.2)


def test_bootstrap_is_deterministic_and_takes_other_statistics():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, np.median).center == 4
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3, 3, 3)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
@pytest.mark.parametrize("values", [[1, 1, 1, 1, 2], [0, 0, 1], [1, 2], [5.0] * 99 + [1e6]])
def test_bootstrap_is_never_nan(values, statistic):
    """BCa is not defined where leaving one value out never moves the statistic."""
    center, low, high = bootstrap_interval([float(v) for v in values], statistic)
    assert low <= center <= high and high - low < math.inf


def test_many_values_take_little_memory_and_agree_with_few():
    """The jackknife would hold 8 * n^2 bytes: 0.8 GB at 10,000 values."""
    values = np.random.default_rng(0).exponential(size=10_000)
    tracemalloc.start()
    center, low, high = bootstrap_interval(values.tolist())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8
    normal = 1.96 * values.std() / math.sqrt(len(values))
    assert center - low == pytest.approx(normal, rel=0.1)
    assert high - center == pytest.approx(normal, rel=0.1)
    below = bootstrap_interval(values[:2000].tolist())  # BCa
    above = bootstrap_interval(values[:2001].tolist())  # quantiles
    assert below == pytest.approx(above, rel=0.01)


@pytest.mark.parametrize("interval", [seed_interval, bootstrap_interval])
@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_intervals_refuse_what_has_no_spread(interval, values):
    with pytest.raises(ValueError, match="at least two finite values"):
        interval(values)


@pytest.fixture
def plain_calls():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("distance", [energy_distance, wasserstein])
class TestBadSamples:
    @settings(max_examples=30, deadline=None)
    @given(left=st.integers(1, 5), right=st.integers(1, 5))
    def test_rows_of_two_shapes(self, distance, left, right):
        if left != right:
            with pytest.raises(ValueError, match="rows of one shape"):
                distance(torch.zeros(4, left), torch.zeros(4, right))

    def test_empty_or_broken(self, distance):
        with pytest.raises(ValueError, match="rows of one shape"):
            distance(torch.zeros(0, 2), torch.zeros(4, 2))
        with pytest.raises(ValueError, match="NaN"):
            distance(torch.full((4, 2), math.nan), torch.zeros(4, 2))


@pytest.mark.usefixtures("plain_calls")
def test_a_field_of_another_shape_is_refused():
    data = mixture_a()
    z, r, t, _ = triangle_points(data, 8)

    def wide(z, r, t, y=None, **cond):
        return torch.zeros(8, 2)

    with pytest.raises(ValueError, match="shape"):
        field_error(wide, data.average, z, r, t)
