r"""Flow matching: :math:`L = E\,\|u_\theta(z_t, t, t) - (\epsilon - x)\|^2`.

Source: Lipman et al. 2023; Liu et al. 2023; Albergo & Vanden-Eijnden 2023. The minimizer is the
marginal velocity :math:`v(z, t) = E[\epsilon - x \mid z_t = z]`.

Not here: the sources' other paths, their variance-preserving schedules, and couplings of data and
noise by optimal transport.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import INSTANT, Context, Domain, Draw, Loss, SingleStage
from meanflow_lite.paths import LogitNormal, TimeLaw


@dataclass(frozen=True)
class FlowMatching(SingleStage):
    """Regress the conditional velocity at r = t; ``law`` is the law of t."""

    law: TimeLaw = LogitNormal()
    dropout: LabelDropout | None = None
    domain: Domain = INSTANT

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps and one time a row."""
        eps, t = ctx.normal(x), ctx.time(self.law, x)
        if self.dropout is not None:
            y = self.dropout(y, ctx.uniform(x, "dropout"))
        return Draw(x=x, y=y, eps=eps, r=t, t=t, n_equal=len(x))

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """Squared error of u(z, t, t) to eps - x."""
        error = squared_error(u(draw.z, draw.t, draw.t, draw.y), draw.v)
        return Loss(error, {"velocity_error": error.detach()})
