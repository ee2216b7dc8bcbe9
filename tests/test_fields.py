"""Exact fields satisfy the identity, agree with independent solutions and refuse bad input."""

import math
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from meanflow_lite.data.toys import TOYS, gaussian, mixture_a, mixture_c, product, ring
from meanflow_lite.evaluation.exact import Points, triangle_points
from meanflow_lite.fields import (
    Gaussian,
    GaussianMixture,
    Guided,
    ProductMixture,
    instantaneous,
    velocity_of,
)
from meanflow_lite.identity import TANGENTS, residual
from meanflow_lite.samplers import sample

CLOSED: dict[str, Callable[[], Gaussian | ProductMixture]] = {
    "gaussian": gaussian,
    "gaussian in 3-D": lambda: Gaussian([1.0, 0.0, -2.0], [2.0, 0.5, 0.05]),
    "mixture_a": mixture_a,
    "mixture_c": mixture_c,
    "product": product,
}


def points(data, n: int = 128) -> Points:
    """The triangle, with rows at r = t, at short jumps, and the whole jump from 1 to 0."""
    generator = torch.Generator().manual_seed(1)
    z, r, t, y = triangle_points(data, n, generator, torch.float64)
    k = n // 8
    r, t = r.clone(), t.clone()
    r[:k] = t[:k]
    r[k : 2 * k] = (t[k : 2 * k] - 10 ** torch.linspace(-9, -1, k, dtype=t.dtype)).clamp(min=0)
    r[-k:], t[-k:] = 0.0, 1.0
    z[-k:] = torch.randn(z[-k:].shape, generator=generator, dtype=z.dtype)
    return Points(z, r, t, y)


def rms(x: Tensor) -> float:
    return float(x.square().sum(-1).mean().sqrt())


@pytest.mark.parametrize("name", CLOSED)
def test_identity_holds_on_closed_forms(name):
    data = CLOSED[name]()
    z, r, t, _ = points(data)
    worst = residual(data.average, z, r, t, data.velocity(z, t)).abs().max()
    assert worst < 1e-8


@pytest.mark.parametrize("labeled", [False, True])
def test_identity_holds_on_mixtures_to_the_stated_tolerance(labeled):
    data = ring()
    z, r, t, y = points(data)
    y = y if labeled else None
    left = residual(data.average, z, r, t, data.velocity(z, t, y), y)
    assert left.abs().median() < 1e-13
    assert rms(left) < 1e-5  # near the border of two modes the flow expands, and errors with it


@pytest.mark.parametrize("t_range", [(0.0, 1.0), (0.2, 0.8)])
def test_identity_holds_on_guided_fields(t_range):
    field = Guided(ring(), 2.0, t_range)
    field.mixture.steps = 8
    z, r, t, y = points(field.mixture, 64)
    left = residual(field.average, z, r, t, field.velocity(z, t, y), y)
    assert rms(left) < 1e-4  # with half of the default steps


@pytest.mark.parametrize("name", CLOSED)
def test_one_step_equals_many(name):
    data = CLOSED[name]()
    eps = torch.randn(256, data.dim, dtype=torch.float64)
    one = sample(data.average, eps, (1.0, 0.0))
    many = sample(data.average, eps, [1.0, 0.9, 0.55, 0.54, 0.3, 0.005, 0.0])
    torch.testing.assert_close(one, many, rtol=0, atol=1e-9)


def test_one_step_equals_many_on_a_mixture_and_its_guided_field():
    data = ring()
    eps = torch.randn(99, 2, dtype=torch.float64)
    y = torch.arange(99) % 9  # the ninth label is the null label
    times = [1.0, 0.5, 0.0]
    for field in (data, Guided(data, 3.0, (0.2, 0.8))):
        one, many = (sample(field.average, eps, steps, y) for steps in ((1.0, 0.0), times))
        torch.testing.assert_close(one, many, rtol=0, atol=1e-6)


