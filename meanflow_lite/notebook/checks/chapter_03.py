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
    hint="Solve the first equation of (3.3) for the posterior mean; t[:, None] multiplies rows.",
)


exercise(
    "03-by-hand",
    right=0.43,
    tolerance=0.006,
    mistakes={
        "The weights are exchanged: the data point at 1 is the nearer one.": 0.82,
        "That is the displacement; divide it by the time.": 0.345,
        "That is the expected data point; the velocity is (z - it) / t.": 0.155,
        "The data points have moved: they stand at 1 - t and t - 1, which enters the ratio.": -0.19,
        "Divide the exponent by t squared: it is 0.31.": 0.50,
        "The sign is wrong: the velocity points from the data to z.": -0.43,
    },
    praise="Right: the weights are 0.58 and 0.42, the expected data point is 0.15.",
)

_OWN = torch.tensor([-1.0, -0.5, 0.2, 1.4, 3.0], dtype=torch.float64)
_AT = torch.linspace(-1.5, 2.4, 7, dtype=torch.float64)


def _velocity_of(keep, power, half):
    """(3.3) with the factor of the data in the weights, the power of t, and the factor two."""

    def velocity(examples, z, t):
        apart = z[:, None] - (keep(t)) * examples
        weight = (-(apart**2) / (half * t**power)).softmax(1)
        return (z - weight @ examples) / t

    return velocity


_RIGHT = _velocity_of(lambda t: 1 - t, 2, 2)

exercise(
    "03-own-data",
    use=lambda velocity_of: torch.cat(
        [torch.as_tensor(velocity_of(_OWN, _AT, t)).reshape(-1) for t in (0.3, 0.8)]
    ),
    right=_RIGHT,
    mistakes={
        "The data move towards the noise: at time t an example stands at (1 - t) x.": _velocity_of(
            lambda t: 1.0, 2, 2
        ),
        "The weights need the variance of the noise, t squared.": _velocity_of(
            lambda t: 1 - t, 1, 2
        ),
        "A factor of two is missing in the exponent of the bell curve.": _velocity_of(
            lambda t: 1 - t, 2, 1
        ),
        "That is the posterior mean of the data; the velocity is (z - it) / t.": (
            lambda x, z, t: z - t * _RIGHT(x, z, t)
        ),
        "Divide by the time: this is the displacement, not the velocity.": (
            lambda x, z, t: t * _RIGHT(x, z, t)
        ),
        "The sign is wrong: the velocity points away from the data.": (
            lambda x, z, t: -_RIGHT(x, z, t)
        ),
        "Every example counts the same here; those whose noise is likelier count more.": (
            lambda x, z, t: (z - x.mean()) / t
        ),
        "That takes the nearest example alone; the mean over all is softer.": (
            lambda x, z, t: (z - x[(z[:, None] - (1 - t) * x).abs().argmin(1)]) / t
        ),
    },
    praise="Right: a soft choice among the examples, and a hard one as t tends to 0.",
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
