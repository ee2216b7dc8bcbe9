r"""Drifting: with :math:`\hat x = \epsilon - u_\theta(\epsilon,0,1)`,

.. math:: L = E\,\tfrac1D\|\hat x/\sigma - \mathrm{sg}[\hat x/\sigma + F(\hat x)]\|^2,\qquad
          F = \sum_R V_R/\mathrm{rms}(V_R),

.. math:: V_R(a) = \sum_{i,j} \tilde k(a, x_i)\,\tilde k(a, \hat x_j)\,(x_i - \hat x_j)/\sigma.

Source: Deng et al. 2026 (arXiv 2602.04770) and their ``drift_loss``. :math:`\tilde k` is the root
of a softmax over the row times a softmax over the column of :math:`-\|a-b\|/(R\,\bar d)`, generated
and real together, at least ``floor``; :math:`\bar d` is the mean distance and
:math:`\sigma = \bar d/\sqrt D`. It aims at a distribution, not at a flow map. The force has size
one by construction, so the loss says nothing of the progress: ``watch`` holds its raw size.

Not here: the encoder whose features the published distances are taken in, the memory bank that
holds more real samples of each class than a batch does, and its draws of several generated samples
a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from meanflow_lite.domains import classes_of
from meanflow_lite.fields import Field
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import ONE_JUMP, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.objectives.forces import drift, paired
from meanflow_lite.objectives.gathering import everywhere


@dataclass(frozen=True)
class Drifting(SingleStage):
    r"""Forces at several ``radii``, in units of the mean distance, within a class.

    ``omega`` above 1 guides: all real rows repel too, with such a weight that what the generator
    aims at is :math:`\omega p(x \mid y) - (\omega - 1) p(x)`. A class with a single row in a
    batch has nothing to compare: such rows are generated under the label of another one. A network
    without classes is compared with all of the data.

    Raises:
        ValueError: for radii that are not positive, ``omega`` below 1 or not finite, guidance
            without labels, and a batch of one row.
    """

    radii: tuple[float, ...] = (0.02, 0.05, 0.2)
    omega: float = 1.0
    floor: float = 1e-6
    domain: Domain = ONE_JUMP

    def __post_init__(self) -> None:
        if not self.radii or not all(0 < radius < math.inf for radius in self.radii):
            raise ValueError(f"radii are positive numbers: got {self.radii}")
        if not 1 <= self.omega < math.inf:
            raise ValueError(f"omega must be a finite number of at least 1: got {self.omega}")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor is an affinity in [0, 1): got {self.floor}")

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps; the only jump is from 1 to 0."""
        if len(x) < 2:
            raise ValueError("drifting compares the rows of a batch: it needs two or more")
        if y is None and self.omega != 1:
            raise ValueError("guidance needs labels y: got None")
        eps = ctx.normal(x)
        one = eps.new_ones(len(x))
        return Draw(x, y, eps, torch.zeros_like(one), one)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The loss is the squared force: its gradient, not its size, says where to go."""
        first = dist.get_rank() * len(draw.x) if dist.is_initialized() else 0
        mine = slice(first, first + len(draw.x))
        real = everywhere(torch.zeros_like(draw.t).long() if draw.y is None else draw.y)
        y = real if draw.y is None else paired(real)  # what is generated
        made = draw.eps - u(draw.eps, draw.r, draw.t, None if draw.y is None else y[mine])
        here, data = everywhere(made.detach().flatten(1).to(draw.x)), everywhere(draw.x.flatten(1))
        if classes_of(u) == 0:
            y = real = torch.zeros_like(y)
        force, sigma, raw = self.force(here, data, y, real)
        own = force[mine].view_as(made)
        scaled = made / sigma
        error = squared_error(scaled, scaled.detach() + own) / here.shape[1]
        return Loss(error, {"drift": raw[mine]})

    @torch.no_grad()
    def force(
        self, made: Tensor, data: Tensor, y: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """F ``[n, D]`` in units of sigma, sigma, and the raw size of V, ``[n]``, in data units."""
        same = y[:, None] == y
        count = same.sum(1, keepdim=True)
        away = [same, torch.ones_like(same)] if self.omega > 1 else [same]
        seen = torch.cat([*away, y[:, None] == real], 1)
        weight = seen.to(made)
        weight[:, len(y) : -len(real)] *= (self.omega - 1) * (count - 1) / len(real)
        seen[:, : len(y)].fill_diagonal_(False)  # a point does not repel itself
        negative = torch.cat([made, data]) if self.omega > 1 else made
        distance = (weight * torch.cdist(made, torch.cat([negative, data]))).sum() / weight.sum()
        sigma = distance.clamp(min=torch.finfo(made.dtype).tiny) / made.shape[1] ** 0.5
        points, negative, positive = (a / sigma for a in (made, negative, data))
        total, sizes = torch.zeros_like(made), []
        for radius in self.radii:
            unit = radius * made.shape[1] ** 0.5  # the mean distance, in units of sigma
            groups = same.to(torch.int64).argmax(1)
            v = drift(points, negative, positive, unit, seen, weight, groups, self.floor)
            total += v / v.square().mean().clamp(min=1e-8).sqrt()
            sizes.append((v * sigma).norm(dim=1))
        return total, sigma, torch.stack(sizes).mean(0)
