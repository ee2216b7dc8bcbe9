"""Two objectives one after the other: a first share of training on one, the rest on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from meanflow_lite.fields import Field
from meanflow_lite.objectives.base import Context, Domain, Draw, Loss, Objective, SingleStage
from meanflow_lite.objectives.settings import null_of


@dataclass(frozen=True)
class Phases(SingleStage):
    """``first`` until ``progress`` reaches ``share``, then ``then``; weights and averages go on.

    For MeanFlow that starts from a flow matching network: a while without guidance, then with it.
    Both are of one stage and one player, and agree on the null label and on the moving average of
    their targets, if both have one.

    Raises:
        ValueError: if they are not, or if ``share`` is not inside (0, 1).
    """

    first: Objective
    then: Objective
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is where the second phase begins, in (0, 1): got {self.share}")
        for part in self.phases:
            name = type(part).__name__
            if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
                raise ValueError(f"{name} has parameters of its own, which no phase would train")
            if isinstance(part, Phases) or any(part.stage(k / 64) for k in range(65)):
                raise ValueError(f"{name} has stages of its own: train it by itself")
        nulls = [
            null_of(*(getattr(p, k, None) for k in ("guidance", "dropout"))) for p in self.phases
        ]
        rates = [part.target_ema for part in self.phases]
        for name, values in (("their null label", nulls), ("target_ema", rates)):
            if len({*values} - {None}) > 1:
                raise ValueError(f"the two phases differ in {name}: got {values[0]}, {values[1]}")

    @property
    def phases(self) -> tuple[Objective, Objective]:
        """Both, in their order."""
        return self.first, self.then

    @property
    def target_ema(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The rate of the phase whose targets use a moving average, if one does."""
        return self.then.target_ema if self.first.target_ema is None else self.first.target_ema

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
