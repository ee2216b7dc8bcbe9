"""Exercises of chapter 01: a stretch by hand, a field that widens a crowd, fields on a circle."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

exercise(
    "01-stretch",
    right=-2.0,
    mistakes={
        "More leaves than enters, so the number falls: the sign is turned round.": 2.0,
        "Density times velocity passes an end; the density alone does not.": 1.0,
        "The velocity alone does not say how many pass: multiply by the density.": -1.0,
        "Both ends cannot bring points in: what leaves at the right is subtracted.": 22.0,
        "You took the density of one end and the velocity of the other.": 7.0,
    },
    praise="Right: 5 x 2 = 10 enter, 4 x 3 = 12 leave.",
)

_Z = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)


def _try(widening) -> Tensor:
    return torch.as_tensor(widening(_Z, 2.0, -0.3))


exercise(
    "01-widening",
    use=_try,
    right=lambda z, sigma, dsigma: z * dsigma / sigma,
    mistakes={
        "k is z / sigma, not z: divide by sigma.": lambda z, sigma, dsigma: z * dsigma,
        "That velocity is the same everywhere; a point farther out moves faster.": (
            lambda z, sigma, dsigma: dsigma / sigma
        ),
        "The crowd widens where sigma grows: the sign is turned round.": (
            lambda z, sigma, dsigma: -z * dsigma / sigma
        ),
        "That is the place over sigma; the velocity is its change, dsigma.": (
            lambda z, sigma, dsigma: z / sigma
        ),
    },
    praise="Right: dz/dt = k dsigma/dt, with k = z / sigma.",
    hint="Differentiate z = k sigma, then replace k.",
)

exercise(
    "01-circle",
    use=lambda answer: "".join(sorted(str(answer).lower().replace(",", "").replace(" ", ""))),
    right="ac",
    mistakes={
        "Moving to the left keeps an even crowd even as well: look at c.": "a",
        "Moving to the right keeps an even crowd even as well: look at a.": "c",
        "Where sin rises, more leaves than enters: b makes the density uneven.": "abc",
        "What matters is whether p v changes from place to place; for b it does.": "b",
    },
    praise="Right: p v is the same everywhere for a and for c, so its derivative is zero.",
)