def test_negative_control_one_step_of_the_raw_velocity_is_not_many():
    data = mixture_a()
    eps = torch.randn(256, 1, dtype=torch.float64)
    u = instantaneous(data.velocity)
    assert rms(sample(u, eps, (1.0, 0.0)) - sample(u, eps, [1.0, 0.5, 0.0])) > 0.1


def solve_ode(v, z: np.ndarray, t: float, r: float) -> np.ndarray:
    """dz/dt = v(z, t) from t down to r by SciPy's adaptive method, at its tightest tolerance."""
    solution = solve_ivp(v, (t, r), z, method="DOP853", rtol=3e-14, atol=1e-14)
    return solution.y[:, -1]


def mixture_velocity(w, m, s):
    """v = E[eps - x | z], written from Bayes' rule and in NumPy."""

    def v(t, z):
        total, mean = np.zeros_like(z), np.zeros_like(z)
        for w_k, m_k, s_k in zip(w, m, s, strict=True):
            var = (1 - t) ** 2 * s_k**2 + t**2
            delta = z - (1 - t) * m_k
            p = w_k * np.exp(-0.5 * delta**2 / var) / np.sqrt(var)
            x, eps = m_k + (1 - t) * s_k**2 / var * delta, t / var * delta
            total, mean = total + p, mean + p * (eps - x)
        return mean / total

    return v


@pytest.mark.parametrize("t, r", [(1.0, 0.0), (0.8, 0.3), (0.45, 0.44), (0.2, 0.0)])
def test_quantile_map_equals_an_ode_solver(t, r):
    w, m, s = [0.3, 0.5, 0.2], [-2.0, 0.5, 2.5], [0.3, 0.4, 0.2]
    z = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)[:, None]
    times = [torch.full((21,), float(c), dtype=torch.float64) for c in (r, t)]
    expected = solve_ode(mixture_velocity(w, m, s), z[:, 0].numpy(), t, r)
    reached = mixture_a().transport(z, *times)[:, 0].numpy()
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-10)
    average = mixture_a().average(z, *times)[:, 0].numpy()
    np.testing.assert_allclose(average * (t - r), z[:, 0].numpy() - expected, rtol=0, atol=1e-10)


def test_mixture_solver_equals_the_quantile_map():
    """The same data two ways: in one dimension the solver meets the closed form."""
    closed = mixture_a()
    solved = GaussianMixture([0.3, 0.5, 0.2], [[-2.0], [0.5], [2.5]], [0.3, 0.4, 0.2])
    z, r, t, _ = points(closed)
    torch.testing.assert_close(solved.velocity(z, t), closed.velocity(z, t), rtol=0, atol=1e-12)
    torch.testing.assert_close(solved.average(z, r, t), closed.average(z, r, t), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        solved.velocity_variance(z, t), closed.velocity_variance(z, t), rtol=1e-10, atol=1e-12
    )


def test_mixture_error_falls_with_steps():
    data, fine = ring(), ring()
    fine.steps = 64
    z, r, t, _ = points(data, 256)
    expected = fine.average(z, r, t)
    errors = []
    for steps in (4, 8, 16):
        data.steps = steps
        errors.append(rms(data.average(z, r, t) - expected))
    assert errors[1] < errors[0] / 20 and errors[2] < errors[1] / 20 and errors[2] < 1e-7


#: weights and widths that differ, in more than one dimension: P(k | z) takes s_k to the power D
UNEVEN = [
    GaussianMixture([0.2, 0.5, 0.3], [[-1.0, 0.5], [0.5, -1.0], [0.8, 1.0]], [0.4, 1.0, 0.6]),
    GaussianMixture([0.3, 0.7], [[0.0, 0.5, -0.5], [0.5, -0.5, 0.0]], [0.5, 1.2]),
]


