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


def _gaussian(z, r, t, mu, a):
    sigma_r, sigma_t = (torch.sqrt((1 - s) ** 2 * a**2 + s**2) for s in (r, t))
    return (z - (1 - r) * mu - sigma_r * (z - (1 - t) * mu) / sigma_t) / (t - r)


def _no_mean(z, r, t, mu, a):
    return _gaussian(z, r, t, 0.0, a)


def _fixed_mean(z, r, t, mu, a):
    return _gaussian(z - mu, r, t, 0.0, a)


def _variances(z, r, t, mu, a):
    var_r, var_t = ((1 - s) ** 2 * a**2 + s**2 for s in (r, t))
    return (z - (1 - r) * mu - var_r * (z - (1 - t) * mu) / var_t) / (t - r)


def _landing(z, r, t, mu, a):
    return z - (t - r) * _gaussian(z, r, t, mu, a)


exercise(
    "05-gaussian",
    use=lambda u: u(_X, _R, _T, 1.5, 0.5),
    right=_gaussian,
    mistakes={
        "The mean of z_t is missing: it is (1 - t) mu.": _no_mean,
        "The mean moves: it is (1 - t) mu at time t and (1 - r) mu at time r.": _fixed_mean,
        "That takes the ratio of variances: a rank counts standard deviations, so take roots.": (
            _variances
        ),
        "This is where the path is at time r: u is the displacement z - z_r over t - r.": _landing,
        "The sign is wrong: u is (z_t - z_r) / (t - r).": lambda *a: -_gaussian(*a),
    },
    praise="Right: the standard score is the rank of a Gaussian.",
)


exercise(
    "05-sampler",
    right="first",
    mistakes={
        "In two steps that one lands where it landed in one. Try the other.": "second",
        "In one step both are right, but two steps tell them apart.": "neither",
    },
    praise="Right: it computes z - u for every jump, so its two half jumps are twice too long.",
)
