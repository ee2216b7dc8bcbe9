r"""What the jump methods share: rows with r = t that anchor the field by flow matching.

Their loss reads :math:`E_{r=t}\|u_\theta(z,t,t) - (\epsilon - x)\|^2 + E_{r<t}[\ldots]`, and
each method is what stands in the second bracket.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.domains import Domain, drawn_by
from meanflow_lite.fields import Field
from meanflow_lite.guidance import Guidance, GuidedRows, LabelDropout
from meanflow_lite.losses import check_weight, squared_error
from meanflow_lite.objectives.base import Context, Draw, SingleStage
from meanflow_lite.objectives.settings import null_of
from meanflow_lite.paths import PairLaw, count_equal, equal_rows


def guided_rows(guidance: Guidance | None, u: Field, draw: Draw) -> GuidedRows:
    """``(v, rows, own) -> guided v``, its evaluations of the network done here, at once."""
    if guidance is None:
        return lambda v, rows, own=None: v
    at, scale = (draw.z, draw.t, draw.y), draw.extra.get("omega")
    return guidance.ahead(u, *at, n=draw.n_equal, scale=scale)


class Anchored(SingleStage):
    """What the jump methods share: their domain follows from ``pair`` and ``p_equal``.

    Raises:
        ValueError: for a share outside [0, 1], a weight's ``p`` or ``c`` that is negative or not
            finite, or two null labels.
    """

    pair: PairLaw
    p_equal: float

    def __post_init__(self) -> None:
        count_equal(self.p_equal, 0)
        check_weight(getattr(self, "p", 0.0), getattr(self, "c", 0.0))
        null_of(getattr(self, "guidance", None), getattr(self, "dropout", None))

    @property
    def domain(self) -> Domain:
        """What the law of (r, t) draws, and r = t where a share of rows has it."""
        return drawn_by(self.pair, self.p_equal)


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