@pytest.mark.parametrize("data", [Gaussian([0.5], [2.0]), mixture_a(), product(), ring(), *UNEVEN])
def test_velocity_and_variance_equal_importance_sampling(data, generator):
    """Posterior moments by self-normalized importance sampling: weights p(z | x) on data x."""
    n = 400_000
    x = data.sample(n, generator)[0].double()
    for row, t in enumerate((0.35, 0.8)):
        z = torch.tensor([[0.4, -0.7, 0.2][: data.dim]], dtype=torch.float64)
        eps = (z - (1 - t) * x) / t
        share = (-0.5 * eps.square().sum(1)).softmax(0)[:, None]
        mean = (share * (eps - x)).sum(0)
        variance = (share * (eps - x - mean).square()).sum()
        # standard error of the mean with weights
        error = (share.square() * (eps - x - mean).square()).sum().sqrt()
        time = torch.tensor([t], dtype=torch.float64)
        assert (data.velocity(z, time)[0] - mean).norm() < 5 * error, row
        torch.testing.assert_close(
            data.velocity_variance(z, time)[0], variance, rtol=0.05, atol=1e-3
        )


def test_flow_matching_loss_is_its_error_plus_the_variance(generator):
    r"""E|f - (eps - x)|^2 = E|f - v|^2 + E tr Cov for any f; here f = 0 and labels are used."""
    data = ring()
    z, _, t, y = triangle_points(data, 100_000, generator, torch.float64)
    generator.manual_seed(7)
    x, y = data.sample(100_000, generator)
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    z = (1 - t[:, None]) * x + t[:, None] * eps
    left = (eps - x).square().sum(1)
    right = data.velocity(z, t, y).square().sum(1) + data.velocity_variance(z, t, y)
    gap = left - right
    assert gap.mean().abs() < 4 * gap.std() / math.sqrt(len(gap))


@pytest.mark.parametrize("name", [*CLOSED, "ring", "guided"])
def test_rows_with_equal_times_are_regular(name):
    """At r = t: u = v, and du/dt is half the acceleration, both finite; and u is continuous."""
    field: Any = {"ring": ring, **CLOSED}.get(name, ring)()
    if isinstance(field, GaussianMixture):
        field.steps = 4  # exact at r = t with any number
    if name == "guided":
        field = Guided(field, 2.0, (0.3, 0.9))
    n = 48
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    z = torch.randn(n, field.dim, dtype=torch.float64)
    y = torch.arange(n) % 8 if name == "guided" else None
    v = field.velocity(z, t, y)
    torch.testing.assert_close(field.average(z, t, t, y), v, rtol=0, atol=1e-12)

    zeros, ones = torch.zeros_like(t), torch.ones_like(t)
    _, du = torch.func.jvp(lambda a, b, c: field.average(a, b, c, y), (z, t, t), (v, zeros, ones))[
        :2
    ]
    _, dv = torch.func.jvp(lambda a, c: field.velocity(a, c, y), (z, t), (v, ones))[:2]
    assert du.isfinite().all()
    torch.testing.assert_close(du, dv / 2, rtol=1e-9, atol=1e-9)

    # A chord of this length would be off by 1e-9 in u and by 1e-2 in du/dt.
    near = (t - 1e-7).clamp(min=0)
    u, du = torch.func.jvp(
        lambda a, b, c: field.average(a, b, c, y), (z, near, t), (v, zeros, ones)
    )[:2]
    torch.testing.assert_close(u, v - (t - near)[:, None] * dv / 2, rtol=0, atol=1e-10)
    torch.testing.assert_close(du, dv / 2, rtol=1e-4, atol=1e-4)


