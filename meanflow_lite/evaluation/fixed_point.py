r"""Is a field a stationary point of a training loss? The expected gradient, measured at the field.

Perturb a field along six test functions, :math:`u_\theta = u + \sum_k \theta_k f_k(z, r, t)`, and
take the derivative of the loss of every sample at :math:`\theta = 0`. At a fixed point

.. math:: g_k = E\left[\frac{\partial \ell}{\partial\theta_k}\right]_{\theta=0} = 0
          \quad\text{for all } k.

The mean over n samples has a standard error, so the claim is a number of standard errors, with no
training in it: a wrong derivative shows here long before it shows in a final error. Six functions
cannot prove that a field is stationary in every direction; they can prove that it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.data.batches import Distribution, seeded
from meanflow_lite.fields import Field, ProductMixture
from meanflow_lite.objectives.base import Context, Objective
from meanflow_lite.paths import bcast
from meanflow_lite.randomness import Random

#: ``f(z, r, t)`` with the shape of z; the times come broadcast to it.
TestFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Constant, linear, nonlinear, each alone and tied to a time: none is in the span of the others.
TEST_FUNCTIONS: tuple[TestFunction, ...] = (
    lambda z, r, t: torch.ones_like(z),
    lambda z, r, t: z,
    lambda z, r, t: torch.tanh(2 * z),
    lambda z, r, t: (t - r) * z,
    lambda z, r, t: (t - r) * torch.cos(2 * z),
    lambda z, r, t: t * torch.sin(z + r),
)


@dataclass(frozen=True)
class Gradient:
    """Mean and standard error of the gradient along each test function, ``[K]``."""

    mean: Float[Tensor, " k"]
    standard_error: Float[Tensor, " k"]

    @property
    def scores(self) -> Float[Tensor, " k"]:
        """Mean over standard error. A floor of 1e-9 keeps rounding errors from counting where the
        gradient vanishes in every sample, as it does for losses without noise.
        """
        return self.mean / (self.standard_error + 1e-9)

    @property
    def worst(self) -> float:
        """The largest score in size: below 4 at a fixed point, but for one seed in thousands."""
        return float(self.scores.abs().max())


class _Perturbed:
    """u + sum_k theta_k f_k with one theta a row, so that one backward pass is per sample.

    Objectives cut a batch into rows of several kinds. Labels are cut with it, so the label
    carries the number of the row: ``y = row * (num_classes + 1) + label``.
    """

    def __init__(
        self, u: Field, theta: Tensor, functions: Sequence[TestFunction], num_classes: int
    ) -> None:
        self.u, self.theta, self.functions, self.num_classes = u, theta, functions, num_classes

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        if y is None:
            raise ValueError("an objective must hand on its labels y: they number the rows here")
        row = y // (self.num_classes + 1)
        value = self.clean(z, r, t, y, **cond)
        for theta, f in zip(self.theta[row].unbind(1), self.functions, strict=True):
            value = value + bcast(theta, z) * f(z, bcast(r, z), bcast(t, z))
        return value

    def clean(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """The field itself, with the row number taken off the label."""
        label = y % (self.num_classes + 1) if self.num_classes and y is not None else None
        return self.u(z, r, t, label, **cond)


def gradient_at(
    objective: Objective,
    field: Field,
    distribution: Distribution,
    *,
    functions: Sequence[TestFunction] = TEST_FUNCTIONS,
    rows: int = 4096,
    batches: int = 4,
    progress: float = 0.5,
    teacher: Field | None = None,
    seed: int = 0,
) -> Gradient:
    r""":math:`E[\partial\ell/\partial\theta_k]` of an objective's loss at a field, in float64.

    The moving average in the targets is the field itself, and so is the teacher unless another
    is given; neither is perturbed, as neither takes a gradient in training. ``rows * batches``
    samples are drawn; ``progress`` is the share of training (it matters to objectives with a
    schedule). Label dropout would lose the row numbers: leave it out.

    Raises:
        ValueError: if the objective calls the field without the labels of its rows.
    """
    num_classes = getattr(distribution, "num_classes", None) or 0
    samples = []
    for batch in range(batches):
        x, y = distribution.sample(rows, seeded(seed, batch, 1))
        label = torch.zeros(rows, dtype=torch.long) if y is None or not num_classes else y
        theta = torch.zeros(rows, len(functions), dtype=torch.float64, requires_grad=True)
        u = _Perturbed(field, theta, functions, num_classes)
        frozen = u if teacher is None else _Perturbed(teacher, theta, (), num_classes)
        ctx = Context(u.clean, frozen.clean, torch.tensor(progress), Random(seed, batch))
        draw = objective.draw(x.double(), torch.arange(rows) * (num_classes + 1) + label, ctx)
        objective(u, draw, ctx).per_sample.sum().backward()
        assert theta.grad is not None
        samples.append(theta.grad)
    sample = torch.cat(samples)
    return Gradient(sample.mean(0), sample.std(0) / len(sample) ** 0.5)


class PushedMap:
    r"""Where a discrete objective ends that pushes :math:`\epsilon - x` through its network.

    Along decreasing ``times`` from 1 to 0, :math:`f_0(z) = z` and

    .. math:: f_t(z) = E\left[f_s\big(z - (t-s)(\epsilon - x)\big) \mid z_t = z\right]

    is the fixed point of consistency training on that grid and, on the geometric grid
    :math:`s = (1-\alpha)t`, of AlphaFlow with r = 0: neither is the flow map. Tables on a grid of
    1-D states, by Gauss-Hermite quadrature in every component. It is a field,
    :math:`u(z, 0, t) = (z - f_t(z))/t`, at the times of its grid and nowhere between.

    Raises:
        ValueError: if the data is not one-dimensional, or the times do not run from 1 to 0.
    """

    def __init__(self, data: ProductMixture, times: Sequence[float]) -> None:
        if data.dim != 1 or times[0] != 1 or times[-1] != 0:
            raise ValueError(
                f"one-dimensional data and times from 1 to 0 are needed: got {data.dim} "
                f"dimensions and times from {times[0]} to {times[-1]}"
            )
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
        grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)
        tables = [grid]
        for s, t in zip(times[::-1], times[-2::-1], strict=False):
            share, mean, var = data._posterior(grid[:, None], torch.full_like(grid, t))
            v = mean[:, 0, :, None] + var[:, 0, :, None].sqrt() * nodes  # [N, K, nodes]
            pushed = np.interp(grid[:, None, None] - (t - s) * v, grid, tables[-1])
            inner = (torch.from_numpy(pushed) * weights).sum(-1) / weights.sum()
            tables.append((share[:, 0] * inner).sum(-1))
        self.grid = grid
        self.tables = dict(zip(times[::-1], tables, strict=True))

    def __call__(
        self,
        z: Float[Tensor, " b 1"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Tensor | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b 1"]:
        """u(z, 0, t); ``ValueError`` for a time off the grid."""
        f = torch.full_like(z, torch.nan)
        for time, table in self.tables.items():
            rows = (t - time).abs() < 1e-6
            values = np.interp(z[rows, 0].double().cpu(), self.grid, table)
            f[rows, 0] = torch.from_numpy(values).to(z)
        if f.isnan().any():
            raise ValueError(f"t must be one of the {len(self.tables)} times of the grid")
        return (z - f) / bcast(torch.where(t > 0, t, 1.0), z)
