"""Exercises of chapter 00: a jump by hand, the number of steps, a convention translated."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)
_T = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)

exercise(
    "00-landings",
    right=(0.0, -1.5),
    mistakes={
        "The two are exchanged: the step along the velocity comes first.": (-1.5, 0.0),
        "A step along the velocity lands on the mean of the data, here 0.": (-1.5, -1.5),
        "The point keeps its number of standard deviations, with its sign.": (0.0, 1.5),
        "The jump ends at three times the noise, not at three.": (0.0, -3.0),
        "-0.5 is where the journey begins; the data are three times as wide.": (0.0, -0.5),
    },
    praise="Right: every velocity step ends at the mean, the jump at three times the noise.",
)

exercise(
    "00-steps",
    right=296,
    mistakes={
        "That is the first number with an error below a tenth.": 29,
        "With that many the error is still just above one hundredth.": 295,
        "With one step less the error is also below one hundredth.": 297,
        "It is fewer than a hundred only for errors above three hundredths.": 100,
    },
    praise="Right: hundreds of evaluations, where one jump has no error at all.",
)


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
