r"""Adversarial distillation, ADD-style: with :math:`\hat x = z_t - t\,u_\theta(z_t,0,t)`,

.. math:: L_G &= -E\,D(\hat x) + \lambda\,E\,c(s)\,\|\hat x - \mathrm{sg}\,\hat x_T(\hat z_s)\|^2,\\
          L_D &= E(1-D(x))_+ + E(1+D(\hat x))_+ + \gamma\,E\|\nabla D(x)\|^2,

:math:`\hat z_s = (1-s)\,\mathrm{sg}\,\hat x + s\epsilon',\ \hat x_T = \hat z_s - s v_T,\ c = 1-s`.
Source: Sauer et al. 2023 (arXiv 2311.17042). Not a flow map: an
exact student is pulled away.

Not here: the pretrained image features under the discriminator, its conditioning on images and
text, and a student that starts from the teacher's weights (pass one that does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from meanflow_lite.fields import Field
from meanflow_lite.losses import squared_error
from meanflow_lite.objectives.base import TO_DATA, Context, Domain, Draw, InOneLine, Loss
from meanflow_lite.paths import bcast, interpolate


class AdversarialDistillation(InOneLine, nn.Module):
    """Two players in one loss, kept apart by detaching. ``discriminator(x, y)`` returns ``[B]``,
    ``distill`` is lambda, ``penalty`` gamma, ``lr_scale`` the discriminator's learning rate over
    the generator's.
    """

    domain: Domain = TO_DATA
    target_ema: float | None = None

    def __init__(
        self,
        discriminator: nn.Module,
        distill: float = 2.5,
        penalty: float = 0.1,
        times: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not times or not all(0 < t <= 1 for t in times):
            raise ValueError(f"times of the student lie in (0, 1]: got {times}")
        for name, value in (("distill", distill), ("penalty", penalty), ("lr_scale", lr_scale)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0: got {value}")
        self.distill, self.penalty, self.lr_scale, self.times = distill, penalty, lr_scale, times
        self.discriminator = discriminator

    def stage(self, progress: float) -> int:
        """One stage."""
        return 0

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Draw eps, a student time t, the teacher's time s and its noise."""
        uniform = ctx.uniform(x, "t")
        t = uniform.new_tensor(self.times)[(uniform * len(self.times)).long()]
        extra = {"s": ctx.uniform(x, "s"), "noise": ctx.normal(x, "teacher's noise")}
        return Draw(x, y, ctx.normal(x), torch.zeros_like(t), t, extra=extra)

    def score(self, x: Tensor, y: Tensor | None, parameters: Mapping[str, Tensor]) -> Tensor:
        """D(x), ``[B]``, with the given parameters."""
        return torch.func.functional_call(self.discriminator, dict(parameters), (x, y))

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """L_G reaches the network only, L_D the discriminator only."""
        if ctx.teacher is None:
            raise ValueError("adversarial distillation needs a flow matching teacher: pass one")
        z, s, y = draw.z, draw.extra["s"], draw.y
        made = z - bcast(draw.t, z) * u(z, draw.r, draw.t, y)
        live = dict(self.discriminator.named_parameters())
        frozen = {name: p.detach() for name, p in live.items()}
        with torch.no_grad():
            there = interpolate(made, draw.extra["noise"].to(made), s)
            taught = there - bcast(s, z) * ctx.teacher(there, s, s, y)
        distilled = (1 - s) * squared_error(made, taught)
        generator = self.distill * distilled - self.score(made, y, frozen)
        slope = torch.func.grad(lambda x: self.score(x, y, live).sum())(draw.x)
        real, fake = self.score(draw.x, y, live), self.score(made.detach(), y, live)
        critic = (1 - real).relu() + (1 + fake).relu()
        critic = critic + self.penalty * slope.flatten(1).square().sum(1)
        watch = {"distilled": distilled.detach(), "real": real.detach(), "fake": fake.detach()}
        return Loss(generator + critic, watch)
