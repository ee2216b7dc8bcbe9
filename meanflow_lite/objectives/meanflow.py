r"""MeanFlow, with :math:`\mathrm{d}/\mathrm{d}t` along the flow:

.. math:: L = E\,w\,\|u_\theta(z_t,r,t) - \mathrm{sg}[v - (t-r)\mathrm{d}u_\theta/\mathrm{d}t]\|^2.

Source: Geng, Deng, Bai, Kolter, He 2025, Algorithm 1 and equations 9 to 11, 19 to 22. The weight
is :math:`w = \mathrm{sg}[(\|\cdot\|^2 + c)^{-p}]`. With :math:`v = \epsilon - x` the exact average
velocity is a fixed point at ``p = 0``, because the target is affine in v.

Not here: nothing of the loss. Labels are dropped at random; ``LabelDropout(positional=True)`` drops
them by position, as the published code does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meanflow_lite.fields import Conditioned, Field
from meanflow_lite.guidance import Guidance, LabelDropout
from meanflow_lite.identity import Derivative, total_derivative
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.objectives.anchored import Anchored, draw_anchored, guided_rows, watched
from meanflow_lite.objectives.base import (
    Context,
    Draw,
    Loss,
)
from meanflow_lite.objectives.velocities import CONDITIONAL, Velocity
from meanflow_lite.paths import Ordered, PairLaw, bcast


@dataclass(frozen=True)
class MeanFlow(Anchored):
    """Every setting of the paper and of the article's pipeline; the defaults are the paper's.

    ``pair`` is the law of (r, t), ``p_equal`` the share of rows with r = t, ``p`` and ``c`` the
    adaptive weight. ``target_velocity`` is regressed on and ``tangent_velocity`` differentiated
    along. ``derivative`` is :func:`~meanflow_lite.identity.total_derivative` or
    :func:`~meanflow_lite.identity.finite_difference`, with settings bound by ``partial``.

    Raises:
        ValueError: if the own velocity is the target and no row with r = t anchors it.
    """

    pair: PairLaw = Ordered()
    p_equal: float = 0.75
    p: float = 1.0
    c: float = 1e-3
    target_velocity: Velocity = CONDITIONAL
    tangent_velocity: Velocity = CONDITIONAL
    derivative: Derivative = total_derivative
    stop_gradient: bool = True
    guidance: Guidance | None = None
    dropout: LabelDropout | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_equal == 0 and self.target_velocity.name == "joint":
            raise ValueError(
                "joint training needs rows with r = t to learn its velocity: p_equal is 0"
            )

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Step 1 of the pipeline: eps, r and t, with the plain rows in front."""
        draw = draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)
        if self.guidance is None or self.guidance.scales is None:
            return draw
        scales = self.guidance.scales(ctx.uniform(x, "omega"))
        return replace(draw, extra={"omega": scales})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """Step 6, for all rows. Only those with r < t pay for a derivative."""
        error = squared_error(*self.prediction_and_target(u, draw, ctx))
        return Loss(error * adaptive_weight(error, self.p, self.c), watched(draw, error))

    def prediction_and_target(self, u: Field, draw: Draw, ctx: Context) -> tuple[Tensor, Tensor]:
        r"""Steps 2 to 5: :math:`u_\theta` and :math:`v - (t-r)\,\mathrm{d}u_\theta/\mathrm{d}t`.

        One pass without a graph for guidance, and one with it for all rows.
        """
        told, n, (plain, jump) = _told(u, draw), draw.n_equal, draw.split()
        guide = guided_rows(self.guidance, told, draw)
        if len(jump.x):
            v = guide(self.target_velocity.jump(_told(u, jump), jump, ctx), slice(n, None))
            along = v
            if self.tangent_velocity is not self.target_velocity:
                along = guide(self.tangent_velocity.jump(_told(u, jump), jump, ctx), slice(n, None))
            at = (draw.z, draw.r, draw.t, along, draw.y)
            value, dudt = self.derivative(told, *at, detach=self.stop_gradient)
            targets = [v.detach() - bcast(jump.t - jump.r, v) * dudt]
        else:
            value, targets = told(draw.z, draw.t, draw.t, draw.y), []
        if n:
            v = self.target_velocity.plain(_told(u, plain), plain, ctx)
            targets.insert(0, guide(v, slice(n), value[:n]).detach())
        return value, torch.cat(targets)


def _told(u: Field, rows: Draw) -> Field:
    """The field under the scales that were drawn for the rows, if any were."""
    scales = rows.extra.get("omega")
    return u if scales is None else Conditioned(u, {"omega": scales})
