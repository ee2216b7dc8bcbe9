r"""Improved MeanFlow: :math:`L = E\,w\,\|V_\theta - (\epsilon - x)\|^2`,

.. math:: V_\theta = u_\theta(z_t,r,t) + (t-r)\,\mathrm{sg}[\mathrm{d}u_\theta/\mathrm{d}t],

with :math:`\mathrm{d}/\mathrm{d}t` along the network's own velocity. Source: Geng et al. 2025b
(arXiv 2512.02012). The target no longer depends on the network. Along ``CONDITIONAL`` the gradient
is that of MeanFlow, so only the tangent is new: its noise is gone from the derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.identity import total_derivative
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.objectives.anchored import draw_anchored, watched
from meanflow_lite.objectives.base import ANY, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.objectives.velocities import JOINT, Velocity
from meanflow_lite.paths import Ordered, PairLaw, bcast


@dataclass(frozen=True)
class ImprovedMeanFlow(SingleStage):
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
    domain: Domain = ANY

    def __post_init__(self) -> None:
        if self.p_equal == 0 and self.tangent_velocity.name == "joint" and not self.auxiliary_head:
            raise ValueError("the own velocity needs rows with r = t to be learned: p_equal is 0")

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, r and t, with the plain rows in front."""
        return draw_anchored(x, y, ctx, self.pair, self.p_equal, self.dropout)

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One pass with a graph for all rows; with a head another without, along its velocity.

        Rows with r = t are flow matching: there V is u(z, t, t).
        """
        n, (_, jump), at = draw.n_equal, draw.split(), (draw.z, draw.r, draw.t)
        own = dudt = None
        if self.auxiliary_head:
            value, own = _two_outputs(u)(*at, draw.y)
            if len(jump.x):
                with torch.no_grad():
                    there = (jump.z, jump.r, jump.t, own[n:], jump.y)
                    dudt = total_derivative(u, *there, detach=True)[1]
        elif len(jump.x):
            along = self.tangent_velocity.jump(u, jump, ctx).detach()
            value, dudt = total_derivative(u, *at, along, draw.y, detach=True)
        else:
            value = u(*at, draw.y)
        if dudt is not None:
            value = torch.cat([value[:n], value[n:] + bcast(jump.t - jump.r, dudt) * dudt])
        error = squared_error(value, draw.v)
        loss, watch = error * adaptive_weight(error, self.p, self.c), watched(draw, error)
        if own is not None:
            head = squared_error(own, draw.v)
            loss = loss + head * adaptive_weight(head, self.p, self.c)
            watch["head_error"] = head.detach()
        return Loss(loss, watch)


def _two_outputs(u: Field) -> Callable[..., tuple[Tensor, Tensor]]:
    try:
        return u.with_velocity  # pyright: ignore[reportAttributeAccessIssue]
    except AttributeError:
        raise ValueError(
            "auxiliary_head needs a network with with_velocity(z, r, t, y) -> (u, v): "
            f"{type(u).__name__} has none"
        ) from None
