"""A catalogue of real mistakes, each with the diagnostic that finds it.

Every bug is a small mutation of correct code. Its diagnostic is one number, at most ``limit`` for
the correct code and above it for the mistake; none of them is a final error, which ties within
any short budget.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.data.toys import gaussian
from meanflow_lite.evaluation.fixed_point import gradient_at
from meanflow_lite.fields import Field
from meanflow_lite.identity import TANGENTS, end_derivative, total_derivative
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.networks.mlp import MLP
from meanflow_lite.objectives import (
    AlphaFlow,
    Consistency,
    FlowMatching,
    MeanFlow,
    Objective,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
)
from meanflow_lite.objectives.base import Context, Draw, Loss
from meanflow_lite.objectives.schedules import Constant
from meanflow_lite.paths import Ordered, bcast
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import Times, check_walk, sample
from meanflow_lite.training.loop import LossModule, TrainConfig, Trainer


@dataclass(frozen=True)
class Bug:
    """A mistake: what it is, what a person sees, the code with and without it, how to find it."""

    name: str
    mistake: str
    symptom: str
    correct: Any
    broken: Any
    diagnostic: Callable[[Any], float]
    limit: float

    def caught(self, suspect: Any) -> bool:
        """Whether the diagnostic flags ``suspect``."""
        return self.diagnostic(suspect) > self.limit


# Diagnostics: each is small for correct code


def score_at_exact_u(objective: Objective) -> float:
    """The worst expected gradient at the exact u of N(0, 2^2), in standard errors."""
    data = gaussian()
    return gradient_at(objective, data.average, data, rows=8192).worst


def score_at_euler(objective: Objective) -> float:
    """The same at Euler's map of 8 steps, where :class:`Shortcut` with 3 levels is at rest."""
    data = gaussian()
    return gradient_at(objective, EulerMap(data.velocity, 8), data).worst


@dataclass(frozen=True)
class EulerMap:
    """The average velocity of Euler's method with ``n`` steps, for times on its grid: a field."""

    velocity: Callable[..., Tensor]
    n: int

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Walk from t to r and divide by the length."""
        at = z
        for k in range(self.n, 0, -1):
            time = torch.full_like(t, k / self.n)
            inside = bcast((time <= t + 1e-9) & (time > r + 1e-9), z)
            at = torch.where(inside, at - self.velocity(at, time) / self.n, at)
        return (z - at) / bcast(t - r, z)


def share_of_reversed_times(objective: Objective) -> float:
    """Share of drawn rows with r > t."""
    draw = objective.draw(torch.zeros(256, 1), None, _context())
    return float((draw.r > draw.t).double().mean())


def deviation_from_sum(objective: MeanFlow) -> float:
    """Distance from 2 of the loss's growth when every coordinate is written twice.

    A squared error that is summed over dimensions doubles; the constant c is meant for that.
    """
    plain = replace(objective, p=0.0)
    draw = plain.draw(gaussian().sample(64, seeded(0))[0], None, _context())
    twice = replace(draw, x=draw.x.repeat(1, 2), eps=draw.eps.repeat(1, 2))
    one, two = (plain(_zero, d, _context()).per_sample.mean() for d in (draw, twice))
    return float((two / one - 2).abs())


def jitter_of_samples(config: TrainConfig) -> float:
    """Movement of the sampled field over that of the trained weights' field, in steps of ten."""
    torch.manual_seed(0)
    trainer = Trainer(MLP(1, 16, 2), FlowMatching(), FromDistribution(gaussian()), config)
    z, t = torch.linspace(-3, 3, 64)[:, None], torch.full((64,), 0.5)
    seen = []
    for record in trainer.run():
        if record.step > config.steps // 2 and record.step % 10 == 0:
            with torch.no_grad():
                seen.append(torch.stack([net(z, t, t) for net in (trainer.field, trainer.net)]))
    sampled, raw = torch.stack(seen).diff(dim=0).square().mean((0, 2, 3)).sqrt()
    return float(sampled / raw)


def share_never_averaged(pick: Callable[[nn.Module], nn.Module]) -> float:
    """Share of the gradient's entries that DDP does not get to average over processes.

    A hook on DDP counts them; one process is enough to see whether it is called.
    """
    torch.manual_seed(0)
    objective, ctx = FlowMatching(), _context()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/a", rank=0, world_size=1)
        try:
            module = DistributedDataParallel(LossModule(MLP(1, 16, 2), objective))
            seen: list[int] = []
            module.register_comm_hook(seen, _count)
            draw = objective.draw(gaussian().sample(64, seeded(0))[0], None, ctx)
            pick(module)(draw, replace(ctx, random=None)).per_sample.mean().backward()
        finally:
            dist.destroy_process_group()
    return 1 - sum(seen) / sum(p.numel() for p in module.parameters())


