r"""Improved MeanFlow: :math:`L = E\,w\,\|V_\theta - (\epsilon - x)\|^2`,

.. math:: V_\theta = u_\theta(z_t,r,t) + (t-r)\,\mathrm{sg}[\mathrm{d}u_\theta/\mathrm{d}t],

with :math:`\mathrm{d}/\mathrm{d}t` along the network's own velocity. Source: Geng et al. 2025b
(arXiv 2512.02012). The target no longer depends on the network. Along ``CONDITIONAL`` the gradient
is that of MeanFlow, so only the tangent is new: its noise is gone from the derivative.

Not here: label dropout by position, after which dropped rows take their tangent with the true label
(here they are drawn at random, and take it with the null label), and an auxiliary head that is read
at r = t (here at the r of its row). The transformer is a network of its own, ``in_context``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from meanflow_lite.fields import Conditioned, Field, field_rows, resting
from meanflow_lite.guidance import LabelDropout, OwnGuidance
from meanflow_lite.identity import total_derivative
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.objectives.anchored import Anchored, draw_anchored, watched
from meanflow_lite.objectives.base import Context, Draw, Loss
from meanflow_lite.objectives.velocities import JOINT, SecondOutput, Velocity, two_outputs
from meanflow_lite.paths import Ordered, PairLaw, bcast


@dataclass(frozen=True)
class ImprovedMeanFlow(Anchored):
    """Regress eps - x in every row, along ``tangent_velocity`` (default: u(z, t, t)).

    With ``auxiliary_head`` the tangent comes from a second output of the network,
    ``with_velocity(z, r, t, y) -> (u, v)``, trained by a term with its own weight.
    """

    pair: PairLaw = Ordered()
    p_equal: float = 0.5
    p: float = 1.0
    c: float = 0.01
    tangent_velocity: Velocity = JOINT
    auxiliary_head: bool = False
    dropout: LabelDropout | None = None
    guidance: OwnGuidance | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_equal == 0 and self.tangent_velocity.name == "joint" and not self.auxiliary_head:
            raise ValueError("the own velocity needs rows with r = t to be learned: p_equal is 0")
        if self.guidance is not None and self.tangent_velocity.name != "joint":
            raise ValueError("guidance is along the network's own velocity: leave JOINT")

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r and t, with the plain rows in front."""
        draw = draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)
        if self.guidance is None:
            return draw
        told = self.guidance.conditions(partial(ctx.uniform, x), draw.n_equal)
        return replace(draw, extra={name: value.to(draw.t) for name, value in told.items()})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One pass with a graph for all rows; with a head another without, along its velocity.

        Rows with r = t are flow matching: there V is u(z, t, t).
        """
        n, (_, jump), at = draw.n_equal, draw.split(), (draw.z, draw.r, draw.t)
        told, target, along = Conditioned(u, draw.extra), draw.v, None
        own = dudt = None
        if self.guidance is not None:
            v = partial(self._velocity, u)
            here, shift = self.guidance.velocities(v, draw.z, draw.t, draw.y, draw.extra)
            along, target = here[n:], target + shift
        if self.auxiliary_head:
            value, own = two_outputs(u)(*at, draw.y, **draw.extra)
            if len(jump.x):
                with torch.no_grad():
                    there = (jump.z, jump.r, jump.t, own[n:] if along is None else along, jump.y)
                    dudt = total_derivative(field_rows(told, slice(n, None)), *there, detach=True)[
                        1
                    ]
        elif len(jump.x):
            if along is None:
                along = self.tangent_velocity.jump(u, jump, ctx).detach()
            value, dudt = total_derivative(told, *at, along, draw.y, detach=True)
        else:
            value = told(*at, draw.y)
        if dudt is not None:
            value = torch.cat([value[:n], value[n:] + bcast(jump.t - jump.r, dudt) * dudt])
        error = squared_error(value, target)
        loss, watch = error * adaptive_weight(error, self.p, self.c), watched(draw, error)
        if own is not None:
            head = squared_error(own, target)
            loss = loss + head * adaptive_weight(head, self.p, self.c)
            watch["head_error"] = head.detach()
        return Loss(loss, watch)

    def _velocity(self, u: Field, z: Tensor, t: Tensor, y: Tensor, cond: dict) -> Tensor:
        return resting(Conditioned(SecondOutput(u) if self.auxiliary_head else u, cond), z, t, t, y)
