"""Exercises of chapter 16: the weights of a target, refits, three suspects."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.notebook.exercises import exercise

#: ``(u, z, t, v, y, null, scale, kappa)`` with the effective scale, to the velocity to regress on.
GuidedTarget = Callable[[Field, Tensor, Tensor, Tensor, Tensor, int, float, float], Tensor]


def _no_kappa_in_the_rest(
    u: Field, z: Tensor, t: Tensor, v: Tensor, y: Tensor, null: int, scale: float, kappa: float
) -> Tensor:
    omega = scale * (1 - kappa)
    own, none = u(z, t, t, y), u(z, t, t, torch.full_like(y, null))
    return omega * v + kappa * own + (1 - omega) * none


def _label_kept(
    u: Field, z: Tensor, t: Tensor, v: Tensor, y: Tensor, null: int, scale: float, kappa: float
) -> Tensor:
    omega = scale * (1 - kappa)
    own, none = u(z, t, t, y), u(z, t, t, y)
    return omega * v + kappa * own + (1 - omega - kappa) * none


def _not_divided(
    u: Field, z: Tensor, t: Tensor, v: Tensor, y: Tensor, null: int, scale: float, kappa: float
) -> Tensor:
    own, none = u(z, t, t, y), u(z, t, t, torch.full_like(y, null))
    return scale * v + kappa * own + (1 - scale - kappa) * none


#: One mistake each; the reader finds out which.
SUSPECTS: dict[int, GuidedTarget] = {1: _label_kept, 2: _not_divided, 3: _no_kappa_in_the_rest}


exercise(
    "16-weights",
    use=lambda three: [float(number) for number in three],
    right=(1.0, 0.75, -0.75),
    mistakes={
        "omega is the scale times 1 - kappa: 4 times 1/4.": (4.0, 0.75, -3.75),
        "The weights must sum to one: kappa is missing in the last.": (1.0, 0.75, 0.0),
        "The two evaluations of the network are exchanged.": (1.0, -0.75, 0.75),
        "That holds for kappa = 0; the own velocity is missing.": (4.0, 0.0, -3.0),
    },
    praise="Right: the noise of plain MeanFlow, and three weights that sum to one.",
    hint="omega, kappa, and what is left of one.",
)


exercise(
    "16-refits",
    use=lambda refits: [refits(k, s) for k, s in ((0.5, 0.01), (0.9, 0.01), (0.95, 0.2))],
    right=lambda kappa, share: math.ceil(math.log(share) / math.log(kappa)),
    mistakes={
        "One refit too few: round up, since the share must be reached.": (
            lambda kappa, share: math.floor(math.log(share) / math.log(kappa))
        ),
        "What is left after a refit is kappa times as much, not 1 - kappa times.": (
            lambda kappa, share: math.ceil(math.log(share) / math.log(1 - kappa))
        ),
        "The distance falls geometrically: after k refits kappa**k is left.": (
            lambda kappa, share: math.ceil((1 - share) / (1 - kappa))
        ),
    },
    praise="Right: kappa to the power of the number of refits is what is left.",
    hint="Solve kappa**k <= share for the smallest whole k.",
)


exercise(
    "16-suspects",
    right=("label kept", "not divided", "sum"),
    mistakes={
        "One and three are exchanged: look for the one that never asks the null label.": (
            "sum",
            "not divided",
            "label kept",
        ),
        "Two and three are exchanged: the weights of two do sum to one.": (
            "label kept",
            "sum",
            "not divided",
        ),
        "One and two are exchanged: the weight of v in one is the right one.": (
            "not divided",
            "label kept",
            "sum",
        ),
    },
    praise="Right: no guidance at all, twice the guidance, and velocities that are too long.",
    hint="Compare each row with the right weights, and add them up.",
)
