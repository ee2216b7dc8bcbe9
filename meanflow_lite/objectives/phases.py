"""Two objectives one after the other: a first share of training on one, the rest on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.objectives.base import Context, Domain, Draw, Loss, Objective, SingleStage


@dataclass(frozen=True)
class Phases(SingleStage):
    """``first`` until ``progress`` reaches ``share``, then ``then``; weights and averages go on.

    For MeanFlow that starts from a flow matching network: a while without guidance, then with it.
    Both are of one stage and without averages in their targets.
    """

    first: Objective
    then: Objective
    share: float

    @property
    def domain(self) -> Domain:
        """What the second objective trains."""
        return self.then.domain

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Choose here, where nothing is compiled, and mark the rows of the first phase."""
        if float(ctx.progress) >= self.share:
            return self.then.draw(x, y, ctx)
        draw = self.first.draw(x, y, ctx)
        return replace(draw, extra={**draw.extra, "first": torch.ones_like(draw.t)})

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The loss of the phase that drew."""
        return (self.first if "first" in draw.extra else self.then)(u, draw, ctx)
