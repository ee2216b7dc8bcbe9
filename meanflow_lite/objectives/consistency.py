r"""Consistency: :math:`L = E\,(t-s)^{-1}\,d\big(f_\theta(z_t,t), \mathrm{sg}\,f_\theta(z_s,s)\big)`

with :math:`f_\theta(z,t) = z - t\,u_\theta(z,0,t)`, the same x and :math:`\epsilon` in both,
:math:`z_s = z_t - (t-s)(\epsilon-x)`. Source: Song et al. 2023; Song & Dhariwal 2024. The boundary
:math:`f(z, 0) = z` holds by construction. As :math:`s \to t`, with d the squared error, the
gradient tends to that of MeanFlow at r = 0, times t. For s < t the conditional velocity is pushed
through the network and the exact u is not a fixed point: more steps, less bias.

Not here: the time law and weights of the sources' noise schedule (EDM), their distance LPIPS, the
dropout mask that ECT shares between the two evaluations: with dropout in the network the
difference of two masks is divided by t - s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.identity import in_float32, total_derivative
from meanflow_lite.losses import pseudo_huber, squared_error
from meanflow_lite.objectives.base import TO_DATA, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.objectives.schedules import Doubling
from meanflow_lite.paths import LogitNormal, TimeLaw, bcast


@dataclass(frozen=True)
class Consistency(SingleStage):
    """``steps`` is the grid's schedule; None is the continuous limit, by a derivative.

    ``huber`` is the constant of the pseudo-Huber distance; None is the squared error.
    """

    steps: Doubling | None = Doubling()
    law: TimeLaw = LogitNormal()
    huber: float | None = None
    dropout: LabelDropout | None = None
    domain: Domain = TO_DATA

    def __post_init__(self) -> None:
        if self.steps is None and self.huber is not None:
            raise ValueError("the continuous limit has no distance to choose: leave huber at None")

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps and t, rounded up to the grid; s is the grid point below."""
        eps, t, extra = ctx.normal(x), ctx.time(self.law, x), {}
        if self.steps is not None:
            n = self.steps(float(ctx.progress))
            index = (t * n).ceil().clamp(1, n)
            t, extra = index / n, {"s": (index - 1) / n}
        if self.dropout is not None:
            y = self.dropout(y, ctx.uniform(x, "dropout"))
        return Draw(x=x, y=y, eps=eps, r=torch.zeros_like(t), t=t, extra=extra)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """Two evaluations, or one with its derivative."""
        z, t, v = draw.z, draw.t, draw.v
        if "s" not in draw.extra:
            value, dudt = total_derivative(u, z, draw.r, t, v, draw.y, detach=True)
            error = squared_error(value, v - bcast(t, z) * dudt)
            return Loss(t * error, {"error": error.detach()})
        s = draw.extra["s"]
        with in_float32(z):
            value = self.to_data(u, z, t, draw.y)
            with torch.no_grad():
                target = self.to_data(u, z - bcast(t - s, z) * v, s, draw.y)
        error = squared_error(value, target)
        distance = error if self.huber is None else pseudo_huber(error, self.huber)
        return Loss(distance / (t - s), {"error": error.detach() / (t - s) ** 2})

    def to_data(self, u: Field, z: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        r"""The consistency function :math:`f(z,t) = z - t\,u(z,0,t)`."""
        return z - bcast(t, z) * u(z, torch.zeros_like(t), t, y)
