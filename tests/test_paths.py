"""The path, the laws of the times, and the split of rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from meanflow_lite.objectives import Context, MeanFlow
from meanflow_lite.paths import (
    Below,
    LogitNormal,
    Ordered,
    Separate,
    ToData,
    Uniform,
    bcast,
    check_times,
    count_equal,
    interpolate,
)
from meanflow_lite.randomness import Random

N = 20_000


def nowhere(z, r, t, y=None):
    return z


def context(part: int = 0, parts: int = 1) -> Context:
    return Context(nowhere, None, torch.tensor(0.0), Random(0), part, parts)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 4, 3, 3)])
def test_path_ends_and_middle(shape):
    x, eps = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(interpolate(x, eps, torch.zeros(5)), x)
    torch.testing.assert_close(interpolate(x, eps, torch.ones(5)), eps)
    torch.testing.assert_close(interpolate(x, eps, torch.full((5,), 0.25)), 0.75 * x + 0.25 * eps)


@pytest.mark.parametrize(("mean", "std"), [(-0.4, 1.0), (0.5, 1.6)])
def test_logit_normal_is_its_law(mean, std):
    t = context().time(LogitNormal(mean, std), torch.empty(N, 1))
    z = (torch.logit(t.double()) - mean) / std
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest((z + 0.1).numpy(), "norm").pvalue < 1e-3  # the test can fail


def test_ordered_uniform_pair_has_the_densities_of_minimum_and_maximum():
    ctx = context()
    r, t = Ordered(Uniform())(lambda law, stream: ctx.time(law, torch.empty(N, 1), stream))
    assert stats.kstest(t.numpy(), lambda s: s**2).pvalue > 1e-3
    assert stats.kstest(r.numpy(), lambda s: 1 - (1 - s) ** 2).pvalue > 1e-3
    r, t = Ordered(Uniform())(lambda law, stream: ctx.time(law, torch.empty(N, 1), "t"))
    assert torch.equal(r, t), "the negative control: one stream twice is the same draw"


@pytest.mark.parametrize("pair", [Ordered(), Below(), Separate(), ToData()])
def test_every_pair_law_keeps_the_order(pair):
    ctx = context()
    r, t = pair(lambda law, stream: ctx.time(law, torch.empty(N, 1), stream))
    check_times(r, t)
    assert ((r < t).float().mean() > 0.4) and t.max() > 0.9


@pytest.mark.parametrize("p_equal", [0.0, 0.25, 0.75, 1.0])
def test_p_equal_is_the_share_of_rows_with_r_equal_to_t(p_equal):
    draw = MeanFlow(p_equal=p_equal).draw(torch.zeros(400, 2), None, context())
    assert draw.n_equal == count_equal(p_equal, 400) == round(400 * p_equal)
    equal = draw.r == draw.t
    assert equal[: draw.n_equal].all() and not equal[draw.n_equal :].any()


@pytest.mark.parametrize("p_equal", [0.75, 0.5, 0.3])
def test_parts_together_are_the_whole_batch(p_equal):
    objective, n, parts = MeanFlow(p_equal=p_equal), 24, 3
    x = torch.randn(n, 2)
    whole = objective.draw(x, None, context())
    for part in range(parts):
        mine = objective.draw(x[part::parts], None, context(part, parts))
        for name in ("eps", "r", "t", "z"):
            assert torch.equal(getattr(mine, name), getattr(whole, name)[part::parts])
        assert mine.n_equal == int((mine.r == mine.t).sum())


@given(
    st.floats(-1, 2) | st.just(float("nan")),
    st.floats(-1, 2) | st.just(float("nan")),
)
def test_check_times_accepts_exactly_the_triangle(r, t):
    valid = 0 <= r <= t <= 1
    times = torch.tensor([0.2, r], dtype=torch.float64), torch.tensor([0.5, t], dtype=torch.float64)
    if valid:
        check_times(*times)
    else:
        with pytest.raises(ValueError, match="row 1 has r"):
            check_times(*times)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="shape \\[B\\]"):
        bcast(torch.zeros(3, 1), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="shape \\[B\\]"):
        bcast(torch.zeros(2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one shape"):
        interpolate(torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="p_equal"):
        MeanFlow(p_equal=1.2)
    with pytest.raises(ValueError, match="std"):
        LogitNormal(0.0, 0.0)
