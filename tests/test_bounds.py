"""Bounds of one-step samples by residuals: they hold, they are equal where they should be, and a
wrong residual bounds nothing.
"""

import math

import pytest
import torch

from meanflow_lite.data.toys import product, ring
from meanflow_lite.evaluation.bounds import (
    certificate,
    eulerian_bound,
    expansion,
    lagrangian_bound,
    loss_norms,
    one_step_distance,
    residual_norms,
    terminal_norms,
    unit_nodes,
)
from meanflow_lite.fields import Gaussian, ProductMixture, instantaneous
from meanflow_lite.identity import TANGENTS
from meanflow_lite.paths import bcast

FEW = {"nodes": 12, "rows": 256}
SEPARATIONS = {"one hump": 0.5, "modes that touch": 1.0, "separate modes": 2.0}


def two_modes(apart: float) -> ProductMixture:
    """Unequal modes at a distance of ``2 apart``, of standard deviation 0.4."""
    return ProductMixture([[0.35, 0.65]], [[-apart, apart]], [[0.4, 0.4]])


def wave(data, size=0.05):
    """The exact field and a wave on it."""
    return lambda z, r, t, y=None: (
        data.average(z, r, t) + size * torch.sin(2 * z) * (1 - bcast(r, z) / 2)
    )


def other_flow(data):
    """The exact field of other data."""
    return ProductMixture(data.weights, 0.8 * data.means, 1.5 * data.stds).average


def one_euler_step(data):
    """The velocity in place of its average."""
    return instantaneous(data.velocity)


FIELDS = {"a wave": wave, "the flow of other data": other_flow, "one Euler step": one_euler_step}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("apart", SEPARATIONS.values(), ids=SEPARATIONS)
def test_both_bounds_hold_over_separations_and_fields(apart, field):
    data = two_modes(apart)
    u = FIELDS[field](data)
    best, paired = one_step_distance(u, data)
    assert 0 < best <= paired + 1e-9
    assert eulerian_bound(u, data, **FEW) > 0.9 * paired  # sampled: 256 rows
    assert lagrangian_bound(u, data, nodes=12, points=100)[0] > paired


def test_the_exact_field_has_no_residual_and_no_terminal_error():
    data, times = two_modes(2.0), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert residual_norms(data.average, data, times, rows=128).max() < 1e-7
    assert terminal_norms(data.average, data, times).max() < 1e-7
    best, paired = one_step_distance(data.average, data)
    assert best < 1e-9 and paired < 1e-9


def test_a_wrong_residual_bounds_nothing():
    """The velocity averaged over time at a fixed point solves the identity with the partial
    derivative: that residual is zero, and the samples are far off.
    """
    data = two_modes(2.0)
    places, weights = unit_nodes(16)

    def at_a_fixed_point(z, r, t, y=None):
        shares = zip(places.tolist(), weights.tolist(), strict=True)
        return sum(w * data.velocity(z, r + s * (t - r)) for s, w in shares)

    best, _ = one_step_distance(at_a_fixed_point, data)
    assert best > 0.3
    assert eulerian_bound(at_a_fixed_point, data, tangent=TANGENTS["001"], **FEW) < 0.02 * best
    assert eulerian_bound(at_a_fixed_point, data, **FEW) > best


def test_the_lagrangian_errors_alone_are_no_bound():
    """A jump that starts as if the noise were shifted errs near t = 1, and the flow expands it."""
    data = two_modes(2.0)

    def shifted(z, r, t, y=None):
        c = 0.01 * (1 - torch.exp((r - t) / 0.05))
        gap = torch.where(t > r, t - r, 1.0)
        return (z - data.transport(z + bcast(c, z), r, t)) / bcast(gap, z)

    best, _ = one_step_distance(shifted, data)
    bound, without = lagrangian_bound(shifted, data, points=100)
    assert without < best < bound


def test_a_constant_residual_makes_the_eulerian_bound_an_equality():
    """Each row's residual is c: the pair ends exactly c apart, and W2 of a shift is its length."""
    data = two_modes(1.0)
    u = lambda z, r, t, y=None: data.average(z, r, t) + 0.3  # noqa: E731
    best, paired = one_step_distance(u, data)
    torch.testing.assert_close((best, paired), (0.3, 0.3), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(eulerian_bound(u, data, **FEW), 0.3, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("data", [product(), ring()], ids=["product", "ring"])
def test_the_eulerian_bound_holds_in_two_dimensions(data):
    """Against the distance of paired endpoints, which is no less than W2."""
    u = lambda z, r, t, y=None: data.average(z, r, t) + 0.05 * torch.sin(2 * z)  # noqa: E731
    rows = 256
    noise = torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = torch.ones(rows, dtype=torch.float64)
    apart = u(noise, 0 * one, one) - data.average(noise, 0 * one, one)
    paired = float(apart.square().sum(1).mean().sqrt())
    assert paired < 1.05 * eulerian_bound(u, data, nodes=6, rows=128)


def test_a_residual_at_other_r_says_nothing_about_one_step():
    """Exact wherever r > 0.2, wrong at r = 0: a law that never draws r = 0 would not see it."""
    data = two_modes(1.0)

    def blind_spot(z, r, t, y=None):
        share = (1 - bcast(r, z) / 0.2).clamp(min=0)
        return data.average(z, r, t) + share * torch.sin(2 * z)

    times, _ = unit_nodes(6)
    late = times[times > 0.3]
    assert residual_norms(blind_spot, data, late, r=0.25, rows=128).max() < 1e-7
    assert one_step_distance(blind_spot, data)[0] > 0.2


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_loss_is_the_residual_and_the_noise(t):
    """On N(0, s^2) all three are closed forms: J = 1 - t du/dz, Cov = s^2 / s_t^2."""
    s, times = 2.0, torch.tensor([t], dtype=torch.float64)
    data = Gaussian([0.0], [s])
    root = math.sqrt((1 - t) ** 2 * s**2 + t**2)
    noise = (s / root) ** 2 * s**2 / root**2  # the flow map's slope is s / s_t
    norm = loss_norms(data.average, data, times, rows=200_000)
    torch.testing.assert_close(float(norm.square()), noise, rtol=0.02, atol=0.0)
    off = lambda z, r, t, y=None: data.average(z, r, t) + 0.7  # noqa: E731
    torch.testing.assert_close(
        float(loss_norms(off, data, times, rows=200_000).square()),
        noise + 0.49,
        rtol=0.02,
        atol=0.0,
    )


def test_a_log_certifies_no_less_than_the_noise():
    data = two_modes(2.0)
    exact, wrong = (certificate(u, data, **FEW) for u in (data.average, wave(data)))
    assert one_step_distance(wave(data), data)[0] < eulerian_bound(wave(data), data, **FEW) < wrong
    assert exact > 20 * one_step_distance(wave(data), data)[0]


def test_the_exponent_is_that_of_a_gaussian():
    """On N(0, s^2) the slope is known: Lambda_r = log(s_r / s)."""
    data = ProductMixture([[1.0]], [[0.0]], [[0.5]])
    times = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    roots = ((1 - times) ** 2 * 0.25 + times**2).sqrt()
    wanted = -(roots / 0.5).log()
    torch.testing.assert_close(expansion(data, times), wanted, rtol=1e-3, atol=2e-3)


def test_more_dimensions_are_refused_where_only_one_is_known():
    for call in (one_step_distance, lagrangian_bound):
        with pytest.raises(ValueError, match="one dimension"):
            call(product().average, product())
