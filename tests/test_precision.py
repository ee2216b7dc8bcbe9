"""What bfloat16 may cost: gradients at the worst progress, over seeds; weights that move."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_objectives_interface import CLASSES, make
from torch import nn

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.guidance import Guidance, LabelDropout
from meanflow_lite.identity import derivatives_in_float32, finite_difference, total_derivative
from meanflow_lite.networks import MLP
from meanflow_lite.networks.presets import build
from meanflow_lite.objectives import OBJECTIVES, AlphaFlow, Consistency, Context, MeanFlow, Random
from meanflow_lite.objectives.schedules import Constant
from meanflow_lite.training import Ema, TrainConfig, Trainer, train

SEEDS = range(8)
GUIDED = {"guidance": Guidance.effective(2.0, CLASSES, kappa=0.5), "dropout": LabelDropout(CLASSES)}


def methods():
    """Every objective where it divides by the smallest number: at the end of its schedule."""
    return {
        **{name: (partial(make, name, 32), 0.99) for name in OBJECTIVES},
        "alphaflow, smallest alpha": (partial(AlphaFlow, Constant(0.005), p_equal=0.0), 0.5),
        "consistency, huber": (partial(Consistency, huber=0.03), 0.99),
        "consistency, continuous": (partial(Consistency, steps=None), 0.5),
        "finite difference": (partial(MeanFlow, derivative=finite_difference), 0.5),
        "guided": (partial(MeanFlow, **GUIDED), 0.5),
        "guided, no plain rows": (partial(MeanFlow, p_equal=0.0, **GUIDED), 0.5),
    }


def networks(seed: int) -> tuple[nn.Module, nn.Module]:
    """A DiT and a teacher of the same shape whose layers all speak."""
    torch.manual_seed(seed)
    nets = build("tiny"), build("tiny").requires_grad_(False)
    for net in nets:
        for p in net.parameters():
            nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.1)
    return nets


def gradient(name: str, seed: int, bf16: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    objective, progress = methods()[name]
    (net, teacher), objective = networks(seed), objective()
    ctx = Context(copy.deepcopy(net), teacher, torch.tensor(progress), Random(seed))
    x, y = torch.randn(32, 2, 4, 4), torch.arange(32) % CLASSES
    draw = objective.draw(x.to(dtype), y, ctx)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = objective(net, draw, replace(ctx, random=None)).per_sample
    loss.mean().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", methods())
def test_bf16_keeps_the_gradient(name, seed):
    exact, half = gradient(name, seed, False), gradient(name, seed, True)
    assert exact.shape == half.shape and half.dtype == torch.float32
    assert (half - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "drifting"])
def test_data_of_half_precision_is_data(name):
    """The gradient is that of the same numbers in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        rounded = gradient(name, 0, False, dtype)
        torch.testing.assert_close(rounded, gradient(name, 0, False), rtol=0.1, atol=0.1)
        assert rounded.dtype == torch.float32 and rounded.isfinite().all()


def test_a_difference_in_bf16_would_not_do(monkeypatch):
    """The negative control: without the float32 region the finest grid loses the gradient."""
    exact = gradient("consistency", 0, False)
    monkeypatch.setattr(
        "meanflow_lite.objectives.consistency.in_float32",
        lambda like: torch.autocast("cpu", torch.bfloat16),
    )
    assert (gradient("consistency", 0, True) - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("name", [*OBJECTIVES, "guided", "guided, no plain rows"])
def test_every_parameter_moves_under_bf16(name):
    """Autocast keeps casted weights within a step. In torch before 2.11 a weight that was used
    without a graph first was kept without one, and never moved: hence the lower bound."""
    objective, _ = methods()[name]
    net, teacher = networks(0)
    before = [p.clone() for p in net.parameters()]
    data = FromTensors(torch.randn(64, 2, 4, 4), torch.arange(64) % CLASSES)
    train(net, objective(), data, TrainConfig(steps=3, batch=32, bf16=True), teacher)
    still = [n for (n, p), b in zip(net.named_parameters(), before, strict=True) if (p == b).all()]
    assert not still


def jump_rows(seed: int):
    net, _ = networks(seed)
    z, v = torch.randn(2, 16, 2, 4, 4)
    t = torch.rand(16)
    return net, (z, t / 2, t, v[8:], torch.arange(16) % CLASSES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("foreign", [False, True])
def test_derivatives_in_float32_are_those_of_float32(seed, foreign):
    """Value and derivative of the rows that have one; the others stay in bfloat16."""
    net, at = jump_rows(seed)
    u = (lambda *a: net(*a)) if foreign else net
    value, dudt = total_derivative(u, *at, detach=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, coarse = total_derivative(u, *at, detach=True)
        with derivatives_in_float32():
            mixed, fine = total_derivative(u, *at, detach=True)
    torch.testing.assert_close(fine, dudt)
    torch.testing.assert_close(mixed[8:], value[8:])
    assert mixed[:8].dtype == value.dtype and (mixed[:8] - value[:8]).abs().max() > 1e-4
    assert (coarse.float() - dudt).norm() > 1e-3 * dudt.norm()


def test_the_trainer_takes_derivatives_as_it_is_told():
    found = []
    for apart in (False, True):
        net, _ = networks(0)
        data = FromTensors(torch.randn(64, 2, 4, 4), torch.arange(64) % CLASSES)
        config = TrainConfig(steps=1, batch=32, bf16=True, derivative_fp32=apart)
        trainer = Trainer(net, MeanFlow(p_equal=0.0), data, config)
        next(trainer.run())
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert not torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_average_of_half_precision_moves(dtype):
    """20,000 updates at 0.9999 from 1 towards 2; in bfloat16 each would be rounded away."""
    net = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(net.weight)
    average = Ema(net, 0.9999)
    nn.init.constant_(net.weight, 2.0)
    average.updates = 10**6
    for _ in range(20_000):
        average.update(net)
    assert abs(float(average.net.weight) - (2 - 0.9999**20_000)) < 1e-2
    assert average.net(torch.ones(1, 1)).dtype == torch.float32


def test_an_mlp_of_the_smallest_kind_keeps_its_gradient_too():
    net = MLP(2, 16, 2)
    nn.init.normal_(net.last.weight, std=0.3)
    ctx = Context(net, None, torch.tensor(0.99), Random(0))
    draw = Consistency().draw(torch.randn(64, 2), None, ctx)
    grads = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = Consistency()(net, draw, ctx).per_sample.mean()
        grads.append(torch.autograd.grad(loss, net.last.weight)[0])
    assert torch.equal(*grads)
