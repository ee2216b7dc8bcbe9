r"""SplitMeanFlow: with :math:`s = (1-\lambda)t + \lambda r`,

.. math:: L = E\,\|u_\theta(z_t,r,t)
          - \mathrm{sg}[(1-\lambda)u_\theta(z_s,r,s) + \lambda u_\theta(z_t,s,t)]\|^2

and :math:`z_s = z_t - (t-s)\,u_\theta(z_t,s,t)`, and flow
matching at r = t. Source: Guo et al. 2025 (arXiv 2507.16884). The first term holds exactly on the
average of *any* velocity (a constant, for one): the rows with r = t choose which.

Not here: its application to speech, and settings for images, of which none were found published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.objectives.anchored import Anchored, draw_anchored, one_pass_error
from meanflow_lite.objectives.base import Context, Draw, Loss
from meanflow_lite.paths import Ordered, PairLaw, bcast


@dataclass(frozen=True)
class SplitMeanFlow(Anchored):
    """No derivative: one jump against two, split at a uniform share lambda of the interval."""

    pair: PairLaw = Ordered()
    p_equal: float = 0.5
    dropout: LabelDropout | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain.name not in ("any", "instant"):
            raise ValueError(
                "SplitMeanFlow asks the network for jumps between any two times, and this law "
                "draws only some: take Ordered or Below"
            )

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r, t and lambda."""
        draw = draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)
        return replace(draw, extra={"lambda": ctx.uniform(x, "lambda")})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One evaluation of all rows, and two more of the jump rows without a graph."""
        return Loss(*one_pass_error(u, draw, lambda rows: self.split_target(u, rows)))

    def split_target(self, u: Field, rows: Draw) -> Tensor:
        """The average over the two parts of the interval, ``[B, *data]``."""
        share, z = rows.extra["lambda"], rows.z
        s = (1 - share) * rows.t + share * rows.r
        w = bcast(share, z)
        with torch.no_grad():
            near = u(z, s, rows.t, rows.y)
            far = u(z - bcast(rows.t - s, z) * near, rows.r, s, rows.y)
        return (1 - w) * far + w * near
