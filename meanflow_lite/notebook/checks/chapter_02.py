"""Exercises of chapter 02: the order of a solver, a sampler, and where one step lands."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)


def _v(z: Tensor, t: float) -> Tensor:
    """A velocity that depends on both of its arguments, and on neither linearly."""
    return torch.sin(2 * z) * (1 + t) ** 2


exercise(
    "02-budget",
    right=32.0,
    mistakes={
        "That is order one: an order of two divides the error by four at each doubling.": (64.0),
        "That is the factor by which the evaluations grow; multiply 16 by it.": 2.0,
        "The ratio is upside down: a smaller error needs more evaluations.": 8.0,
        "The order is used upside down: take a root of the ratio, not a power.": 256.0,
        "That is order four.": 16 * 4**0.25,
    },
    praise="Right: twice the evaluations, a quarter of the error.",
    tolerance=1e-3,
)


def _walk(step: Callable[[Tensor, float, float], Tensor]) -> Callable[..., Tensor]:
    """A whole walk from one step ``(z, t, h)``."""

    def walk(v: Callable[[Tensor, float], Tensor], z: Tensor, n: int) -> Tensor:
        for k in range(n):
            z = step(z, 1 - k / n, 1 / n)
        return z

    return walk


exercise(
    "02-midpoint",
    use=lambda walk: torch.stack([torch.as_tensor(walk(_v, _Z, n)) for n in (1, 3)]),
    right=_walk(lambda z, t, h: z - h * _v(z - h / 2 * _v(z, t), t - h / 2)),
    mistakes={
        "The velocity is taken at the middle place but at the time t: the clock runs too.": _walk(
            lambda z, t, h: z - h * _v(z - h / 2 * _v(z, t), t)
        ),
        "The velocity is taken at the middle time but at the old place: go there first, with half "
        "an Euler step.": _walk(lambda z, t, h: z - h * _v(z, t - h / 2)),
        "Time runs down, so the middle is at t - h/2, not at t + h/2.": _walk(
            lambda z, t, h: z - h * _v(z - h / 2 * _v(z, t), t + h / 2)
        ),
        "The first step goes too far: the middle is half of the time away.": _walk(
            lambda z, t, h: z - h * _v(z - h * _v(z, t), t - h / 2)
        ),
        "These are half steps only: from z, take the whole step with the velocity in the "
        "middle.": _walk(lambda z, t, h: z - h / 2 * _v(z, t)),
        "The last step starts at the middle point; it must start at z.": _walk(
            lambda z, t, h: z - h / 2 * _v(z, t) - h * _v(z - h / 2 * _v(z, t), t - h / 2)
        ),
        "The sign is wrong: time runs down, so a step subtracts.": _walk(
            lambda z, t, h: z + h * _v(z + h / 2 * _v(z, t), t - h / 2)
        ),
        "This is Euler's method: the velocity at the start.": _walk(
            lambda z, t, h: z - h * _v(z, t)
        ),
        "This is Heun's method, the mean of the velocities at both ends.": _walk(
            lambda z, t, h: z - h / 2 * (_v(z, t) + _v(z - h * _v(z, t), t - h))
        ),
        "That is one step only; take n of them, each of length 1/n.": lambda v, z, n: (
            z - v(z - 0.5 * v(z, 1.0), 0.5)
        ),
    },
    praise="Right: order two with two evaluations, like Heun's method.",
)

exercise(
    "02-one-step",
    use=lambda errors: [errors(m, a) for m, a in ((0.0, 2.0), (3.0, 0.5))],
    right=lambda m, a: (a, math.hypot(m, a - 1)),
    mistakes={
        "The two are exchanged: first the Euler step, then the lazy sampler.": lambda m, a: (
            math.hypot(m, a - 1),
            a,
        ),
        "Those are the mean squares; take their roots.": lambda m, a: (a**2, m**2 + (a - 1) ** 2),
        "The mean cancels in the Euler step: it lands on m, and the truth is m + a eps.": (
            lambda m, a: (math.hypot(m, a), math.hypot(m, a - 1))
        ),
        "Doing nothing misses by m + (a - 1) eps: the same eps is in both.": lambda m, a: (
            a,
            math.sqrt(m**2 + a**2 + 1),
        ),
        "One step lands on the mean, not on the truth.": lambda m, a: (0.0, math.hypot(m, a - 1)),
    },
    hint="One step lands on m; the true end point is m + a eps, with eps of variance one.",
    praise="Right: one step loses all of the spread; for a near one, doing nothing is better.",
)