def test_short_and_long_jumps_meet():
    """Where the chord takes over from the quadrature, neither u nor du/dt jumps."""
    from meanflow_lite.fields.product import SHORT

    data = mixture_a()
    z = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None]
    t = torch.full((41,), 0.5, dtype=torch.float64)
    sides = []
    for gap in (SHORT * (1 - 1e-12), SHORT * (1 + 1e-12)):
        r = t - gap
        tangent = (data.velocity(z, t), torch.zeros_like(t), torch.ones_like(t))
        sides.append(torch.func.jvp(data.average, (z, r, t), tangent)[:2])
    torch.testing.assert_close(sides[0], sides[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("data", [gaussian(), mixture_a(), mixture_c(), product(), ring()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_are_finite_in_both_dtypes(data, dtype):
    side = torch.linspace(-8, 8, 9, dtype=dtype)
    z = torch.cartesian_prod(side, side) if data.dim == 2 else side[:, None]
    ends = [(0.0, 0.0), (0.0, 1e-3), (0.0, 0.5), (0.0, 1.0), (0.3, 0.3), (0.99, 1.0)]
    r, t = torch.tensor(ends, dtype=dtype).repeat_interleave(len(z), 0).unbind(1)
    z = z.repeat(len(ends), 1)
    v = data.velocity(z, t)
    tangent = (v, torch.zeros_like(r), torch.ones_like(t))
    u, du = torch.func.jvp(data.average, (z, r, t), tangent)[:2]
    assert u.dtype == v.dtype == dtype
    assert u.isfinite().all() and v.isfinite().all() and du.isfinite().all()
    if dtype == torch.float64 and not isinstance(data, GaussianMixture):
        left = u + (t - r)[:, None] * du - v
        assert (left / v.abs().clamp(min=1)).abs().max() < 1e-8


def test_cdf_and_quantile_are_inverse():
    data = product()
    p = torch.tensor([1e-12, 1e-3, 0.2, 0.5, 0.9, 1 - 1e-9], dtype=torch.float64)
    p, t = torch.stack([p, p.flip(0)], 1), torch.linspace(0, 1, 6, dtype=torch.float64)
    z = data.quantile(p, t)
    torch.testing.assert_close(data.cdf(z, t), p, rtol=1e-10, atol=1e-15)
    noise = data.quantile(p, torch.ones_like(t))
    torch.testing.assert_close(noise, torch.special.ndtri(p), rtol=1e-9, atol=1e-9)


def test_second_derivatives_pass_through_the_quantile_map():
    """Two Newton steps carry derivatives of the derivative: checked by finite differences."""
    data = mixture_a()
    t = torch.tensor([0.9], dtype=torch.float64)

    def slope(z: Tensor) -> Tensor:
        ones = torch.ones_like(z)
        return torch.func.jvp(lambda a: data.transport(a, 0 * t, t), (z,), (ones,))[1]

    z, h = torch.tensor([[0.3]], dtype=torch.float64), 1e-5
    second = torch.func.jvp(slope, (z,), (torch.ones_like(z),))[1]
    torch.testing.assert_close(
        second, (slope(z + h) - slope(z - h)) / (2 * h), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", ["gaussian", "mixture_a", "ring"])
def test_vmap_equals_the_batch(name):
    data = CLOSED[name]() if name in CLOSED else ring()
    z, r, t, _ = points(data, 16)
    rows = torch.func.vmap(lambda a, b, c: data.average(a[None], b[None], c[None])[0])(z, r, t)
    torch.testing.assert_close(rows, data.average(z, r, t), rtol=0, atol=1e-9)


def test_labels_select_components_and_null_selects_all():
    data = ring()
    z, r, t, y = points(data, 64)
    assert y is not None and data.num_classes == 8
    null = torch.full_like(y, 8)
    torch.testing.assert_close(data.average(z, r, t, null), data.average(z, r, t))
    torch.testing.assert_close(data.velocity(z, t, null), data.velocity(z, t))
    for k in (0, 3, 7):
        alone = Gaussian(data.means[k], torch.full((2,), 0.15, dtype=torch.float64))
        rows = torch.full_like(y, k)
        torch.testing.assert_close(
            data.average(z, r, t, rows), alone.average(z, r, t), rtol=0, atol=1e-8
        )
        torch.testing.assert_close(
            data.velocity_variance(z, t, rows), alone.velocity_variance(z, t)
        )
    x, y = data.sample(4096)
    assert ((x - data.means[y].float()).norm(dim=1) < 1.0).all()


def test_guidance_at_scale_one_is_no_guidance_and_scale_zero_drops_the_label():
    data = ring()
    z, r, t, y = points(data, 64)
    plain, none = data.average(z, r, t, y), data.average(z, r, t)
    torch.testing.assert_close(Guided(data, 1.0).average(z, r, t, y), plain)
    torch.testing.assert_close(Guided(data, 0.0).average(z, r, t, y), none)
    guided = Guided(data, 2.0).average(z, r, t, y)
    # Negative control: the mix of averages is not the average of the mix.
    assert rms(guided - (2 * plain - none)) > 0.01
    # Outside its range of t a guided field is the plain one.
    early = torch.minimum(t, torch.tensor(0.29, dtype=t.dtype))
    r = torch.minimum(r, early)
    ranged = Guided(data, 2.0, (0.3, 1.0)).average(z, r, early, y)
    torch.testing.assert_close(ranged, data.average(z, r, early, y), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "mixture_a"])
def test_wrong_derivatives_and_the_raw_velocity_leave_a_residual(name):
    """The negative controls of the identity: every wrong formula is off by at least 0.1."""
    data = CLOSED[name]()
    z, r, t, _ = triangle_points(data, 2048, torch.Generator().manual_seed(2), torch.float64)
    v = data.velocity(z, t)
    left = {
        name: rms(residual(data.average, z, r, t, v, tangent=tangent))
        for name, tangent in TANGENTS.items()
    }
    left["raw"] = rms(residual(instantaneous(data.velocity), z, r, t, v))
    assert left.pop("v01") < 1e-8
    assert set(left) == {"001", "v00", "v10", "v11", "raw"}
    assert min(left.values()) > 0.1, left


def test_some_wrong_formulas_vanish_on_the_standard_normal():
    r"""Why N(0, 1) is no test.

    There s_t = s_{1-t}: from t = 1 to r = 0 the flow is the identity map, J = s_r / s_t = 1, and
    u(z, 0, 1) = 0. The partial derivative leaves (J - 1) v and the tangent (v, 0, 0) leaves
    u - J v; both contain factors that vanish where r + t = 1 (there J = 1 and u = 0, so the first
    is zero for every z), and v itself vanishes at t = 1/2.
    """
    data = Gaussian([0.0], [1.0])
    z = torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None]
    t = torch.linspace(0.5, 1.0, 31, dtype=torch.float64)
    r = 1 - t
    v = data.velocity(z, t)
    assert residual(data.average, z, r, t, v, tangent=TANGENTS["001"]).abs().max() < 1e-12
    assert data.average(z, r, t).abs().max() < 1e-12
    wide = gaussian()
    assert rms(residual(wide.average, z, r, t, wide.velocity(z, t), tangent=TANGENTS["001"])) > 0.1


def test_raw_velocity_becomes_exact_as_the_data_narrows():
    """Data at a point has straight trajectories, and on a straight line v is its own average."""
    left = []
    for std in (1.0, 0.1, 0.01, 0.001):
        data = Gaussian([1.5], [std])
        z, r, t, _ = triangle_points(data, 4096, torch.Generator().manual_seed(3), torch.float64)
        left.append(rms(residual(instantaneous(data.velocity), z, r, t, data.velocity(z, t))))
    assert left[0] > left[1] > left[2] > left[3] and left[3] < left[0] / 20


def test_instantaneous_and_velocity_of():
    data = mixture_a()
    z, r, t, _ = points(data, 32)
    torch.testing.assert_close(instantaneous(data.velocity)(z, r, t), data.velocity(z, t))
    torch.testing.assert_close(velocity_of(data.average)(z, t), data.velocity(z, t))


@pytest.fixture
def plain_calls():
    """Without the shape checker of the tests, as a user calls: our own errors must be enough."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


FIELDS: dict[str, Any] = {name: make() for name, make in TOYS.items() if name != "checkerboard"}
FIELDS["guided"] = Guided(FIELDS["ring"], 2.0)

#: What goes wrong: (z, r, t, row, size) -> broken (z, r, t); the key starts with the argument.
FAULTS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "r above t": lambda z, r, t, row, size: (z, put(r, row, 0.7 + size), t),
    "r below 0": lambda z, r, t, row, size: (z, put(r, row, -size), t),
    "t above 1": lambda z, r, t, row, size: (z, r, put(t, row, 1 + size)),
    "t is NaN": lambda z, r, t, row, size: (z, r, put(t, row, math.nan)),
    "z has NaN": lambda z, r, t, row, size: (put(z, row, math.nan), r, t),
    "r of shape [B, 1]": lambda z, r, t, row, size: (z, r[:, None], t),
    "t of fewer rows": lambda z, r, t, row, size: (z, r, t[:row]),
    "z of another width": lambda z, r, t, row, size: (torch.cat([z, z], 1), r, t),
    "z of integers": lambda z, r, t, row, size: (z.long(), r, t),
}


def put(x: Tensor, row: int, value: float) -> Tensor:
    x = x.clone()
    x[row] = value
    return x


@pytest.mark.usefixtures("plain_calls")
class TestBadInput:
    @settings(max_examples=150, deadline=None)
    @given(
        name=st.sampled_from(sorted(FIELDS)),
        fault=st.sampled_from(sorted(FAULTS)),
        row=st.integers(0, 4),
        size=st.floats(1e-6, 10),
    )
    def test_is_a_value_error_that_names_the_argument(self, name, fault, row, size):
        field = FIELDS[name]
        z, r, t = torch.zeros(5, field.dim), torch.full((5,), 0.3), torch.full((5,), 0.7)
        with pytest.raises(ValueError, match=rf"\b{fault[0]}\b"):
            field.average(*FAULTS[fault](z, r, t, row, size))

    @settings(max_examples=60, deadline=None)
    @given(label=st.integers(-100, 100).filter(lambda k: not 0 <= k <= 8), row=st.integers(0, 4))
    def test_labels_out_of_range(self, label, row):
        y = torch.zeros(5, dtype=torch.int64)
        y[row] = label
        with pytest.raises(ValueError, match="labels y must be 0 to 7, or 8"):
            ring().velocity(torch.zeros(5, 2), torch.ones(5), y)

    def test_labels_of_unlabeled_data_and_conditions(self):
        z, t = torch.zeros(2, 1), torch.ones(2)
        with pytest.raises(ValueError, match="no labels"):
            mixture_a().average(z, t, t, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="omega"):
            mixture_a().average(z, t, t, omega=t)
        with pytest.raises(ValueError, match="integer labels"):
            ring().velocity(torch.zeros(2, 2), t, t)

    def test_parameters(self):
        with pytest.raises(ValueError, match="std"):
            Gaussian([0.0], [0.0])
        with pytest.raises(ValueError, match="mean and std"):
            Gaussian([0.0], [1.0, 1.0])
        with pytest.raises(ValueError, match="sum to 1"):
            ProductMixture([[0.5, 0.6]], [[0.0, 1.0]], [[1.0, 1.0]])
        with pytest.raises(ValueError, match=r"\[D, K\]"):
            ProductMixture([[0.5, 0.5]], [[0.0, 1.0]], [[1.0]])
        with pytest.raises(ValueError, match="positive"):
            ProductMixture([[1.0]], [[0.0]], [[-1.0]])
        with pytest.raises(ValueError, match="weights"):
            GaussianMixture([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0])
        with pytest.raises(ValueError, match=r"\[K, D\]"):
            GaussianMixture([0.5, 0.5], [[0.0]], [1.0, 1.0])
        with pytest.raises(ValueError, match="labels"):
            GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0], labels=[0])
        with pytest.raises(ValueError, match="t_range"):
            Guided(ring(), 2.0, (0.8, 0.2))
        with pytest.raises(ValueError, match="labels"):
            Guided(GaussianMixture([1.0], [[0.0]], [1.0]), 2.0)
        with pytest.raises(ValueError, match="p must be in"):
            mixture_a().quantile(torch.ones(1, 1), torch.ones(1))
