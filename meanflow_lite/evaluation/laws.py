r"""Judges that know the exact law of a toy, so that no second sample adds noise of its own.

A sample of n rows is compared with the *distribution* of a Gaussian mixture. The energy distance
needs two expectations, both integrals of one variable: for :math:`Y \sim N(m, \mathrm{diag}\,s^2)`

.. math:: E\|Y\| = \frac1{\sqrt\pi} \int_0^\infty \frac{1 - E e^{-q^2\|Y\|^2}}{q^2}\,\mathrm{d}q,
          \qquad E e^{-q^2\|Y\|^2} = \prod_d \frac{e^{-q^2 m_d^2 / (1 + 2 q^2 s_d^2)}}
          {\sqrt{1 + 2 q^2 s_d^2}} .

The sliced Wasserstein distance needs quantiles of projections, which are mixtures in one
dimension. The share of outliers needs the density. The three fail in different ways: the first
compares all pairs by a kernel, the second sorts, the third looks at one sample at a time.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.fields import Gaussian, GaussianMixture, ProductMixture


@dataclass(frozen=True)
class Law:
    """A mixture of Gaussians with diagonal covariances, in float64."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, " k d"]
    variances: Float[Tensor, " k d"]

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.means.shape[1]

    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d d"]]:
        """Mean and covariance of the whole mixture."""
        mean = self.weights @ self.means
        apart = self.means - mean
        spread = (self.weights[:, None] * apart).T @ apart
        return mean, spread + torch.diag(self.weights @ self.variances)

    def log_density(self, x: Float[Tensor, " n d"]) -> Float[Tensor, " n"]:
        """Natural logarithm of the density at each row, in nats."""
        apart = x.double()[:, None] - self.means  # [N, K, D]
        each = apart.square() / self.variances + (2 * math.pi * self.variances).log()
        return (self.weights.log() - each.sum(2) / 2).logsumexp(1)

    def projected(self, direction: Float[Tensor, " d"]) -> Law:
        """The law of the inner product with a unit vector, in one dimension."""
        along = direction.double()
        return Law(
            self.weights,
            (self.means @ along)[:, None],
            (self.variances @ along.square())[:, None],
        )

    def quantiles(self, ranks: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Values below which the given shares lie, for a law in one dimension.

        By interpolation of the distribution function on 40,001 points over twelve standard
        deviations of every component: good to about 1e-6 of the range.
        """
        if self.dim != 1:
            raise ValueError(f"quantiles need one dimension: this law has {self.dim}")
        std = self.variances[:, 0].sqrt()
        low = float((self.means[:, 0] - 12 * std).min())
        high = float((self.means[:, 0] + 12 * std).max())
        line = torch.linspace(low, high, 40_001, dtype=torch.float64)
        below = torch.special.ndtr((line[:, None] - self.means[:, 0]) / std) @ self.weights
        return torch.from_numpy(np.interp(ranks.double().numpy(), below.numpy(), line.numpy()))


def law_of(data: object) -> Law:
    """The exact law of a toy; ``ValueError`` for one that is no mixture of Gaussians."""
    if isinstance(data, GaussianMixture):
        variances = data.stds.square()[:, None].expand_as(data.means)
        return Law(data.weights, data.means, variances)
    if isinstance(data, ProductMixture):
        rows = [
            [(w, m, s) for w, m, s in zip(*axis, strict=True) if w > 0]
            for axis in zip(
                data.weights.tolist(), data.means.tolist(), data.stds.tolist(), strict=True
            )
        ]
        cells = list(itertools.product(*rows))
        table = torch.tensor(cells, dtype=torch.float64)  # [K, D, 3]
        return Law(table[..., 0].prod(1), table[..., 1], table[..., 2].square())
    if isinstance(data, Gaussian):
        one = torch.ones(1, dtype=torch.float64)
        mean, std = (torch.as_tensor(a).double().reshape(1, -1) for a in (data.mean, data.std))
        return Law(one, mean, std.square())
    raise ValueError(f"no exact law is known for {type(data).__name__}: a Gaussian mixture has one")


def mean_norm(
    offsets: Float[Tensor, " n k d"], variances: Float[Tensor, " k d"], nodes: int = 64
) -> Float[Tensor, " n k"]:
    r""":math:`E\|Y\|` for :math:`Y \sim N(m, \mathrm{diag}\,s^2)`, by the integral above.

    With :math:`q = x/(1-x)` it runs over [0, 1] and is smooth there, so ``nodes`` of
    Gauss-Legendre give seven digits at the sizes of the toys, and three for
    offsets ten times as large.
    """
    at, share = np.polynomial.legendre.leggauss(nodes)
    squares = offsets.double().square()
    total = torch.zeros(offsets.shape[:2], dtype=torch.float64)
    for x, weight in zip(((at + 1) / 2).tolist(), (share / 2).tolist(), strict=True):
        square = (x / (1 - x)) ** 2
        grown = 1 + 2 * square * variances
        log_mean = -torch.einsum("nkd,kd->nk", squares, square / grown)
        total -= weight / x**2 * torch.expm1(log_mean - grown.log().sum(1) / 2)
    return total / math.sqrt(math.pi)


def energy_to_law(samples: Float[Tensor, " n d"], law: Law) -> float:
    r""":math:`2 E\|a - b\| - E\|a - a'\| - E\|b - b'\|` with b from the exact law, in data units.

    The pairs :math:`a \ne a'` are different rows, so its mean is that of the energy distance of
    the two distributions (Szekely & Rizzo 2013): a perfect generator scores zero on average, and
    below zero in about half of all samples. No floor has to be taken off.
    """
    a = _rows(samples, law)
    towards = (mean_norm(a[:, None] - law.means, law.variances) @ law.weights).mean()
    pairs = law.weights[:, None] * law.weights
    apart = (law.means[:, None] - law.means).flatten(0, 1)[None]
    spread = (law.variances[:, None] + law.variances).flatten(0, 1)
    inner = mean_norm(apart, spread)[0] @ pairs.flatten()
    return float(2 * towards - _mean_gap(a) - inner)


def _mean_gap(a: Tensor) -> Tensor:
    """Mean distance of two different rows; by sorting in one dimension."""
    n = len(a)
    if a.shape[1] > 1:
        return torch.pdist(a).mean()
    rank = 2 * torch.arange(n, dtype=torch.float64) - (n - 1)
    return 2 * (a[:, 0].sort().values @ rank) / (n * (n - 1))


class SlicedWasserstein:
    r""":math:`(\mathrm{mean}_\theta\, W_2^2(\theta^\top a, \theta^\top b))^{1/2}` to the exact law.

    Twelve fixed directions over a half circle in two dimensions, the only one in one; in data
    units (Bonneel et al. 2015). n rows of the law itself are not at distance zero: compare with
    that floor.
    """

    def __init__(self, law: Law, n: int, directions: int = 12) -> None:
        if law.dim > 2:
            raise ValueError(f"directions are laid out in one or two dimensions, not {law.dim}")
        angle = math.pi * torch.arange(directions, dtype=torch.float64) / directions
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        self.law = law
        self.directions = circle if law.dim == 2 else torch.ones(1, 1, dtype=torch.float64)
        ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        self.wanted = torch.stack([law.projected(d).quantiles(ranks) for d in self.directions], 1)

    def __call__(self, samples: Float[Tensor, " n d"]) -> float:
        """The distance of ``n`` rows; ``ValueError`` for another number of rows."""
        a = _rows(samples, self.law)
        if len(a) != len(self.wanted):
            raise ValueError(f"built for {len(self.wanted)} rows: got {len(a)}")
        found = (a @ self.directions.T).sort(0).values
        return math.sqrt(float((found - self.wanted).square().mean()))


class OutlierShare:
    """Share of samples less likely than 99% of the data: 0.01 for the data itself."""

    def __init__(self, law: Law, n: int = 100_000, level: float = 0.01) -> None:
        generator = torch.Generator().manual_seed(0)
        k = torch.multinomial(law.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, law.dim, generator=generator, dtype=torch.float64)
        own = law.means[k] + law.variances[k].sqrt() * noise
        self.law, self.limit = law, law.log_density(own).quantile(level)

    def __call__(self, samples: Float[Tensor, " n d"]) -> float:
        """The share, in [0, 1]."""
        density = self.law.log_density(_rows(samples, self.law))
        return float((density < self.limit).double().mean())


def _rows(samples: Tensor, law: Law) -> Tensor:
    if samples.ndim != 2 or samples.shape[1] != law.dim or len(samples) < 2:
        raise ValueError(f"at least two rows [n, {law.dim}] are needed: got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise ValueError("a sample holds NaN or infinity: a distance would hide it")
    return samples.detach().double()
