"""Guidance: the formula, its effective scale, the rows it leaves alone, label dropout."""

import pytest
import torch

from meanflow_lite.data import toys
from meanflow_lite.data.batches import seeded
from meanflow_lite.fields import Guided, instantaneous
from meanflow_lite.guidance import ClassifierFree, Guidance, LabelDropout, Scales, guided_velocity

TOY = toys.TOYS["ring"]()
NULL = 8
B = 64


def rows():
    x, y = TOY.sample(B, seeded(0))
    t = torch.rand(B, generator=seeded(1), dtype=torch.float64)
    eps = torch.randn(B, 2, generator=seeded(2), dtype=torch.float64)
    return (1 - t)[:, None] * x + t[:, None] * eps, t, y


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 0.9])
def test_the_effective_scale_is_omega_over_one_minus_kappa(scale, kappa):
    r"""The field with scale omega' is the fixed point of the mix with omega = omega'(1 - kappa)."""
    z, t, y = rows()
    guided = Guided(TOY, scale)

    def u(z, r, t, y):  # conditional rows: the guided field; null rows: the plain one
        return torch.where(
            (y == NULL)[:, None],
            TOY.velocity(z, t, y),
            guided.velocity(z, t, torch.where(y == NULL, 0, y)),
        )

    guidance = Guidance.effective(scale, NULL, kappa)
    assert abs(guidance.effective_scale - scale) < 1e-12
    marginal = TOY.velocity(z, t, y)
    target = guidance(u, z, t, marginal, y)
    torch.testing.assert_close(target, u(z, t, t, y))
    if kappa:  # omega alone, without the division, is another field
        wrong = guided_velocity(u, z, t, marginal, y, NULL, scale, kappa)
        assert (wrong - u(z, t, t, y)).abs().max() > 1e-2


def test_null_rows_and_times_outside_the_interval_keep_their_velocity():
    z, t, y = rows()
    y = torch.where(torch.arange(B) < 10, NULL, y)
    v = torch.randn(B, 2, dtype=torch.float64)
    u = instantaneous(TOY.velocity)
    out = Guidance(NULL, omega=3.0, interval=(0.3, 0.6))(u, z, t, v, y)
    kept = (out == v).all(1)
    assert torch.equal(kept, (y == NULL) | (t < 0.3) | (t > 0.6))


def test_the_own_prediction_is_used_and_takes_no_gradient():
    z, t, y = rows()
    u = instantaneous(TOY.velocity)
    own = u(z, t, t, y).requires_grad_()
    given = guided_velocity(u, z, t, z, y, NULL, 1.5, 0.4, own)
    torch.testing.assert_close(given, guided_velocity(u, z, t, z, y, NULL, 1.5, 0.4))
    assert not given.requires_grad


def test_classifier_free_guidance_is_the_guided_field_at_r_equal_t_only():
    z, t, y = rows()
    at_rest = ClassifierFree(TOY.average, NULL, 2.0)
    guided = Guided(TOY, 2.0)
    torch.testing.assert_close(at_rest(z, t, t, y), guided.velocity(z, t, y), atol=1e-8, rtol=1e-8)
    jump = at_rest(z, torch.zeros_like(t), t, y) - guided.average(z, torch.zeros_like(t), t, y)
    assert jump.abs().max() > 0.1


def test_dropout_at_random_and_by_position():
    y, uniform = torch.zeros(10_000, dtype=torch.long), torch.rand(10_000, generator=seeded(3))
    random = LabelDropout(null=5, rate=0.1)(y, uniform)
    first = LabelDropout(null=5, rate=0.1, positional=True)(y, uniform)
    assert (random == 5).sum() == (first == 5).sum()
    assert abs((random == 5).float().mean() - 0.1) < 0.01
    n = int((first == 5).sum())
    assert (first[:n] == 5).all() and not torch.equal(random, first)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_scales_have_their_density(beta):
    """P(s < 2) on [1, 4] is the integral of s^-beta."""
    s = Scales(1.0, 4.0, beta)(torch.rand(40_000, generator=seeded(4), dtype=torch.float64))
    grid = torch.linspace(1, 4, 3001, dtype=torch.float64)
    density = grid**-beta
    share = density[grid < 2].sum() / density.sum()
    assert s.min() >= 1 and s.max() <= 4
    assert abs((s < 2).double().mean() - share) < 0.01


def test_each_row_has_its_own_scale():
    z, t, y = rows()
    scale = torch.linspace(1, 3, B, dtype=torch.float64)
    guided = Guided(TOY, scale[:, None])
    guidance = Guidance(NULL, kappa=0.5, scales=Scales(1.0, 3.0))

    def u(z, r, t, y):  # asked for the null label and the own one of all rows at once
        null = (y == NULL)[:, None]
        own = Guided(TOY, scale.repeat(len(z) // B)[:, None])
        velocity = own.velocity(z, t, torch.where(y == NULL, 0, y))
        return torch.where(null, TOY.velocity(z, t, y), velocity)

    v = TOY.velocity(z, t, y)
    torch.testing.assert_close(guidance(u, z, t, v, y, scale=scale), guided.velocity(z, t, y))
    assert (guidance(u, z, t, v, y) - guided.velocity(z, t, y)).abs().max() > 1e-2


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="low < high"):
        Scales(3.0, 1.0)
    with pytest.raises(ValueError, match="kappa"):
        Guidance(NULL, kappa=1.0)
    with pytest.raises(ValueError, match="interval"):
        Guidance(NULL, interval=(0.5, 0.2))
    with pytest.raises(ValueError, match="rate"):
        LabelDropout(NULL, rate=1.5)
    with pytest.raises(ValueError, match="labels"):
        LabelDropout(NULL)(None, torch.rand(3))
    z, t, _ = rows()
    with pytest.raises(ValueError, match="labels"):
        Guidance(NULL)(TOY.average, z, t, z, None)
    with pytest.raises(ValueError, match="labels"):
        ClassifierFree(TOY.average, NULL, 2.0)(z, t, t)