def loss_spared_by_a_constant(objective: Consistency) -> float:
    """Share of the loss that a network is spared whose output is a constant (1: all of it)."""
    draw = objective.draw(gaussian().sample(512, seeded(0))[0], None, _context())
    constant, linear = (
        float(objective(u, draw, _context()).per_sample.mean()) for u in (_zero, _linear)
    )
    return 1 - min(1.0, constant / linear)


def change_as_alpha_shrinks(make: Callable[[float], AlphaFlow]) -> float:
    """Factor by which the gradient changes from alpha = 0.1 to 0.01, upwards or downwards."""
    sizes = []
    for objective in (make(0.01), make(0.1)):
        scale = torch.ones((), requires_grad=True)
        draw = objective.draw(gaussian().sample(2048, seeded(0))[0], None, _context())
        loss = objective(_Scaled(scale), draw, _context())
        sizes.append(float(torch.autograd.grad(loss.per_sample.mean(), scale)[0].abs()))
    return max(sizes[0] / sizes[1], sizes[1] / sizes[0])


def two_jumps_against_one(walk: Callable[[Field, Tensor, Times], Tensor]) -> float:
    """Distance between two jumps and one along the exact u, which agree."""
    eps = torch.randn(256, 1, generator=seeded(0), dtype=torch.float64)
    u = gaussian().average
    return float((walk(u, eps, (1.0, 0.5, 0.0)) - walk(u, eps, (1.0, 0.0))).abs().max())


# Mistakes


