r"""Terminal velocity matching: with :math:`z_r^\theta = \mathrm{sg}[z_t - (t-r)u_\theta(z_t,r,t)]`,

.. math:: L = E\,\|u_\theta(z_t,r,t) - (t-r)\,\partial_r u_\theta(z_t,r,t)
          - \bar u(z_r^\theta,r,r)\|^2 + E\,\|u_\theta(z_s,s,s) - (\epsilon-x)\|^2.

Source: Zhou et al. 2025 (arXiv 2511.19797). Differentiating :math:`(t-r)u = \int_r^t v` in r gives
:math:`u - (t-r)\partial_r u = v(z_r, r)`: the velocity at the *end* of the jump. :math:`\bar u` is
a moving average, and the gradient flows through the derivative.

Not here: the published law of times (the gap a logit-normal, then r truncated below it) and the
network with RMS normalization throughout, on whose Lipschitz constant the bound of its authors
rests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meanflow_lite.domains import drawn_by
from meanflow_lite.fields import Field, resting
from meanflow_lite.guidance import Amplified, Guidance, LabelDropout
from meanflow_lite.identity import end_derivative
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.anchored import draw_anchored
from meanflow_lite.objectives.base import Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.objectives.settings import null_of
from meanflow_lite.paths import LogitNormal, Ordered, PairLaw, TimeLaw, bcast


@dataclass(frozen=True)
class TerminalVelocity(SingleStage):
    """Both terms in every row; s has its own ``law``. ``through_derivative`` as published."""

    pair: PairLaw = Ordered()
    law: TimeLaw = LogitNormal()
    target_ema: float | None = 0.99
    through_derivative: bool = True
    dropout: LabelDropout | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        null_of(self.guidance, self.dropout)
        if self.guidance is not None and (self.guidance.scales is None or self.guidance.kappa):
            raise ValueError(
                "terminal velocity matching tells the network its scale: give Guidance(null, "
                "scales=Scales(low, high)), without kappa"
            )

    @property
    def domain(self) -> Domain:
        """What the law of (r, t) draws, and r = t, which the second term trains."""
        return replace(drawn_by(self.pair, 0.0), equal=True)

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r, t and the time s of the flow matching term."""
        draw = draw_anchored(x, y, ctx, self.pair, 0.0, self.dropout)
        extra = {"s": ctx.time(self.law, x, "s")}
        if self.guidance is not None and self.guidance.scales is not None and draw.y is not None:
            omega = self.guidance.scales(ctx.uniform(x, "omega")).to(draw.t)
            extra["omega"] = torch.where(draw.y == self.guidance.null, 1.0, omega)
        return replace(draw, extra=extra)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The terminal term needs a network that can be differentiated twice."""
        s, omega = draw.extra["s"], draw.extra.get("omega")
        at = Draw(draw.x, draw.y, draw.eps, s, s)
        v, average = at.v, ctx.u_ema
        if self.guidance is not None:
            if omega is None or at.y is None:
                raise ValueError("guidance needs labels y: got None")
            null = torch.full_like(at.y, self.guidance.null)
            without = resting(Amplified(average, 1.0), at.z, s, s, null)
            v = bcast(omega, v) * v + (1 - bcast(omega, v)) * without
            u, average = Amplified(u, omega), Amplified(average, omega)
        velocity = squared_error(u(at.z, s, s, at.y), v)
        jump = self.terminal_error(u, draw, average)
        watch = {"velocity_error": velocity.detach(), "jump_error": jump.detach()}
        return Loss((jump + velocity) / (1.0 if omega is None else omega**2), watch)

    def terminal_error(self, u: Field, rows: Draw, average: Field) -> Tensor:
        """The squared defect of the velocity at the end of the jump, ``[B]``."""
        z, gap = rows.z, bcast(rows.t - rows.r, rows.z)
        value, slope = end_derivative(u, z, rows.r, rows.t, rows.y)
        if not self.through_derivative:
            slope = slope.detach()
        with torch.no_grad():
            target = average(z - gap * value.detach(), rows.r, rows.r, rows.y)
        return squared_error(value - gap * slope, target)
