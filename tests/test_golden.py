"""One step with fixed weights and draws: the library, the NumPy writing, and the stored numbers."""

import json

import numpy as np
import pytest
import torch
from golden_step import (
    CASES,
    CLASSES,
    DIM,
    N_EQUAL,
    SHAPES,
    STORED,
    WIDTH,
    B,
    C,
    P,
    parameters,
    step,
)
from golden_step import draws as golden_draws

from meanflow_lite.guidance import Guidance
from meanflow_lite.identity import total_derivative
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import Context, Draw, MeanFlow

FOUND = json.loads(STORED.read_text("utf-8"))


def library(name: str) -> dict[str, torch.Tensor]:
    net = MLP(DIM, WIDTH, 3, num_classes=CLASSES).double()
    weights = {k: torch.from_numpy(v) for k, v in parameters().items()}
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == SHAPES
    net.load_state_dict(weights)
    net.scales = 2.0 ** torch.arange(3, dtype=torch.float64) * torch.pi / 2  # made in float32
    guidance = None if CASES[name] is None else Guidance(CLASSES, *CASES[name])
    jumps = []

    def noted(*at, **options):
        jumps.append(total_derivative(*at, **options)[1])
        return total_derivative(*at, **options)

    objective = MeanFlow(p=P, c=C, guidance=guidance, derivative=noted)
    draw = Draw(**{k: torch.from_numpy(v) for k, v in golden_draws().items()}, n_equal=N_EQUAL)
    ctx = Context(net, None, torch.tensor(0.5, dtype=torch.float64), None)
    u, target = objective.prediction_and_target(net, draw, ctx)
    loss = objective(net, draw, ctx).per_sample
    slope = torch.autograd.grad(loss.mean(), net.last.bias)[0]
    plain = draw.rows(0, N_EQUAL)  # the target is v there
    at = (plain.z, plain.r, plain.t, target[:N_EQUAL], plain.y)
    dudt = torch.cat([total_derivative(net, *at)[1], jumps[0]])
    return {"u": u, "dudt": dudt, "target": target, "loss": loss, "slope": slope}


@pytest.mark.parametrize("name", CASES)
def test_the_numpy_step_gives_the_stored_numbers(name):
    for key, value in step(CASES[name]).items():
        np.testing.assert_allclose(value, FOUND[name][key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_the_library_gives_the_stored_numbers(name):
    for key, value in library(name).items():
        stored = torch.tensor(FOUND[name][key], dtype=torch.float64)
        assert value.shape[0] == (DIM if key == "slope" else B)
        torch.testing.assert_close(value, stored, rtol=1e-10, atol=1e-12)


def test_the_two_steps_differ_and_their_derivatives_matter():
    """What the numbers could not tell apart if they were all alike, or all zero."""
    for key in ("dudt", "target", "loss"):
        gap = np.abs(np.array(FOUND["plain"][key]) - np.array(FOUND["guided"][key]))
        assert gap.max() > 0.1
        assert np.abs(FOUND["plain"][key]).max() > 0.1
