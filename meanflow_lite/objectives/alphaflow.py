r"""AlphaFlow: with :math:`s = t - \alpha(t - r)`,

.. math:: L = E\,\alpha^{-1}
          \|u_\theta(z_t,r,t) - \mathrm{sg}[\alpha\tilde v + (1-\alpha)u_\theta(z_s,r,s)]\|^2

and :math:`z_s = z_t - (t-s)\tilde v`. Source: Zhang et al. 2025
(arXiv 2510.20771). :math:`\alpha = 1` is trajectory flow matching, :math:`\alpha = 1/2` with
:math:`\tilde v = u(z_t,s,t)` is twice Shortcut's bootstrap, :math:`\alpha \to 0` is MeanFlow.
For :math:`\alpha > 0` the conditional velocity is pushed *through* the network, so the exact u is
a fixed point in the limit only: the target is off by
:math:`\alpha^2(t-r)\,[\mathrm{d}u/\mathrm{d}t + \ldots]`.

Not here: the published weight, which divides by :math:`\|\Delta\|^2 + c` with the *mean* over
dimensions and without :math:`\alpha^2` before c (here c keeps its meaning as alpha falls), and the
clipping of the target at 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import Guidance, LabelDropout
from meanflow_lite.identity import in_float32
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.objectives.anchored import (
    Anchored,
    anchored_error,
    draw_anchored,
    guided_rows,
)
from meanflow_lite.objectives.base import Context, Draw, Loss
from meanflow_lite.objectives.meanflow import MeanFlow
from meanflow_lite.objectives.schedules import Sigmoid
from meanflow_lite.objectives.velocities import CONDITIONAL, Velocity
from meanflow_lite.paths import Ordered, PairLaw, bcast

#: alpha as a function of the share of training that is done
Alpha = Callable[[float], float]


@dataclass(frozen=True)
class AlphaFlow(Anchored):
    r"""``p`` and ``c`` weigh the error in velocity units, :math:`\|\Delta\|^2/\alpha^2`.

    The weight *replaces* :math:`\alpha^{-1}`: :math:`\alpha/(\|\Delta\|^2 + \alpha^2 c)` at
    ``p = 1``. Where alpha is 0 the loss is :class:`MeanFlow`'s.
    """

    alpha: Alpha = Sigmoid()
    pair: PairLaw = Ordered()
    p_equal: float = 0.5
    p: float = 1.0
    c: float = 1e-3
    velocity: Velocity = CONDITIONAL
    dropout: LabelDropout | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance is not None and self.guidance.scales is not None:
            raise ValueError("AlphaFlow is guided by one scale: give Guidance(null, omega, kappa)")

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r and t; alpha comes along as rows, so that the loss has no branch on it."""
        draw = draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)
        alpha = self.alpha(float(ctx.progress))
        return replace(draw, extra={"alpha": torch.full_like(draw.t, alpha)} if alpha else {})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One more evaluation in place of MeanFlow's derivative."""
        if "alpha" not in draw.extra:
            limit = MeanFlow(self.pair, self.p_equal, self.p, self.c, self.velocity, self.velocity)
            return replace(limit, guidance=self.guidance)(u, draw, ctx)
        guide, n = guided_rows(self.guidance, u, draw), draw.n_equal

        def plain(rows: Draw) -> Tensor:
            value = u(rows.z, rows.r, rows.t, rows.y)
            return squared_error(value, guide(rows.v, slice(n), value.detach()))

        def jump(rows: Draw) -> Tensor:
            return self._jump(u, rows, guide(self.velocity.jump(u, rows, ctx), slice(n, None)))

        error, watch = anchored_error(draw, plain, jump)
        alpha = draw.extra["alpha"].clone()
        alpha[: draw.n_equal] = 1.0
        return Loss(alpha * error * adaptive_weight(error, self.p, self.c), watch)

    def _jump(self, u: Field, rows: Draw, v: Tensor) -> Tensor:
        alpha, z = rows.extra["alpha"], rows.z
        s = rows.t - alpha * (rows.t - rows.r)
        w = bcast(alpha, z)
        with in_float32(z):
            value = u(z, rows.r, rows.t, rows.y)
            with torch.no_grad():
                target = w * v + (1 - w) * u(z - bcast(rows.t - s, z) * v, rows.r, s, rows.y)
            return squared_error(value, target) / alpha**2
