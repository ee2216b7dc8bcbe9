r"""Where the velocity in a target or a tangent comes from.

The article takes :math:`v_t = v_\theta(z_t, t)` from a pretrained or jointly trained network;
the paper takes the conditional :math:`\epsilon - x`. Each is a :class:`Velocity`: one rule for
the plain rows (r = t), which anchor the field, and one for the jump rows (r < t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field, resting
from meanflow_lite.objectives.base import Context, Draw

Rule = Callable[[Field, Draw, Context], Tensor]


@dataclass(frozen=True)
class Velocity:
    """A source of velocities, ``[B, *data]``, for plain rows and for jump rows."""

    name: str
    plain: Rule
    jump: Rule


def _conditional(u: Field, rows: Draw, ctx: Context) -> Tensor:
    return rows.v


def _own(u: Field, rows: Draw, ctx: Context) -> Tensor:
    return resting(u, rows.z, rows.t, rows.t, rows.y)


def _teacher(u: Field, rows: Draw, ctx: Context) -> Tensor:
    if ctx.teacher is None:
        raise ValueError(
            "this objective takes its velocity from a teacher and there is none: train a flow "
            "matching network first and pass it to the trainer as teacher"
        )
    with torch.no_grad():
        return ctx.teacher(rows.z, rows.t, rows.t, rows.y)


#: :math:`\epsilon - x`, known without any network: the paper's choice.
CONDITIONAL = Velocity("conditional", _conditional, _conditional)
#: The network's own :math:`u_\theta(z, t, t)`, detached; plain rows regress :math:`\epsilon - x`.
JOINT = Velocity("joint", _conditional, _own)
#: A pretrained flow matching network on all rows.
TEACHER = Velocity("teacher", _teacher, _teacher)


def exact(velocity: Callable[..., Tensor]) -> Velocity:
    """The exact marginal velocity ``velocity(z, t, y)`` on all rows: for study."""

    def rule(u: Field, rows: Draw, ctx: Context) -> Tensor:
        return velocity(rows.z, rows.t, rows.y)

    return Velocity("exact", rule, rule)


@dataclass(frozen=True)
class SecondOutput:
    """The velocity of a network with a head for it, as a field."""

    wrapped: Field

    def __call__(self, *at: object, **cond: object) -> Tensor:
        """Evaluate, and keep the second output."""
        return two_outputs(self.wrapped)(*at, **cond)[1]


def two_outputs(u: Field) -> Callable[..., tuple[Tensor, Tensor]]:
    """``u.with_velocity``; ``ValueError`` if the network has no head for its velocity."""
    try:
        return u.with_velocity  # pyright: ignore[reportAttributeAccessIssue]
    except AttributeError:
        raise ValueError(
            "auxiliary_head needs a network with with_velocity(z, r, t, y) -> (u, v): "
            f"{type(u).__name__} has none"
        ) from None
