"""Exercises of chapter 02: the order of a solver, and where one step lands."""

import math

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)


def _v(z: Tensor, t: float) -> Tensor:
    """A velocity that depends on both of its arguments, and on neither linearly."""
    return torch.sin(2 * z) * (1 + t) ** 2


exercise(
    "02-budget",
    use=lambda budget: [budget(0.4, 16, p, 0.01) for p in (1, 2, 4)],
    right=lambda e, nfe, p, wanted: nfe * (e / wanted) ** (1 / p),
    mistakes={
        "The order is used upside down: a higher order needs fewer evaluations, so it is a root "
        "that is taken.": lambda e, nfe, p, wanted: nfe * (e / wanted) ** p,
        "The ratio is upside down: a smaller error needs more evaluations.": (
            lambda e, nfe, p, wanted: nfe * (wanted / e) ** (1 / p)
        ),
        "That is the factor by which the evaluations grow; multiply `nfe` by it.": (
            lambda e, nfe, p, wanted: (e / wanted) ** (1 / p)
        ),
        "Do not round.": lambda e, nfe, p, wanted: math.ceil(nfe * (e / wanted) ** (1 / p)),
        "This is right for order one only: solve the equation for NFE with p in it.": (
            lambda e, nfe, p, wanted: nfe * e / wanted
        ),
    },
    praise="Right: for a tenth of the error Euler needs ten times the evaluations, RK4 less than "
    "twice.",
)


exercise(
    "02-midpoint",
    use=lambda midpoint: midpoint(_v, _Z, 0.9, 0.5),
    right=lambda v, z, t, r: z - (t - r) * v(z - (t - r) / 2 * v(z, t), (t + r) / 2),
    mistakes={
        "The velocity is taken at the middle place but at the time t: the clock runs too.": (
            lambda v, z, t, r: z - (t - r) * v(z - (t - r) / 2 * v(z, t), t)
        ),
        "The velocity is taken at the middle time but at the old place: go there first, with half "
        "an Euler step.": lambda v, z, t, r: z - (t - r) * v(z, (t + r) / 2),
        "The middle of the times is (t + r) / 2; (t - r) / 2 is half of the step.": (
            lambda v, z, t, r: z - (t - r) * v(z - (t - r) / 2 * v(z, t), (t - r) / 2)
        ),
        "The first step goes too far: the middle is half of the time away, (t - r) / 2.": (
            lambda v, z, t, r: z - (t - r) * v(z - (t - r) * v(z, t), (t + r) / 2)
        ),
        "This is the middle point; from z, take the whole step with the velocity there.": (
            lambda v, z, t, r: z - (t - r) / 2 * v(z, t)
        ),
        "The last step starts at the middle point; it must start at z and take the whole time.": (
            lambda v, z, t, r: (
                z - (t - r) / 2 * v(z, t) - (t - r) * v(z - (t - r) / 2 * v(z, t), (t + r) / 2)
            )
        ),
        "The sign is wrong: time runs down, so a step subtracts.": (
            lambda v, z, t, r: z + (t - r) * v(z + (t - r) / 2 * v(z, t), (t + r) / 2)
        ),
        "This is Euler's method: the velocity at the start.": (
            lambda v, z, t, r: z - (t - r) * v(z, t)
        ),
        "This is Heun's method, the mean of the velocities at both ends.": (
            lambda v, z, t, r: z - (t - r) / 2 * (v(z, t) + v(z - (t - r) * v(z, t), r))
        ),
    },
    praise="Right: order two with two evaluations, like Heun's method.",
)


exercise(
    "02-one-step",
    use=lambda one_step_error: [one_step_error(m, a) for m, a in ((0.0, 2.0), (3.0, 0.5))],
    right=lambda m, a: a,
    mistakes={
        "That is the mean square; take its root.": lambda m, a: a**2,
        "The mean cancels: one step lands on m, and the true point is m + a eps.": (
            lambda m, a: math.hypot(m, a)
        ),
        "That is the distance of one step to zero; compare it with the true end point.": (
            lambda m, a: abs(m)
        ),
        "One step lands on the mean, not on the truth.": lambda m, a: 0.0,
    },
    hint="One step lands on m; the true end point is m + a eps, with eps of variance one.",
    praise="Right: all of the spread of the data is lost.",
)
