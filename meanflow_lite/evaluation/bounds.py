r"""What a residual says about samples: two bounds on the distance of one-step samples to the data.

**Eulerian.** Let :math:`z_t` be the exact path from noise :math:`z_1`, v the marginal velocity, and
:math:`R(z, t) = u_\theta + t\,\frac{\mathrm{d}u_\theta}{\mathrm{d}t} - v` the residual of the
MeanFlow identity at :math:`(z, 0, t)`. Along the path

.. math:: \frac{\mathrm{d}}{\mathrm{d}t}\big[z_t - t\,u_\theta(z_t, 0, t)\big] = -R(z_t, t).

At t = 0 the bracket is the exact endpoint, provided that :math:`t\,u_\theta \to 0`; at t = 1 it is
the one-step sample :math:`\hat x`. So :math:`\hat x - z_0 = -\int_0^1 R(z_t, t)\,\mathrm{d}t`, an
equality, and by Minkowski's inequality

.. math:: W_2 \le \big(E\|\hat x - z_0\|^2\big)^{1/2}
          \le \int_0^1 \big(E\|R(z_t, t)\|^2\big)^{1/2}\,\mathrm{d}t .

No Lipschitz constant occurs. :math:`z_t` on the exact path has the law of the interpolant, so the
right side needs only points where training evaluates the field: those with r = 0. A law of times
that never draws r = 0 says nothing about it.

**Lagrangian.** Jump from the noise to every r, :math:`\psi_r = z_1 - (1-r)u_\theta(z_1, r, 1)`, and
let :math:`\delta_r = \partial_r\psi_r - v(\psi_r, r)`. By Gronwall's inequality

.. math:: W_2 \le \int_0^1 e^{\Lambda_r}\big(E\|\delta_r\|^2\big)^{1/2}\,\mathrm{d}r,\qquad
          \Lambda_r = \int_0^r \sup_z \big(-\partial_z v(z, s)\big)\,\mathrm{d}s ,

at the points :math:`\psi_r` where the model itself lands. The statement that terminal velocity
matching proves is another: squared, with a Lipschitz constant of the network and a constant that
training does not reach (Zhou et al. 2025, Theorem 1). Flow map matching has both kinds of bound for
distillation (Boffi, Albergo, Vanden-Eijnden 2024). Both are derived here from scratch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from meanflow_lite.data.batches import Distribution, seeded
from meanflow_lite.fields import Field, ProductMixture
from meanflow_lite.identity import TANGENTS, Tangent, residual
from meanflow_lite.paths import bcast, interpolate


class ExactData(Distribution, Protocol):
    """Data with a known marginal velocity."""

    dim: int

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity v(z, t), ``[B, D]``."""
        ...


