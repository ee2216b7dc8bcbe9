r"""Lagrangian self-distillation: with :math:`z_r^\theta = z_t - (t-r)u_\theta(z_t,r,t)`,

.. math:: L = E_{r=t}\|u_\theta(z_t,t,t) - (\epsilon - x)\|^2
          + E_{r<t}\|\partial_r z_r^\theta - \mathrm{sg}\,u_\theta(z_r^\theta,r,r)\|^2.

Source: Boffi, Albergo, Vanden-Eijnden 2025 (arXiv 2505.18825). The rate
:math:`\partial_r z_r^\theta = u_\theta - (t-r)\partial_r u_\theta` of the *end* of a jump is the
velocity where it ends: the Lagrangian rule of flow maps. Terminal velocity matching is the same
rule with a moving average as its target. At the exact u every jump term is zero, not only its
mean: the data enters by the rows with r = t alone.

Not here: the learned weights of (r, t), and the variants that match the Eulerian rule instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.identity import end_derivative
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.anchored import (
    Anchored,
    anchored_error,
    draw_anchored,
    velocity_error,
)
from meanflow_lite.objectives.base import Context, Draw, Loss
from meanflow_lite.paths import Below, PairLaw, Uniform, bcast


@dataclass(frozen=True)
class LagrangianSelfDistillation(Anchored):
    """``p_equal`` is the share of rows with r = t, which alone see the data.

    The gradient flows through the derivative of the jump. Into the target it flows only with
    ``stop_gradient=False``, which lets the velocity move towards the jump as well.

    Raises:
        ValueError: if no row has r = t: any velocity's flow map would then have loss zero.
    """

    pair: PairLaw = Below(Uniform())
    p_equal: float = 0.75
    stop_gradient: bool = True
    dropout: LabelDropout | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p_equal <= 1:
            raise ValueError(
                "Lagrangian self-distillation needs rows with r = t to learn its velocity: "
                f"p_equal is {self.p_equal}"
            )

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r and t, with the plain rows in front."""
        return draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The jump rows need a network that can be differentiated twice."""
        error, watch = anchored_error(
            draw, lambda rows: velocity_error(u, rows), lambda rows: self.jump_error(u, rows)
        )
        return Loss(error, watch)

    def jump_error(self, u: Field, rows: Draw) -> Tensor:
        """The squared difference of the end's rate and the velocity there, ``[B]``."""
        z, gap = rows.z, bcast(rows.t - rows.r, rows.z)
        value, slope = end_derivative(u, z, rows.r, rows.t, rows.y)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stop_gradient):
            target = u(z - gap * value, rows.r, rows.r, rows.y)
        return squared_error(value - gap * slope, target)
