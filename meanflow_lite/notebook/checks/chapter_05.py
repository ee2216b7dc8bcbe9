"""Exercises of chapter 05: stretches that add up, ranks in both directions, a broken sampler."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from meanflow_lite.data.toys import mixture_a
from meanflow_lite.notebook.exercises import exercise

_X = torch.tensor([-2.4, -1.8, 0.1, 0.9, 2.4, 2.7], dtype=torch.float64)


_R = torch.tensor([0.0, 0.0, 0.2, 0.5, 0.3, 0.6], dtype=torch.float64)


_T = torch.tensor([1.0, 0.6, 0.9, 0.8, 1.0, 0.7], dtype=torch.float64)


def _field(z: Tensor, r: float, t: float) -> Tensor:
    """The exact average velocity of mixture A, with float times."""
    column = z[:, None]
    times = (torch.full_like(z, r), torch.full_like(z, t))
    return mixture_a().average(column, *times)[:, 0]


def _stretch(u, z, r, s, t):
    near = u(z, s, t)
    return ((t - s) * near + (s - r) * u(z - (t - s) * near, r, s)) / (t - r)


def _frozen(u, z, r, s, t):
    return ((t - s) * u(z, s, t) + (s - r) * u(z, r, s)) / (t - r)


def _plain(u, z, r, s, t):
    near = u(z, s, t)
    return (near + u(z - (t - s) * near, r, s)) / 2


def _swapped(u, z, r, s, t):
    near = u(z, s, t)
    return ((s - r) * near + (t - s) * u(z - (t - s) * near, r, s)) / (t - r)


def _away(u, z, r, s, t):
    near = u(z, s, t)
    return ((t - s) * near + (s - r) * u(z + (t - s) * near, r, s)) / (t - r)


def _wrong_length(u, z, r, s, t):
    near = u(z, s, t)
    return ((t - s) * near + (s - r) * u(z - (s - r) * near, r, s)) / (t - r)


def _displacement(u, z, r, s, t):
    return (t - r) * _stretch(u, z, r, s, t)


def _rough(z: Tensor, r: float, t: float) -> Tensor:
    """A field that is no average velocity, so that asking for the whole stretch is no answer."""
    return _field(z, r, t) + (t - r) * torch.cos(z)


exercise(
    "05-by-hand",
    right=(-1.98, 0.98),
    tolerance=0.004,
    mistakes={
        "u is the displacement, noise less data: -1 + 1.98.": (-1.98, -0.98),
        "A width of the group at -2 is 0.3 long, so 0.08 widths are 0.024.": ((-1.92, 0.92)),
        "The share 0.53 is a little more than half, so the point is above the mean of its group.": (
            (-2.02, 1.02)
        ),
        "Among the data the rank 0.16 is in the group at -2, which holds the first 30 percent.": (
            (-1.0, 0.0)
        ),
        "The two are exchanged: first the place, then the average velocity.": (0.98, -1.98),
    },
    praise="Right: 0.16 / 0.3 = 0.53, and -2 + 0.08 x 0.3 = -1.98.",
)

exercise(
    "05-stretch",
    use=lambda whole: whole(_rough, _X, 0.1, 0.4, 0.9),
    right=_stretch,
    mistakes={
        "That asks the field for the whole stretch: take two shorter ones, with a stop at s.": (
            lambda u, z, r, s, t: u(z, r, t)
        ),
        "The second stretch starts where the first one ends, at z_s, and not at z.": _frozen,
        "The stop is at z_s = z - (t - s) u: time runs down, so a jump subtracts.": _away,
        "The first stretch takes t - s, not s - r: that is how far z_s is from z.": _wrong_length,
        "A plain mean of the two: weight each by the time it takes.": _plain,
        "The weights are swapped: the stretch at z takes t - s.": _swapped,
        "This is the displacement: divide by the time, t - r.": _displacement,
    },
    praise="Right: displacements add, and the second stretch starts at z_s.",
)


_CDF_0 = mixture_a().cdf(_X[:, None], torch.zeros_like(_X))[:, 0]


exercise(
    "05-encode",
    use=lambda encode: encode(_X),
    right=lambda x: ndtri(_CDF_0),
    mistakes={
        "This is the rank of the data point: which noise has that rank?": lambda x: _CDF_0,
        "The rank must be taken at t = 0, where the data is, not at t = 1.": lambda x: x,
        "That is the rank of x among the noise: take it among the data, by cdf at t = 0.": ndtr,
        "That goes from noise to data; x is data, and the noise is wanted.": (
            lambda x: mixture_a().quantile(ndtr(x)[:, None], torch.zeros_like(x))[:, 0]
        ),
    },
    praise="Right: the rank at t = 0, looked up among the noise.",
    hint="ndtri takes a rank between zero and one: find that of x among the data first.",
)


exercise(
    "05-sampler",
    right="first",
    mistakes={
        "In two steps that one lands where it landed in one. Try the other.": "second",
        "In one step both are right, but two steps tell them apart.": "neither",
        "One of them lands in two steps where it landed in one.": "both",
    },
    praise="Right: it computes z - u for every jump, so its two half jumps are twice too long.",
)
