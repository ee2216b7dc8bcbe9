"""Exercises of chapter 00: the convention, and how to translate another one into it."""

import torch

from meanflow_lite.notebook.exercises import exercise

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)
_T = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)


def _theirs(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """A velocity field in the convention where s = 0 is noise and s = 1 is data."""
    return torch.sin(x) * (1 + s)[:, None]


exercise(
    "00-translate",
    use=lambda translate: translate(_theirs)(_Z, _T),
    right=lambda theirs: lambda z, t: -theirs(z, 1 - t),
    mistakes={
        "The time is turned round, the velocity is not: running time backwards changes the sign "
        "of a velocity.": lambda theirs: lambda z, t: theirs(z, 1 - t),
        "The sign is right, the time is not: their s = 1 - t.": lambda theirs: (
            lambda z, t: -theirs(z, t)
        ),
        "Their time is s = 1 - t, not t - 1.": lambda theirs: lambda z, t: -theirs(z, t - 1),
        "This returns their field unchanged.": lambda theirs: theirs,
    },
    praise="Right: s = 1 - t turns the time round, and d/dt = -d/ds turns the velocity.",
)

exercise(
    "00-halves",
    use=lambda whole: whole(_Z, _Z**2),
    right=lambda u1, u2: (u1 + u2) / 2,
    mistakes={
        "Displacements add, velocities do not: each half has half of the time.": lambda u1, u2: (
            u1 + u2
        ),
        "This is the second half alone.": lambda u1, u2: u2,
        "That is a difference; displacements in one direction add.": lambda u1, u2: u2 - u1,
    },
    hint="Write down the displacement of each half: half of the time, times its velocity.",
    praise="Right: each half contributes half of the time.",
)
