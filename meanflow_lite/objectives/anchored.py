r"""What the jump methods share: rows with r = t that anchor the field by flow matching.

Their loss reads :math:`E_{r=t}\|u_\theta(z,t,t) - (\epsilon - x)\|^2 + E_{r<t}[\ldots]`, and
each method is what stands in the second bracket.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import Context, Draw
from meanflow_lite.paths import PairLaw, count_equal, equal_rows


def draw_anchored(
    x: Tensor,
    y: Tensor | None,
    ctx: Context,
    pair: PairLaw,
    p_equal: float,
    dropout: LabelDropout | None = None,
) -> Draw:
    """Draw eps, r and t; the first rows, a share ``p_equal`` of the whole batch, have r = t."""
    eps = ctx.normal(x)
    r, t = pair(lambda law, stream: ctx.time(law, x, stream))
    n_equal = ctx.share(count_equal(p_equal, len(x) * ctx.parts))
    if dropout is not None:
        y = dropout(y, ctx.uniform(x, "dropout"))
    return Draw(x=x, y=y, eps=eps, r=equal_rows(r, t, n_equal), t=t, n_equal=n_equal)


def velocity_error(u: Field, rows: Draw) -> Tensor:
    r""":math:`\|u_\theta(z_t, r, t) - (\epsilon - x)\|^2`, ``[B]``: flow matching at r = t."""
    return squared_error(u(rows.z, rows.r, rows.t, rows.y), rows.v)


Rule = Callable[[Draw], Tensor]


def anchored_error(draw: Draw, plain: Rule, jump: Rule) -> tuple[Tensor, dict[str, Tensor]]:
    """Errors ``[B]``, plain rows by ``plain`` and the others by ``jump``; and what to watch."""
    first, second = draw.split()
    errors = [rule(rows) for rule, rows in ((plain, first), (jump, second)) if len(rows.x)]
    error = torch.cat(errors)
    return error, watched(draw, error)


def one_pass_error(u: Field, draw: Draw, target: Rule) -> tuple[Tensor, dict[str, Tensor]]:
    """The same where one evaluation serves all rows: plain ones regress v, others ``target``.

    It has the graph, and comes before the evaluations without one that a target needs.
    """
    value = u(draw.z, draw.r, draw.t, draw.y)
    plain, jump = draw.split()
    targets = [*([plain.v] if len(plain.x) else []), *([target(jump)] if len(jump.x) else [])]
    error = squared_error(value, torch.cat(targets))
    return error, watched(draw, error)


def watched(draw: Draw, error: Tensor) -> dict[str, Tensor]:
    """What a person looks at: the errors of all rows, of the plain ones and of the jump rows."""
    error = error.detach()
    jump_error = error[draw.n_equal :]
    return {"error": error, "velocity_error": error[: draw.n_equal], "jump_error": jump_error}
