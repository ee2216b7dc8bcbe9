"""Exercises of chapter 09: a row by hand, one training step, the anchors of joint training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from meanflow_lite.fields import Field
from meanflow_lite.notebook.exercises import exercise
from meanflow_lite.paths import bcast

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)


_V = torch.linspace(1.0, -1.5, 6, dtype=torch.float64).reshape(3, 2)


_R = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)


_T = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)


Step = Callable[..., Tensor]


def _value_and_gradient(step_loss: Step) -> Tensor:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return scale * torch.sin(z + bcast(2 * t - r, z)) + bcast(t * t, z)

    loss = step_loss(u, _Z, _R, _T, _V)
    (slope,) = torch.autograd.grad(loss.sum(), scale, retain_graph=True)
    return torch.cat([loss.detach().reshape(-1), slope.reshape(1)])


def _step(
    tangent: tuple[float, float, float] = (1.0, 0.0, 1.0),
    sign: float = -1.0,
    stop: bool = True,
    mean: bool = False,
    length: bool = True,
) -> Step:
    def loss(u: Field, z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> Tensor:
        a, b, c = tangent
        value, dudt = jvp(u, (z, r, t), (a * v, torch.full_like(r, b), torch.full_like(t, c)))[:2]
        gap = bcast(t - r, z) if length else 1.0
        target = v + sign * gap * dudt
        error = (value - (target.detach() if stop else target)).square()
        return error.mean(1) if mean else error.sum(1)

    return loss


exercise(
    "09-step",
    use=_value_and_gradient,
    right=_step(),
    mistakes={
        "The values are right, the gradient is not: detach the target before you subtract it.": (
            _step(stop=False)
        ),
        "The sign of the derivative is wrong: the target is v minus (t - r) du/dt.": _step(
            sign=1.0
        ),
        "This is the partial derivative: the tangent of z is v, not zero.": _step((0.0, 0.0, 1.0)),
        "The 1 stands at r: the tangent on (z, r, t) is (v, 0, 1).": _step((1.0, 1.0, 0.0)),
        "The derivative has lost its factor t - r.": _step(length=False),
        "Sum over the data dimensions; the mean changes the scale of the loss.": _step(mean=True),
    },
    praise="Right: one call for value and derivative, and a target without a gradient.",
    hint="The target is v - (t - r) du/dt, with the tangent (v, 0, 1).",
)


exercise(
    "09-row",
    use=lambda answer: float(answer),
    right=1.0,
    mistakes={
        "That is v itself: the derivative along the path is missing.": 2.0,
        "The sign of the derivative is wrong: the target is v minus (t - r) du/dt.": 3.0,
        "The factor t - r is missing: it is one half here.": 0.0,
        "That is what the network says now; the question is about the target.": 1.5,
    },
    praise="Right: v = 2, du/dt = a v = 2, and 2 - 2 / 2 = 1.",
    hint="v = eps - x; u = a z changes along the path at the rate a v.",
)


exercise(
    "09-anchors",
    use=lambda share: float(share),
    right=0.5,
    mistakes={
        "With no row at r = t nothing says what the velocity is: the objective refuses it.": 0.0,
        "A quarter is not enough: look at its error after 200 updates, it runs away.": 0.25,
        "Three quarters work, and so does a smaller share.": 0.75,
    },
    praise="Right: below one half the network chases its own velocity.",
    hint="The share is one of 0, 0.25, 0.5 and 0.75.",
)
