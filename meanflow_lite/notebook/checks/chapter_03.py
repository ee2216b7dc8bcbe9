"""Exercises of chapter 03: what the marginal velocity says about data, noise and density."""

import torch

from meanflow_lite.notebook.exercises import exercise

_Z = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)


_V = torch.cos(3 * _Z)


_T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


exercise(
    "03-posterior-mean",
    use=lambda posterior_mean: posterior_mean(_V, _Z, _T),
    right=lambda v, z, t: z - t[:, None] * v,
    mistakes={
        "The sign is wrong: the data lies against the velocity, which points to the noise.": (
            lambda v, z, t: z + t[:, None] * v
        ),
        "The time is missing: that is right at t = 1 only.": lambda v, z, t: z - v,
        "The time that is left to the data is t, not 1 - t.": (
            lambda v, z, t: z - (1 - t[:, None]) * v
        ),
        "That is the posterior mean of the noise.": lambda v, z, t: z + (1 - t[:, None]) * v,
    },
    praise="Right, and it is one Euler step to t = 0: an Euler step lands on a mean.",
    hint="Solve the first equation of (4.3) for the posterior mean; t[:, None] multiplies rows.",
)


_PLACES = torch.linspace(-1.5, 1.4, 8, dtype=torch.float64)


_TIMES = torch.linspace(0.3, 0.95, 8, dtype=torch.float64)


exercise(
    "03-two-points",
    use=lambda two_points: two_points(_PLACES, _TIMES),
    right=lambda z, t: (z - torch.tanh((1 - t) * z / t**2)) / t,
    mistakes={
        "The data moves to the noise: at time t the two points stand at 1 - t and -(1 - t), which "
        "enters the weights.": lambda z, t: (z - torch.tanh(z / t**2)) / t,
        "The weights need the variance of the noise, t squared.": (
            lambda z, t: (z - torch.tanh((1 - t) * z / t)) / t
        ),
        "A factor of two: tanh takes half of the logarithm of the ratio.": (
            lambda z, t: (z - torch.tanh(2 * (1 - t) * z / t**2)) / t
        ),
        "A sigmoid is the weight w of the point at 1; the mean of 1 and -1 is 2 w - 1.": (
            lambda z, t: (z - torch.sigmoid(2 * (1 - t) * z / t**2)) / t
        ),
        "That is the posterior mean of the data; the velocity is (z - it) / t.": (
            lambda z, t: torch.tanh((1 - t) * z / t**2)
        ),
        "Divide by the time: this is the way from the posterior mean, not the velocity.": (
            lambda z, t: z - torch.tanh((1 - t) * z / t**2)
        ),
        "The sign is wrong: the velocity points away from the data.": (
            lambda z, t: (torch.tanh((1 - t) * z / t**2) - z) / t
        ),
        "That takes the nearer point alone: the mean over both is softer.": (
            lambda z, t: (z - z.sign()) / t
        ),
    },
    praise="Right: a soft choice of the nearer point, and a hard one as t tends to 0.",
)


exercise(
    "03-score",
    use=lambda score_of: score_of(_V, _Z, _T),
    right=lambda v, z, t: -(z + (1 - t[:, None]) * v) / t[:, None],
    mistakes={
        "The sign is wrong: the score points to where data is likelier, against the noise.": (
            lambda v, z, t: (z + (1 - t[:, None]) * v) / t[:, None]
        ),
        "That is minus the posterior mean of the noise; divide by t.": (
            lambda v, z, t: -(z + (1 - t[:, None]) * v)
        ),
        "That is the posterior mean of the noise; the score is minus it, divided by t.": (
            lambda v, z, t: z + (1 - t[:, None]) * v
        ),
        "That uses the posterior mean of the data; the noise is z + (1 - t) v.": (
            lambda v, z, t: -(z - t[:, None] * v) / t[:, None]
        ),
        "The noise is z + (1 - t) v, not z + t v.": (
            lambda v, z, t: -(z + t[:, None] * v) / t[:, None]
        ),
    },
    praise="Right: velocity, posterior mean, noise and score are four names of one quantity.",
)
