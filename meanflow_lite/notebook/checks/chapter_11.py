"""Exercises of chapter 11: the adaptive weight, what it minimizes, and how the bias shrinks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

_ERROR = torch.tensor([0.2, 3.0, 40.0], dtype=torch.float64)


_NOISE = torch.tensor([-1.0, -1.0, -0.5, 0.5, 2.0], dtype=torch.float64)


def _value_and_gradient(weighted_loss: Callable[[Tensor, float, float], Tensor]) -> Tensor:
    error = _ERROR.clone().requires_grad_()
    loss = weighted_loss(error, 0.75, 0.1)
    (slope,) = torch.autograd.grad(loss.sum(), error, allow_unused=True)
    return torch.cat([loss.detach().reshape(-1), slope.reshape(-1)])


exercise(
    "11-weight",
    use=_value_and_gradient,
    right=lambda error, p, c: error / (error.detach() + c) ** p,
    mistakes={
        "The values are right, the gradient is not: the weight must be detached. As it stands, the "
        "gradient at p = 1 is c / (l + c)^2 and vanishes.": lambda error, p, c: (
            error / (error + c) ** p
        ),
        "The constant stands outside the power: the weight is (l + c)^-p.": lambda error, p, c: (
            error / (error.detach() ** p + c)
        ),
        "This is the weight at p = 1, whatever p is.": lambda error, p, c: (
            error / (error.detach() + c)
        ),
        "The weight multiplies instead of dividing.": lambda error, p, c: (
            error * (error.detach() + c) ** p
        ),
    },
    praise="Right: the value is nearly constant, the gradient is not.",
)


exercise(
    "11-two-values",
    right=(0.4, 0.0),
    tolerance=1e-3,
    mistakes={
        "Both are the mean here. With p = 1/2 the loss is E|v - m|, whose minimizer is a median.": (
            0.4,
            0.4,
        ),
        "The two are exchanged: p = 0 is the squared error, so it learns the mean.": (0.0, 0.4),
        "The mean of zero and one with probabilities 3/5 and 2/5 is 0.4; the second is right.": (
            0.5,
            0.0,
        ),
    },
    praise="Right: the mean, and the median, which is the more likely value.",
    hint="Minimize 0.6 |m| + 0.4 |1 - m| for the second.",
)


exercise(
    "11-bias",
    use=lambda bias_of: torch.stack([bias_of(_NOISE, 1.0, 4), bias_of(_NOISE, 0.5, 16)]),
    right=lambda e, p, dimension: -p / dimension * (e**3).mean() / (e**2).mean(),
    mistakes={
        "The sign: a long tail to the right is forgiven, so the estimate moves left.": (
            lambda e, p, dimension: p / dimension * (e**3).mean() / (e**2).mean()
        ),
        "This is the skewness, divided by the power 3/2 of the variance; the bias has the units of "
        "a velocity.": lambda e, p, dimension: (
            -p / dimension * (e**3).mean() / (e**2).mean() ** 1.5
        ),
        "The power p is missing.": lambda e, p, dimension: (
            -(e**3).mean() / (e**2).mean() / dimension
        ),
        "The dimension is missing.": lambda e, p, dimension: -p * (e**3).mean() / (e**2).mean(),
    },
    praise="Right: the third moment over the second, times p over D.",
)
