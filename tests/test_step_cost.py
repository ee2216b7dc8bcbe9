"""The fast MeanFlow step has the gradients of the textbook step; its benchmark runs."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from meanflow_lite.guidance import Guidance
from meanflow_lite.networks import build
from meanflow_lite.objectives import MeanFlow
from meanflow_lite.objectives.base import Context
from meanflow_lite.randomness import Random

NULL = 3


def network(dtype):
    torch.manual_seed(0)
    net = build("tiny")
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.to(dtype)


def textbook_loss(net, draw, guidance, p, c):
    """Every row through the same lines: guide, differentiate, regress, weight."""
    z, r, t, y, v = draw.z, draw.r, draw.t, draw.y, draw.v
    if guidance is not None:
        with torch.no_grad():
            null = net(z, t, t, torch.full_like(y, NULL))
            omega, kappa = guidance.omega, guidance.kappa
            mixed = omega * v + kappa * net(z, t, t, y) + (1 - omega - kappa) * null
            v = torch.where((y == NULL)[:, None, None, None], v, mixed)
    along = (v, torch.zeros_like(r), torch.ones_like(t))
    dudt = torch.func.jvp(partial(net, y=y), (z, r, t), along)[1]
    target = v - (t - r)[:, None, None, None] * dudt
    error = (net(z, r, t, y) - target.detach()).square().flatten(1).sum(1)
    return (error / (error.detach() + c) ** p).mean()


def gradients(loss, net):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def both_gradients(dtype, p_equal, guidance):
    net = network(dtype)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(8, 2, 4, 4, generator=generator).to(dtype)
    y = torch.tensor([0, 1, 2, NULL, 0, 1, 2, NULL])
    objective = MeanFlow(p_equal=p_equal, p=1.0, c=1e-3, guidance=guidance)
    ctx = Context(net, None, torch.zeros(()), Random(2))
    draw = objective.draw(x, y, ctx)
    fast = gradients(objective(net, draw, ctx).per_sample.mean(), net)
    return fast, gradients(textbook_loss(net, draw, guidance, 1.0, 1e-3), net)


@pytest.mark.parametrize("p_equal", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("guidance", [None, Guidance.effective(2.0, NULL, kappa=0.5)])
def test_gradients_equal_those_of_the_textbook_step(p_equal, guidance):
    fast, slow = both_gradients(torch.float64, p_equal, guidance)
    assert (fast - slow).norm() < 1e-12 * slow.norm()
    fast, slow = both_gradients(torch.float32, p_equal, guidance)
    assert (fast - slow).norm() < 1e-5 * slow.norm()


def test_and_the_comparison_can_fail():
    fast, _ = both_gradients(torch.float64, 0.5, None)
    _, other = both_gradients(torch.float64, 0.5, Guidance.effective(2.0, NULL))
    assert (fast - other).norm() > 0.01 * fast.norm()


@pytest.mark.slow
def test_benchmark_ends_with_its_result_as_json():
    script = Path(__file__).parents[1] / "benchmarks" / "step_cost.py"
    command = [sys.executable, str(script), "--quick", "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(run.stdout.splitlines()[-1])
    low, high = result["interval"]
    assert 0 < low <= result["ours"] <= high
    assert {row["p_equal"] for row in result["table"]} == {0.75, 0.0}
    assert result["extra_peak_memory"] < 0.15
