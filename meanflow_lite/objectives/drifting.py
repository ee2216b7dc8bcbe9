r"""Drifting: with :math:`\hat x = \epsilon - u_\theta(\epsilon,0,1)`,

.. math:: L = E\,\|\hat x - \mathrm{sg}[\hat x + V(\hat x)]\|^2,\qquad
          V(a) = \sum_{i,j} \tilde k(a, x_i)\,\tilde k(a, \hat x_j)\,(x_i - \hat x_j).

Source: Deng et al. 2026 (arXiv 2602.04770). :math:`\tilde k` is :math:`k = e^{-\|a-b\|/\tau}` over
the square root of its row sum times its column sum, generated and real together. It aims at a
distribution, not at a flow map; it vanishes where the two agree, and also where they are too far
apart to see each other. Missing here: feature encoder, memory bank, force normalization.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import ONE_JUMP, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.objectives.gathering import everywhere


def drift(
    points: Float[Tensor, " m d"],
    generated: Float[Tensor, " n d"],
    data: Float[Tensor, " k d"],
    tau: float,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, " m d"]:
    """V at ``points``: towards ``data``, away from ``generated``; changes sign when they swap.

    ``seen`` are masks ``[m, n]`` and ``[m, k]`` of the pairs that count: a point does not see
    itself, nor another class.
    """
    n = len(generated)
    log_k = -torch.cdist(points, torch.cat([generated, data])) / tau
    if seen is not None:
        log_k = log_k.masked_fill(~torch.cat(seen, 1), -1e6)  # finite: a row may see nothing
    log_k = log_k - (log_k.logsumexp(1, keepdim=True) + log_k.logsumexp(0, keepdim=True)) / 2
    k = log_k.exp() if seen is None else log_k.exp() * torch.cat(seen, 1)
    away, towards = k[:, :n], k[:, n:]
    pull = towards @ data * away.sum(1, keepdim=True)
    return pull - away @ generated * towards.sum(1, keepdim=True)


@dataclass(frozen=True)
class Drifting(SingleStage):
    """The sum of the drifts at several ``taus``, within a class where there are labels."""

    taus: tuple[float, ...] = (0.05, 0.2, 1.0)
    domain: Domain = ONE_JUMP

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps; the only jump is from 1 to 0."""
        eps = ctx.normal(x)
        one = eps.new_ones(len(x))
        return Draw(x=x, y=y, eps=eps, r=torch.zeros_like(one), t=one)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The loss is the squared drift: its size, not its gradient, falls at the solution."""
        made = draw.eps - u(draw.eps, draw.r, draw.t, draw.y)
        here, data = everywhere(made.detach().flatten(1).to(draw.x)), everywhere(draw.x.flatten(1))
        same = torch.ones(len(here), len(here), dtype=torch.bool, device=here.device)
        if draw.y is not None:
            y = everywhere(draw.y)
            same = y[:, None] == y[None, :]
        other = same & ~torch.eye(len(here), dtype=torch.bool, device=here.device)
        v = torch.stack([drift(here, here, data, tau, (other, same)) for tau in self.taus]).sum(0)
        first = dist.get_rank() * len(made) if dist.is_initialized() else 0
        own = v[first : first + len(made)].view_as(made)
        error = squared_error(made, made.detach() + own)
        return Loss(error, {"drift": error.detach().sqrt()})