class _Reversed:
    def __call__(self, time: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        r, t = Ordered()(time)
        return t, r


class _WrongSign(MeanFlow):
    def prediction_and_target(self, u: Field, rows: Draw, ctx: Context) -> tuple[Tensor, Tensor]:
        value, target = super().prediction_and_target(u, rows, ctx)
        return value, 2 * rows.v - target  # v + (t - r) du/dt; plain rows have t = r


class _MeanOverDimensions(MeanFlow):
    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        summed = MeanFlow(self.pair, self.p_equal, p=0.0)(u, draw, ctx)
        error = summed.per_sample / draw.x[0].numel()
        return Loss(error * adaptive_weight(error, self.p, self.c), summed.watch)


class _NoBoundary(Consistency):
    def to_data(self, u: Field, z: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return u(z, torch.zeros_like(t), t, y)


class _InverseTwice(AlphaFlow):
    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        loss = super().__call__(u, draw, ctx)
        return Loss(loss.per_sample / draw.extra["alpha"], loss.watch)


class _WeightsSwapped(SplitMeanFlow):
    def split_target(self, u: Field, rows: Draw) -> Tensor:
        share, z = rows.extra["lambda"], rows.z
        s = (1 - share) * rows.t + share * rows.r
        with torch.no_grad():
            near = u(z, s, rows.t, rows.y)
            far = u(z - bcast(rows.t - s, z) * near, rows.r, s, rows.y)
        return bcast(share, z) * far + bcast(1 - share, z) * near


class _TimeNotAdvanced(Shortcut):
    def bootstrap(self, rows: Draw, ctx: Context) -> Tensor:
        z, half = rows.z, (rows.t - rows.r) / 2
        with torch.no_grad():
            first = ctx.u_ema(z, rows.t - half, rows.t, rows.y)
            there = z - bcast(half, z) * first
            second = ctx.u_ema(there, rows.t - half, rows.t, rows.y)  # still at t
        return (first + second) / 2


class _StartSign(TerminalVelocity):
    def terminal_error(self, u: Field, rows: Draw, average: Field) -> Tensor:
        z, gap = rows.z, bcast(rows.t - rows.r, rows.z)
        value, slope = end_derivative(u, z, rows.r, rows.t, rows.y)
        with torch.no_grad():
            target = average(z - gap * value.detach(), rows.r, rows.r, rows.y)
        return squared_error(value + gap * slope, target)


def _without_length(u: Field, eps: Tensor, times: Times) -> Tensor:
    z, walk = eps, check_walk(times)
    for t, r in zip(walk, walk[1:], strict=False):
        z = z - u(z, torch.full_like(z[:, 0], r), torch.full_like(z[:, 0], t))
    return z


def _whole(ddp: nn.Module) -> nn.Module:
    return ddp


def _inner(ddp: nn.Module) -> nn.Module:
    return ddp.module  # pyright: ignore[reportReturnType]


# What the diagnostics stand on


def _context() -> Context:
    return Context(_zero, None, torch.tensor(0.5), Random(0))


@dataclass(frozen=True)
class _Scaled:
    scale: Tensor

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        return self.scale * z


def _zero(z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor) -> Tensor:
    return 0 * z


def _linear(z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor) -> Tensor:
    return z


def _count(seen: list[int], bucket):  # DDP accepts no other annotation than its own, unquoted
    seen.append(sum(p.numel() for p in bucket.parameters()))
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


_MEANFLOW = MeanFlow(p=0.0, p_equal=0.25)
_BRIEF = TrainConfig(steps=300, batch=64, lr=3e-3, ema=(0.99,))


def _alphaflow(alpha: float) -> AlphaFlow:
    return AlphaFlow(Constant(alpha), p_equal=0.0)


def _inverse_twice(alpha: float) -> AlphaFlow:
    return _InverseTwice(Constant(alpha), p_equal=0.0)


def _tangent(name: str) -> MeanFlow:
    return replace(_MEANFLOW, derivative=partial(total_derivative, tangent=TANGENTS[name]))


CATALOG: dict[str, Bug] = {
    bug.name: bug
    for bug in (
        Bug(
            "partial derivative",
            "the tangent is (0, 0, 1): du/dt without the term of the moving state",
            "trains smoothly; one-step samples come from an average at a frozen state",
            _MEANFLOW, _tangent("001"), score_at_exact_u, 5.0,
        ),
        Bug(
            "tangent order",
            "the 1 stands at r instead of t: tangent (v, 1, 0) on a network that takes (z, r, t)",
            "trains smoothly; samples are blurred",
            _MEANFLOW, _tangent("v10"), score_at_exact_u, 5.0,
        ),
        Bug(
            "missing stop-gradient",
            "the gradient flows through the derivative in the target",
            "the loss falls further than it should, to a field that is too narrow; memory doubles",
            _MEANFLOW, replace(_MEANFLOW, stop_gradient=False), score_at_exact_u, 5.0,
        ),
        Bug(
            "wrong sign",
            "the target is v + (t - r) du/dt",
            "flow matching rows look right, one-step samples do not",
            _MEANFLOW, _WrongSign(p=0.0, p_equal=0.25), score_at_exact_u, 5.0,
        ),
        Bug(
            "r above t",
            "the two times are sorted the wrong way round",
            "the network is asked for jumps that it never saw",
            _MEANFLOW, replace(_MEANFLOW, pair=_Reversed()), share_of_reversed_times, 0.0,
        ),
        Bug(
            "mean instead of sum",
            "the squared error is averaged over dimensions before it is weighted",
            "the constant c outweighs the error by the number of dimensions; p does nothing",
            MeanFlow(), _MeanOverDimensions(), deviation_from_sum, 0.5,
        ),
        Bug(
            "no moving average",
            "samples are drawn from the weights of the last step",
            "the quality of samples jumps from one evaluation to the next",
            _BRIEF, replace(_BRIEF, ema=(0.0,)), jitter_of_samples, 0.7,
        ),
        Bug(
            "gradients not synchronized",
            "the loss is called on the module inside the DDP wrapper",
            "no error; every process trains its own network on its share of the data",
            _whole, _inner, share_never_averaged, 0.0,
        ),
        Bug(
            "jump without its length",
            "z - u in place of z - (t - r) u",
            "one step is right, two steps are far off",
            sample, _without_length, two_jumps_against_one, 1e-9,
        ),
        Bug(
            "shortcut: time not advanced",
            "the second half jump is asked at t instead of the middle",
            "small jumps are right, large ones are not",
            Shortcut(levels=3), _TimeNotAdvanced(levels=3), score_at_euler, 5.0,
        ),
        Bug(
            "terminal velocity: sign",
            "u + (t - r) du/dr: the sign that MeanFlow has in front of its derivative",
            "the velocity is right, one-step samples are not",
            TerminalVelocity(), _StartSign(), score_at_exact_u, 5.0,
        ),
        Bug(
            "alphaflow: inverse weight twice",
            "the adaptive weight replaces 1/alpha, and 1/alpha is kept as well",
            "training explodes as alpha falls",
            _alphaflow, _inverse_twice, change_as_alpha_shrinks, 5.0,
        ),
        Bug(
            "consistency: no boundary",
            "f(z, t) is the raw output: nothing says f(z, 0) = z",
            "the loss falls to zero and all samples are one point",
            Consistency(), _NoBoundary(), loss_spared_by_a_constant, 0.95,
        ),
        Bug(
            "splitmeanflow: weights swapped",
            "each half is weighted by the length of the other",
            "hidden by the symmetry of a uniform lambda, and by straight paths",
            SplitMeanFlow(p_equal=0.0), _WeightsSwapped(p_equal=0.0), score_at_exact_u, 5.0,
        ),
    )
}  # fmt: skip
