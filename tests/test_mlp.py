"""The MLP is a field on any data shape, and its tangent pass is its forward-mode derivative."""

from functools import partial

import pytest
import torch

from meanflow_lite.fields import Conditioned
from meanflow_lite.identity import directional_derivative
from meanflow_lite.networks import MLP

TOLD = [("t", "r"), ("t", "t-r"), ("t", "r", "t-r"), ("t-r",)]
B = 6


def inputs(shape):
    z, dz = torch.randn(2, B, *shape, dtype=torch.float64)
    r, t = torch.rand(2, B, dtype=torch.float64).sort(dim=0).values
    return z, r, t, dz, torch.randn(B, dtype=torch.float64), torch.randn(B, dtype=torch.float64)


def awake(dim, **settings):
    net = MLP(dim, width=12, depth=3, **settings).double()
    torch.nn.init.normal_(net.last.weight)
    return net


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
def test_the_tangent_pass_is_the_forward_mode_derivative(told, shape):
    net = awake(9 if len(shape) > 1 else 2, conditioning=told, num_classes=4)
    y = torch.arange(B) % 5
    at = inputs(shape)
    slow = directional_derivative(net, *at, y)
    fast = directional_derivative(net, *at, y, detach=True)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    assert not fast[1].requires_grad and slow[1].requires_grad
    wrong = directional_derivative(net, *at[:4], -at[4], at[5], y)
    assert (wrong[1] - fast[1]).abs().max() > 1e-3 or told == ("t-r",)
    gradients = [
        torch.autograd.grad(u.square().sum(), list(net.parameters())) for u, _ in (slow, fast)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_further_condition_is_an_input_without_a_tangent():
    net = awake(2, num_classes=3, conditions=("omega",))
    y, omega = torch.arange(B) % 4, torch.linspace(1, 3, B, dtype=torch.float64)
    at = inputs((2,))
    slow = directional_derivative(partial(net, omega=omega), *at, y)
    told = Conditioned(net, {"omega": omega})
    fast = directional_derivative(told, *at, y, detach=True)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    assert not fast[1].requires_grad and hasattr(told, "forward_with_tangent")
    assert not hasattr(Conditioned(lambda z, r, t, y=None: z, {}), "forward_with_tangent")
    other = net(*at[:3], y, omega=omega + 1)
    assert (other - fast[0]).abs().amax(1).min() > 1e-3
    for wrong in ({}, {"kappa": omega}):
        with pytest.raises(ValueError, match="conditions"):
            net(*at[:3], y, **wrong)


def test_starts_as_the_zero_field():
    z, r, t, dz, dr, dt = inputs((2,))
    u, du = MLP(2).double().forward_with_tangent(z, r, t, dz, dr, dt)
    assert not u.any() and not du.any()


def test_labels_and_the_null_label():
    net = awake(2, num_classes=3)
    z, r, t, *_ = inputs((2,))
    null = net(z, r, t, torch.full((B,), 3))
    assert torch.equal(net(z, r, t), null)
    assert not torch.allclose(net(z, r, t, torch.zeros(B, dtype=torch.long)), null)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="conditioning"):
        MLP(2, conditioning=("s",))
    with pytest.raises(ValueError, match="dim 2"):
        MLP(2)(torch.zeros(B, 3), torch.zeros(B), torch.ones(B))
