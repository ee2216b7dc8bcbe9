"""Walks: orders of the solvers, exactness of jumps, domains, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meanflow_lite.data import toys
from meanflow_lite.data.batches import seeded
from meanflow_lite.fields import instantaneous
from meanflow_lite.objectives import ANY, INSTANT, ONE_JUMP, TO_DATA, dyadic, trained
from meanflow_lite.samplers import (
    EVALUATIONS,
    euler,
    heun,
    integrate,
    jump_and_renoise,
    rk4,
    sample,
    uniform_times,
)

TOY = toys.TOYS["product"]()
EPS = torch.randn(64, 2, generator=seeded(0), dtype=torch.float64)
EXACT = sample(TOY.average, EPS)
V = instantaneous(TOY.velocity)


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (heun, 2), (rk4, 4)])
def test_solvers_have_their_order(step, order):
    steps = [128, 256] if order < 4 else [64, 128]
    errors = [float((integrate(V, EPS, uniform_times(n), step=step) - EXACT).norm()) for n in steps]
    measured = math.log2(errors[0] / errors[1])
    assert abs(measured - order) < 0.25, measured
    assert EVALUATIONS[step] == order


def test_evaluations_are_counted_right():
    for step, per_step in EVALUATIONS.items():
        calls = []

        def v(z, r, t, y=None, calls=calls):
            calls.append(t)
            return z

        integrate(v, EPS, uniform_times(5), step=step)
        assert len(calls) == 5 * per_step


@pytest.mark.parametrize("times", [[1, 0.5, 0], [1, 0.9, 0.3, 0.05, 0], uniform_times(16)])
def test_jumps_of_the_exact_average_compose(times):
    torch.testing.assert_close(sample(TOY.average, EPS, times), EXACT, atol=1e-6, rtol=0)
    assert (sample(V, EPS, times) - EXACT).abs().max() > 1e-2  # Euler does not


def test_renoising_keeps_the_distribution_and_moves_the_points():
    n = 4000
    noises = [torch.randn(n, 2, generator=seeded(k), dtype=torch.float64) for k in range(2)]
    once = sample(TOY.average, noises[0])
    twice = jump_and_renoise(TOY.average, noises, [1, 0.7, 0])
    assert (once - twice).norm(dim=1).mean() > 0.1
    data = TOY.sample(n, seeded(7))[0].double()
    for moment in (1, 2, 3):
        spread = data.pow(moment).std(0) / math.sqrt(n) * math.sqrt(2)
        assert ((twice.pow(moment).mean(0) - data.pow(moment).mean(0)).abs() < 4 * spread).all()


def test_one_walk_for_every_shape():
    for shape in [(3,), (2, 2), (1, 4, 3, 3)]:
        eps = torch.randn(2, *shape)
        torch.testing.assert_close(sample(lambda z, r, t, y: z, eps), torch.zeros_like(eps))


@pytest.mark.parametrize(
    ("domain", "good", "bad"),
    [
        (ANY, [1, 0.3, 0], None),
        (INSTANT, None, [1, 0]),
        (TO_DATA, [1, 0], [1, 0.5, 0]),
        (ONE_JUMP, [1, 0], [0.5, 0]),
        (dyadic(3), [1, 0.5, 0.375, 0.25, 0], [1, 0.4, 0]),
        (dyadic(3), [1, 0], [0.75, 0.25, 0]),  # a jump of 1/2 from 3/4 is off its own grid
    ],
)
def test_a_field_is_only_walked_where_it_was_trained(domain, good, bad):
    class Net(torch.nn.Module):
        def forward(self, z, r, t, y=None):
            return z

    net = trained(Net(), domain)
    if good:
        sample(net, EPS, good)
    if bad:
        with pytest.raises(ValueError, match="not trained for the jump"):
            sample(net, EPS, bad)
        sample(lambda *a: net(*a), EPS, bad)  # a plain callable is unrestricted


def test_renoising_accepts_what_jumps_to_the_data():
    class Net(torch.nn.Module):
        def forward(self, z, r, t, y=None):
            return z

    jump_and_renoise(trained(Net(), TO_DATA), [EPS, EPS], [1, 0.5, 0])
    with pytest.raises(ValueError, match="not trained"):
        jump_and_renoise(trained(Net(), INSTANT), [EPS, EPS], [1, 0.5, 0])


@given(st.lists(st.floats(-0.5, 1.5), max_size=5))
def test_times_must_fall_within_the_unit_interval(times):
    valid = (
        len(times) >= 2
        and all(0 <= t <= 1 for t in times)
        and all(a > b for a, b in zip(times, times[1:], strict=False))
    )
    if valid:
        sample(lambda z, r, t, y: z, EPS, times)
    else:
        with pytest.raises(ValueError, match="times"):
            sample(lambda z, r, t, y: z, EPS, times)


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="at least 1"):
        uniform_times(0)
    with pytest.raises(ValueError, match="returns the shape"):
        sample(lambda z, r, t, y: z[:, :1], EPS)
    with pytest.raises(ValueError, match="one noise a jump"):
        jump_and_renoise(TOY.average, [EPS], [1, 0.5, 0])
    with pytest.raises(ValueError, match="last time"):
        jump_and_renoise(TOY.average, [EPS], [1, 0.5])