def unit_nodes(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Places and weights of Gauss and Legendre on [0, 1], in float64."""
    places, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((places + 1) / 2), torch.from_numpy(weights / 2)


def residual_norms(
    u: Field,
    data: ExactData,
    times: Float[Tensor, " k"],
    *,
    r: float = 0.0,
    rows: int = 1024,
    seed: int = 0,
    tangent: Tangent = TANGENTS["v01"],
) -> Float[Tensor, " k"]:
    r""":math:`(E\|R(z_t, r, t)\|^2)^{1/2}` at each time, over points of the interpolant.

    With the marginal velocity of ``data``, in float64. ``tangent`` chooses another derivative,
    for study.
    """
    norms = []
    for k, time in enumerate(times.tolist()):
        z, t, _ = _points(data, time, rows, seed, k)
        at = torch.full_like(t, r)
        gap = residual(u, z, at, t, data.velocity(z, t), tangent=tangent)
        norms.append(gap.flatten(1).square().sum(1).mean().sqrt().detach())
    return torch.stack(norms)


def eulerian_bound(
    u: Field,
    data: ExactData,
    *,
    nodes: int = 24,
    rows: int = 1024,
    seed: int = 0,
    tangent: Tangent = TANGENTS["v01"],
) -> float:
    """The right side of the Eulerian bound, in data units; any dimension, any labels left out."""
    times, weights = unit_nodes(nodes)
    norms = residual_norms(u, data, times, rows=rows, seed=seed, tangent=tangent)
    return float(weights @ norms)


def loss_norms(
    u: Field, data: ExactData, times: Float[Tensor, " k"], *, rows: int = 1024, seed: int = 0
) -> Float[Tensor, " k"]:
    r"""The root of MeanFlow's squared error at r = 0: what a training log holds.

    With :math:`J = I - t\,\partial_z u` and the conditional velocity :math:`v_c = \epsilon - x`,

    .. math:: E\|u - (v_c - t\,\tfrac{\mathrm{d}u}{\mathrm{d}t})\|^2
              = E\|R\|^2 + E\,\mathrm{tr}\big(J\,\mathrm{Cov}(v_c \mid z_t)\,J^\top\big),

    so in place of the residual it is a bound too, and one that cannot fall below the noise.
    """
    norms = []
    for k, time in enumerate(times.tolist()):
        z, t, v = _points(data, time, rows, seed, k)
        gap = residual(u, z, torch.zeros_like(t), t, v)
        norms.append(gap.flatten(1).square().sum(1).mean().sqrt().detach())
    return torch.stack(norms)


def certificate(
    u: Field, data: ExactData, *, nodes: int = 24, rows: int = 1024, seed: int = 0
) -> float:
    """The bound that a training log alone can certify: the loss in place of the residual."""
    times, weights = unit_nodes(nodes)
    return float(weights @ loss_norms(u, data, times, rows=rows, seed=seed))


def _points(data: ExactData, time: float, rows: int, seed: int, k: int):
    """Interpolant points at one time, the time as rows, and their conditional velocities."""
    x = data.sample(rows, seeded(seed, k, 1))[0].double()
    eps = torch.randn(x.shape, generator=seeded(seed, k, 0), dtype=torch.float64)
    t = torch.full_like(x[:, 0], time)
    return interpolate(x, eps, t), t, eps - x


def slices(n: int) -> Float[Tensor, " n 1"]:
    """One noise for each of ``n`` slices of equal probability, in one dimension."""
    ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.special.ndtri(ranks)[:, None]


def one_step_distance(u: Field, data: ProductMixture, points: int = 2000) -> tuple[float, float]:
    """Exact W2 of one-step samples in one dimension, and the distance of paired endpoints.

    By sorting: both distributions are represented by ``points`` noises of equal probability.
    """
    _one_dimension(data)
    noise = slices(points)
    one = torch.ones(points, dtype=torch.float64)
    with torch.no_grad():
        made = noise - u(noise, 0 * one, one)
    truth = data.transport(noise, 0 * one, one)  # increases with the noise: sorted already
    paired = (made - truth).square().mean().sqrt()
    best = (made[:, 0].sort().values - truth[:, 0]).square().mean().sqrt()
    return float(best), float(paired)


def expansion(data: ProductMixture, times: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    r""":math:`\Lambda_r` at ``times``, with the supremum over a grid on [-8, 8]; one dimension.

    By the midpoint rule with 64 steps.
    """
    _one_dimension(data)
    line = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]

    def rate(time: float) -> float:
        at = torch.full_like(line[:, 0], time)
        slope = jvp(lambda z: data.velocity(z, at), (line,), (torch.ones_like(line),))[1]
        return float(-slope.min())

    steps = 64
    rates = torch.tensor([rate((k + 0.5) / steps) for k in range(steps)], dtype=torch.float64)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), (rates / steps).cumsum(0)])
    grid = np.linspace(0, 1, steps + 1)
    return torch.from_numpy(np.interp(times.double().numpy(), grid, ends.numpy()))


def terminal_norms(
    u: Field, data: ProductMixture, times: Float[Tensor, " k"], points: int = 400
) -> Float[Tensor, " k"]:
    r""":math:`(E\|\delta_r\|^2)^{1/2}` at each time, where the model's own jumps land."""
    noise = slices(points)
    one = torch.ones(points, dtype=torch.float64)

    def landing(r: Tensor) -> Tensor:
        return noise - bcast(1 - r, noise) * u(noise, r, one)

    norms = []
    for time in times.tolist():
        place, rate = jvp(landing, (time * one,), (one,))[:2]
        gap = rate - data.velocity(place, time * one)
        norms.append(gap.square().sum(1).mean().sqrt().detach())
    return torch.stack(norms)


def lagrangian_bound(u: Field, data: ProductMixture, *, nodes: int = 24, points: int = 400):
    """The right side of the Lagrangian bound in data units, and the same without its factor."""
    _one_dimension(data)
    times, weights = unit_nodes(nodes)
    norms = terminal_norms(u, data, times, points)
    return float(weights @ (expansion(data, times).exp() * norms)), float(weights @ norms)


def _one_dimension(data: ProductMixture) -> None:
    if data.dim != 1:
        raise ValueError(f"this needs data in one dimension: got {data.dim}")
