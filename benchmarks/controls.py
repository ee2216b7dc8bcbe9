r"""Objectives that the bench needs as controls and the library does not teach.

A generator trained on the judge itself, a plain GAN, one round of reflow and distribution matching
distillation. Each is what its name says in its plainest form, for the toys of the bench.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from stacked import Stack
from torch import Tensor, nn

from meanflow_lite.losses import squared_error
from meanflow_lite.objectives import (
    INSTANT,
    ONE_JUMP,
    Context,
    Domain,
    Draw,
    FlowMatching,
    Loss,
)
from meanflow_lite.objectives.base import SingleStage
from meanflow_lite.paths import TimeLaw, Uniform, bcast, interpolate


def one_jump(x: Tensor, ctx: Context, **extra: Tensor) -> Draw:
    """Noise, and the jump from 1 to 0."""
    one = torch.ones_like(x[:, 0])
    return Draw(x=x, y=None, eps=ctx.normal(x), r=torch.zeros_like(one), t=one, extra=extra)


@dataclass(frozen=True)
class EnergyGenerator(SingleStage):
    r""":math:`2 E\|\hat x - x\| - E\|\hat x - \hat x'\|` over a batch: the judge as the loss."""

    domain: Domain = ONE_JUMP

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Noise; the only jump is from 1 to 0."""
        return one_jump(x, ctx)

    def __call__(self, u, draw: Draw, ctx: Context) -> Loss:
        """One value a generated row; the rows of a batch are compared with each other."""
        made = draw.eps - u(draw.eps, draw.r, draw.t, draw.y)
        n = len(made)
        # a small number under the root: its slope at zero is infinite
        apart = (made[:, None] - made).square().sum(2).add(1e-12).sqrt()
        towards = (made[:, None] - draw.x).square().sum(2).add(1e-12).sqrt()
        loss = 2 * towards.mean(1) - apart.sum(1) / (n - 1)
        return Loss(loss, {"energy": loss.detach()})


class PlainGan(nn.Module):
    r"""Hinge loss and a penalty on :math:`\|\nabla D\|^2` at the data; no teacher."""

    domain: Domain = ONE_JUMP
    target_ema: float | None = None

    def __init__(self, discriminator: Stack, penalty: float = 0.1, lr_scale: float = 1.0) -> None:
        super().__init__()
        self.discriminator, self.penalty, self.lr_scale = discriminator, penalty, lr_scale

    def stage(self, progress: float) -> int:
        """One stage."""
        return 0

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Noise; the only jump is from 1 to 0."""
        return one_jump(x, ctx)

    def score(self, x: Tensor, live: bool) -> Tensor:
        """D(x), with live parameters or detached ones."""
        tables = dict(self.discriminator.named_parameters())
        held = tables if live else {name: p.detach() for name, p in tables.items()}
        return torch.func.functional_call(self.discriminator, held, (x,))  # pyright: ignore

    def __call__(self, u, draw: Draw, ctx: Context) -> Loss:
        """Both players in one loss, kept apart by detaching."""
        made = draw.eps - u(draw.eps, draw.r, draw.t, draw.y)
        slope = torch.func.grad(lambda x: self.score(x, True).sum())(draw.x)
        real, fake = self.score(draw.x, True), self.score(made.detach(), True)
        critic = (1 - real).relu() + (1 + fake).relu() + self.penalty * slope.square().sum(1)
        return Loss(critic - self.score(made, False), {"real": real.detach()})


class DistributionMatching(nn.Module):
    r"""DMD: the generator moves along the difference of two denoisers, with
    :math:`\hat x = \epsilon - u(\epsilon, 0, 1)` and :math:`\hat z_s` its noised copy,

    .. math:: \hat x \leftarrow \hat x + w\,(\hat x_T(\hat z_s) - \hat x_F(\hat z_s)),\qquad
              w^{-1} = \mathrm{mean}\,|\hat x - \hat x_T| .

    T is the teacher; F, a flow matching network of its own, follows the generated samples. Source:
    Yin et al. 2023 (arXiv 2311.18828), and 2024 (2405.14867) for dropping the regression loss.
    """

    domain: Domain = ONE_JUMP
    target_ema: float | None = None

    def __init__(self, fake: Stack, lr_scale: float = 1.0, low: float = 0.02) -> None:
        super().__init__()
        self.fake, self.lr_scale, self.low = fake, lr_scale, low

    def stage(self, progress: float) -> int:
        """One stage."""
        return 0

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Noise, and for each player a time and a noise."""
        like = x[:, 0]
        extra = {
            "s": self.low + (1 - 2 * self.low) * ctx.uniform(like, "s"),
            "noise": ctx.normal(x, "noise of s"),
            "own time": ctx.uniform(like, "own time"),
            "own noise": ctx.normal(x, "own noise"),
        }
        return one_jump(x, ctx, **extra)

    def __call__(self, u, draw: Draw, ctx: Context) -> Loss:
        """The generator's step, and flow matching of the fake network on what it makes."""
        assert ctx.teacher is not None
        made = draw.eps - u(draw.eps, draw.r, draw.t, draw.y)
        s, own = draw.extra["s"], draw.extra["own time"]
        with torch.no_grad():
            there = interpolate(made, draw.extra["noise"], s)
            taught = there - bcast(s, there) * ctx.teacher(there, s, s)
            followed = there - bcast(s, there) * self.fake(there, s, s)
            weight = 1 / (made - taught).abs().mean(1, keepdim=True).clamp(min=1e-3)
            target = made + weight * (taught - followed)
        rows = Draw(made.detach(), None, draw.extra["own noise"], own, own)
        followed_error = squared_error(self.fake(rows.z, own, own), rows.v)
        return Loss(
            squared_error(made, target) / 2 + followed_error, {"fake": followed_error.detach()}
        )


@dataclass(frozen=True)
class Reflow(SingleStage):
    """Flow matching on pairs of noise and where a teacher takes it (Liu et al. 2023), one round.

    A batch holds the pairs: rows ``[2, *data]``, noise first. One Euler step then samples.
    """

    law: TimeLaw = Uniform()
    domain: Domain = INSTANT

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """Only a time a row: the noise of a row comes with its data."""
        eps, end = x.unbind(1)
        t = ctx.time(self.law, x)
        return Draw(x=end, y=None, eps=eps, r=t, t=t, n_equal=len(x))

    def __call__(self, u, draw: Draw, ctx: Context) -> Loss:
        """Flow matching."""
        return FlowMatching(self.law)(u, draw, ctx)
