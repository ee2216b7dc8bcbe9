r"""Shortcut: :math:`L = E\,\|u_\theta(z_t,t-\delta,t) - (\epsilon-x)\|^2` in most rows, in others

.. math:: \|u_\theta(z_t,t-d,t) - \mathrm{sg}\,\tfrac12[\bar u(z_t,t-\tfrac d2,t)
          + \bar u(z_{t-d/2},t-d,t-\tfrac d2)]\|^2,\quad d \in \{2^0,\ldots,2\delta\},

with :math:`z_{t-d/2} = z_t - \tfrac d2\bar u` and the moving average :math:`\bar u`. Source: Frans
et al. 2024 (arXiv 2410.12557). Exact above its base, and the base is Euler with
:math:`1/\delta = 128` steps. The flow matching rows carry the finest label: there is no d = 0.

Not here: guidance at the finest level by bootstrap from the guided average, clipping of latents at
4, the logarithm of the width as the network's input, weight decay of 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.objectives.anchored import one_pass_error
from meanflow_lite.objectives.base import Context, Domain, Draw, Loss, SingleStage, dyadic
from meanflow_lite.paths import bcast, count_equal


@dataclass(frozen=True)
class Shortcut(SingleStage):
    r"""``levels`` halvings to :math:`\delta = 2^{-levels}`; rows ``[0, n_equal)`` are the base."""

    levels: int = 7
    p_base: float = 0.875
    target_ema: float | None = 0.999
    dropout: LabelDropout | None = None

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1: got {self.levels}")
        count_equal(self.p_base, 0)

    @property
    def domain(self) -> Domain:
        """Jumps of width 2**-k between multiples of it."""
        return dyadic(self.levels)

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, the level of each row, and t among the multiples of its width."""
        eps = ctx.normal(x)
        n_base = ctx.share(count_equal(self.p_base, len(x) * ctx.parts))
        level = (ctx.uniform(x, "level") * self.levels).floor()  # 0 ... levels - 1
        level[:n_base] = self.levels
        d = 2.0**-level
        t = d * ((ctx.uniform(x, "t") / d).floor() + 1)
        if self.dropout is not None:
            y = self.dropout(y, ctx.uniform(x, "dropout"))
        return Draw(x=x, y=y, eps=eps, r=t - d, t=t, n_equal=n_base)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One evaluation of all rows, and two of the average in the bootstrap rows."""
        return Loss(*one_pass_error(u, draw, lambda rows: self.bootstrap(rows, ctx)))

    def bootstrap(self, rows: Draw, ctx: Context) -> Tensor:
        """The mean of two half jumps of the moving average, ``[B, *data]``."""
        z, half = rows.z, (rows.t - rows.r) / 2
        middle = rows.t - half
        with torch.no_grad():
            first = ctx.u_ema(z, middle, rows.t, rows.y)
            second = ctx.u_ema(z - bcast(half, z) * first, rows.r, middle, rows.y)
        return (first + second) / 2
