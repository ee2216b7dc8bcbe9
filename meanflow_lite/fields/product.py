r"""Products of one-dimensional Gaussian mixtures: the flow map by matching quantiles.

In one dimension trajectories cannot cross, so the flow keeps the rank of a point:
:math:`F_r(z_r) = F_t(z_t)` with :math:`F_t` the distribution function of :math:`z_t`. The flow
of a product is this in each coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import log_ndtr, ndtri

from meanflow_lite.fields.base import check_call, rows_where
from meanflow_lite.paths import bcast

#: Jumps shorter than this are averaged by quadrature: (z_t - z_r) / (t - r) would lose digits.
SHORT = 0.02
#: Gauss-Legendre nodes of that quadrature.
NODES = 6
#: Halvings of the bracket before the two Newton steps: 2^-36 of its width, then squared twice.
HALVINGS = 36


class ProductMixture:
    r"""Data with independent coordinates :math:`x_d \sim \sum_k w_{dk} N(\mu_{dk}, s_{dk}^2)`.

    Under the linear path :math:`z_t` is again a product of mixtures, with means
    :math:`(1-t)\mu_{dk}` and variances :math:`(1-t)^2 s_{dk}^2 + t^2`. With one coordinate this
    is the 1-D mixture. All work is done in float64; results have the dtype of ``z``.
    """

    num_classes: int | None = None

    def __init__(
        self,
        weights: Sequence[Sequence[float]] | Tensor,
        means: Sequence[Sequence[float]] | Tensor,
        stds: Sequence[Sequence[float]] | Tensor,
    ) -> None:
        """Three ``[D, K]`` tables: weights (>= 0, rows sum to 1; pad with 0), means, stds."""
        self.weights, self.means, self.stds = (
            torch.as_tensor(table, dtype=torch.float64) for table in (weights, means, stds)
        )
        if self.weights.ndim != 2 or not (
            self.weights.shape == self.means.shape == self.stds.shape
        ):
            raise ValueError(
                "weights, means and stds must all be [D, K]: got "
                f"{[tuple(table.shape) for table in (self.weights, self.means, self.stds)]}"
            )
        sums = self.weights.sum(1)
        if bool((self.weights < 0).any()) or not torch.allclose(sums, torch.ones_like(sums)):
            raise ValueError(
                f"weights must be >= 0 and each row sum to 1: got sums {sums.tolist()}"
            )
        if not bool((self.stds > 0).all() & (self.means + self.stds).isfinite().all()):
            raise ValueError("means must be finite, and stds positive and finite")
        self.dim = len(self.weights)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, None]:
        """``n`` float32 rows ``[n, D]``, and None for the labels."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)  # [D, n]
        noise = torch.randn(k.shape, generator=generator, dtype=torch.float64)
        return (self.means.gather(1, k) + self.stds.gather(1, k) * noise).T.float(), None

    def cdf(self, z: Float[Tensor, " b d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b d"]:
        r""":math:`F_t(z) = \sum_k w_k \Phi\big((z - (1-t)\mu_k)/s_{k,t}\big)`, per coordinate."""
        check_call(z, t, t, None, dim=self.dim, num_classes=None, cond={})
        lower = torch.ones_like(z, dtype=torch.float64)
        return self._log_tail(z.double(), t.double(), lower).exp().to(z)

    def quantile(self, p: Float[Tensor, " b d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b d"]:
        r""":math:`F_t^{-1}(p)` in each coordinate, for ``p`` in (0, 1) of shape ``[B, D]``."""
        check_call(p, t, t, None, dim=self.dim, num_classes=None, cond={})
        if not bool(((p > 0) & (p < 1)).all()):
            raise ValueError("p must be in (0, 1): quantiles of 0 and 1 are infinite")
        q, time = p.double(), t.double()
        side = torch.where(q <= 0.5, 1.0, -1.0)
        target = torch.where(side > 0, q.log(), torch.log1p(-q))
        normal = ndtri(q.detach())[..., None]
        return self._invert(target, time, side, normal, normal).to(p)

    def transport(
        self, z: Float[Tensor, " b d"], r: Float[Tensor, " b"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b d"]:
        r"""The flow map :math:`z_r = F_r^{-1}(F_t(z_t))`; ``z`` is :math:`z_t`, ``[B, D]``."""
        check_call(z, r, t, None, dim=self.dim, num_classes=None, cond={})
        return self._transport(z.double(), r.double(), t.double()).to(z)

    def velocity(
        self, z: Float[Tensor, " b d"], t: Float[Tensor, " b"], y: Tensor | None = None
    ) -> Float[Tensor, " b d"]:
        r""":math:`v(z, t) = E[\epsilon - x \mid z_t = z]`, in each coordinate; ``[B, D]``."""
        check_call(z, t, t, y, dim=self.dim, num_classes=None, cond={})
        return self._velocity(z.double(), t.double()).to(z)

    def average(
        self,
        z: Float[Tensor, " b d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Tensor | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b d"]:
        r""":math:`u = (z_t - F_r^{-1}(F_t(z_t)))/(t-r)`, per coordinate.

        For t - r below ``SHORT``, and at r = t, the same average by Gauss-Legendre quadrature of
        v along the flow map, so that u and its derivatives keep their digits.
        Shapes: ``z [B, D]``, ``r, t [B]``. Raises ``ValueError`` on other input.
        """
        check_call(z, r, t, y, dim=self.dim, num_classes=None, cond=cond)
        state, start, stop = z.double(), t.double(), r.double()
        # Both branches are evaluated on harmless times, so neither can poison a derivative.
        long = start - stop >= SHORT
        far = torch.where(long, stop, (start - SHORT).clamp(min=0.0))
        gap = torch.where(long, start - stop, SHORT)
        chord = (state - self._transport(state, far, start)) / bcast(gap, state)
        rows = rows_where(~long)
        near = torch.where(long, start, stop)[rows]
        short = self._quadrature(state[rows], near, start[rows])
        average = torch.zeros_like(state).index_copy(0, rows, short)
        return torch.where(bcast(long, state), chord, average).to(z)

    def velocity_variance(
        self, z: Float[Tensor, " b d"], t: Float[Tensor, " b"], y: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        r""":math:`\mathrm{tr\,Cov}(\epsilon - x \mid z_t = z)`, in each row.

        The floor of flow matching: :math:`E\|v_\theta - (\epsilon - x)\|^2` is
        :math:`E\|v_\theta - v\|^2` plus its expectation.
        """
        check_call(z, t, t, y, dim=self.dim, num_classes=None, cond={})
        share, v_k, var_k = self._posterior(z.double(), t.double())
        v = (share * v_k).sum(-1, keepdim=True)
        return (share * (var_k + (v_k - v) ** 2)).sum((-1, -2)).to(z)

    def _components(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of the components of z_t, ``[B, D, K]``."""
        b = bcast(t, z)[..., None]
        mean, std = self.means.to(z.device), self.stds.to(z.device)
        return (1 - b) * mean, (1 - b) ** 2 * std**2 + b**2

    def _log_density(self, z: Tensor, t: Tensor) -> Tensor:
        """Log of w_k N(z; m_k, s_k^2), ``[B, D, K]``."""
        mean, var = self._components(z, t)
        log_normal = -0.5 * ((z[..., None] - mean) ** 2 / var + var.log() + math.log(2 * math.pi))
        return self.weights.to(z.device).log() + log_normal

    def _posterior(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P(k | z), E[eps - x | z, k] and Var[eps - x | z, k], each ``[B, D, K]``."""
        share = self._log_density(z, t).softmax(-1)
        mean, var = self._components(z, t)
        b = bcast(t, z)[..., None]
        data_var = self.stds.to(z.device) ** 2
        slope = (b - (1 - b) * data_var) / var
        return share, (z[..., None] - mean) * slope - self.means.to(z.device), data_var / var

    def _velocity(self, z: Tensor, t: Tensor) -> Tensor:
        share, v_k, _ = self._posterior(z, t)
        return (share * v_k).sum(-1)

    def _log_tail(self, z: Tensor, t: Tensor, side: Tensor) -> Tensor:
        """Log F_t(z) where ``side`` is 1, log (1 - F_t(z)) where it is -1; ``[B, D]``."""
        mean, var = self._components(z, t)
        score = side[..., None] * (z[..., None] - mean) / var.sqrt()
        return torch.logsumexp(self.weights.to(z.device).log() + log_ndtr(score), -1)

    def _transport(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        lower = self._log_tail(z.detach(), t.detach(), torch.ones_like(z))
        # The smaller tail: near F = 1 a float cannot tell quantiles apart, but log(1 - F) can.
        side = torch.where(lower <= math.log(0.5), 1.0, -1.0)
        mean, var = self._components(z.detach(), t.detach())
        score = (z.detach()[..., None] - mean) / var.sqrt()
        low, high = score.amin(-1, keepdim=True), score.amax(-1, keepdim=True)
        return self._invert(self._log_tail(z, t, side), r, side, low, high)

    def _quadrature(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The mean of v along the flow map, by Gauss-Legendre nodes in time."""
        nodes, weights = (table.to(z)[:, None] for table in _legendre())
        times = (t - nodes * (t - r)).flatten()
        ends = self._transport(z.repeat(NODES, 1), times, t.repeat(NODES))
        v = self._velocity(ends, times).view(NODES, *z.shape)
        return (weights[..., None] * v).sum(0)

    def _invert(self, target: Tensor, r: Tensor, side: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Solve ``log_tail(z, r, side) = target``.

        ``low`` and ``high`` bound the standard score of every component at the root, so the root
        is between the smallest and the largest of the component quantiles. Bisection finds it
        without derivatives. Each Newton step then doubles the number of correct derivatives with
        respect to ``target`` and ``r``: this is the implicit function theorem, written as code.
        """
        mean, var = self._components(target.detach(), r.detach())
        a = (mean + low * var.sqrt()).amin(-1)
        b = (mean + high * var.sqrt()).amax(-1)
        goal, time = target.detach(), r.detach()
        for _ in range(HALVINGS):
            middle = 0.5 * (a + b)
            below = side * (self._log_tail(middle, time, side) - goal) < 0
            a, b = torch.where(below, middle, a), torch.where(below, b, middle)
        z = 0.5 * (a + b)
        for _ in range(2):
            tail = self._log_tail(z, r, side)
            slope = side * (torch.logsumexp(self._log_density(z, r), -1) - tail).exp()
            z = z - (tail - target) / slope
        return z


def _legendre() -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)
