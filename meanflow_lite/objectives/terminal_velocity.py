r"""Terminal velocity matching: with :math:`z_r^\theta = \mathrm{sg}[z_t - (t-r)u_\theta(z_t,r,t)]`,

.. math:: L = E\,\|u_\theta(z_t,r,t) - (t-r)\,\partial_r u_\theta(z_t,r,t)
          - \bar u(z_r^\theta,r,r)\|^2 + E\,\|u_\theta(z_s,s,s) - (\epsilon-x)\|^2.

Source: Zhou et al. 2025 (arXiv 2511.19797). Differentiating :math:`(t-r)u = \int_r^t v` in r gives
:math:`u - (t-r)\partial_r u = v(z_r, r)`: the velocity at the *end* of the jump. :math:`\bar u` is
a moving average, and the gradient flows through the derivative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.identity import end_derivative
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.anchored import draw_anchored, velocity_error
from meanflow_lite.objectives.base import ANY, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.paths import LogitNormal, Ordered, PairLaw, TimeLaw, bcast


@dataclass(frozen=True)
class TerminalVelocity(SingleStage):
    """Both terms in every row; s has its own ``law``. ``through_derivative`` as published."""

    pair: PairLaw = Ordered()
    law: TimeLaw = LogitNormal()
    target_ema: float | None = 0.99
    through_derivative: bool = True
    dropout: LabelDropout | None = None
    domain: Domain = ANY

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r, t and the time s of the flow matching term."""
        draw = draw_anchored(x, y, ctx, self.pair, 0.0, self.dropout)
        return Draw(
            draw.x, draw.y, draw.eps, draw.r, draw.t, extra={"s": ctx.time(self.law, x, "s")}
        )

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The terminal term needs a network that can be differentiated twice."""
        s = draw.extra["s"]
        velocity = velocity_error(u, Draw(draw.x, draw.y, draw.eps, s, s))
        jump = self.terminal_error(u, draw, ctx)
        watch = {"velocity_error": velocity.detach(), "jump_error": jump.detach()}
        return Loss(jump + velocity, watch)

    def terminal_error(self, u: Field, rows: Draw, ctx: Context) -> Tensor:
        """The squared defect of the velocity at the end of the jump, ``[B]``."""
        z, gap = rows.z, bcast(rows.t - rows.r, rows.z)
        value, slope = end_derivative(u, z, rows.r, rows.t, rows.y)
        if not self.through_derivative:
            slope = slope.detach()
        with torch.no_grad():
            target = ctx.u_ema(z - gap * value.detach(), rows.r, rows.r, rows.y)
        return squared_error(value - gap * slope, target)
