r"""Progressive distillation: in stage k = 1 ... K, with jumps of :math:`d = 2^{k-K}`,

.. math:: L = E\,\|u_\theta(z_t,t-d,t) - \tfrac12[u_T(z_t,t-\tfrac d2,t)
          + u_T(z_{t-d/2},t-d,t-\tfrac d2)]\|^2,\qquad z_{t-d/2} = z_t - \tfrac d2 u_T.

Source: Salimans & Ho 2022, in velocities and without their signal-to-noise weights. The teacher of
stage 1 is a flow matching network, asked at r = t; afterwards it is the student of the stage
before. Exact above its base, which is Euler with :math:`2^K` steps.

Not here: the weights by signal-to-noise ratio, the cosine schedule, and steps whose learning rate
falls to zero in each stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.guidance import LabelDropout
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import ONE_JUMP, Context, Domain, Draw, InOneLine, Loss
from meanflow_lite.paths import bcast


@dataclass(frozen=True)
class ProgressiveDistillation(InOneLine):
    """``halvings`` stages of equal length; what is left at the end is the jump from 1 to 0."""

    halvings: int = 5
    dropout: LabelDropout | None = None
    target_ema: float | None = None
    domain: Domain = ONE_JUMP

    def __post_init__(self) -> None:
        if self.halvings < 1:
            raise ValueError(f"halvings must be at least 1: got {self.halvings}")

    def stage(self, progress: float) -> int:
        """Stages 0 ... ``halvings`` - 1."""
        return min(int(progress * self.halvings), self.halvings - 1)

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps and t on the grid of the stage; ``ends`` is what the teacher is told as r."""
        eps = ctx.normal(x)
        stage = self.stage(float(ctx.progress))
        d = 2.0 ** (stage + 1 - self.halvings)
        t = d * ((ctx.uniform(x, "t") / d).floor() + 1)
        middle = t - d / 2
        ends = torch.stack([t, middle] if stage == 0 else [middle, t - d], 1)
        if self.dropout is not None:
            y = self.dropout(y, ctx.uniform(x, "dropout"))
        return Draw(x=x, y=y, eps=eps, r=t - d, t=t, extra={"middle": middle, "ends": ends})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """One jump of the student against two of the teacher."""
        if ctx.teacher is None:
            raise ValueError(
                "progressive distillation starts from a teacher: train a flow matching network "
                "and pass it to the trainer as teacher"
            )
        z, t, middle, ends = draw.z, draw.t, draw.extra["middle"], draw.extra["ends"]
        with torch.no_grad():
            first = ctx.teacher(z, ends[:, 0], t, draw.y)
            there = z - bcast(t - middle, z) * first
            second = ctx.teacher(there, ends[:, 1], middle, draw.y)
        error = squared_error(u(z, draw.r, t, draw.y), (first + second) / 2)
        return Loss(error, {"error": error.detach()})
