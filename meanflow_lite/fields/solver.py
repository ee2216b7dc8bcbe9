"""The average velocity of any smooth velocity, by an eighth-order Runge-Kutta method."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.integrate import DOP853
from torch import Tensor

from meanflow_lite.fields.base import Velocity
from meanflow_lite.paths import bcast

_A = [torch.from_numpy(row[:i].copy()) for i, row in enumerate(DOP853.A[: DOP853.n_stages])]
_B = torch.from_numpy(DOP853.B.copy())
_C = torch.from_numpy(DOP853.C[: DOP853.n_stages].copy())


def solve_average(
    v: Velocity,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    y: Tensor | None = None,
    *,
    steps: int,
    scale: float,
) -> Float[Tensor, " b *d"]:
    r""":math:`u = \frac{1}{t-r}\int_r^t v\,\mathrm{d}\tau`, a weighted mean of stage velocities.

    The coefficients are those of Dormand and Prince's method of order 8 (Hairer, Norsett &
    Wanner 1993). A step covers the share :math:`q_j` of the jump, and
    :math:`u = \sum_j q_j \sum_i b_i k_{ij}` has no division by t - r: rows with r = t are regular,
    and :func:`torch.func.jvp` goes through. Shapes: ``z [B, *data]``, ``r, t [B]``.

    Args:
        v: the velocity, called as ``v(z, t, y)``.
        z: the state at t.
        r: the end of the jump.
        t: its start.
        y: labels, handed to ``v``.
        steps: number of steps, each of twelve evaluations.
        scale: the shortest time on which ``v`` changes near t = 0 (the smallest standard
            deviation of the data); steps are shorter there.
    """
    shares = _shares(r.detach(), t.detach(), steps, scale)  # [B, steps]
    done = shares.cumsum(1) - shares
    fractions = done[..., None] + shares[..., None] * _C.to(shares)  # [B, steps, stages]
    gap = t - r
    widths = gap[:, None] * shares
    times = t[:, None, None] - gap[:, None, None] * fractions
    means = []
    for j in range(steps):
        h = bcast(widths[:, j], z)
        slopes: list[Tensor] = []
        for i, row in enumerate(_A):
            stage = z - h * _combine(row, slopes) if slopes else z
            slopes.append(v(stage, times[:, j, i], y))
        means.append(_combine(_B, slopes))
        z = z - h * means[-1]
    return (torch.stack(means, -1) * shares.reshape(len(z), *(1,) * (z.ndim - 1), -1)).sum(-1)


def _combine(coefficients: Tensor, slopes: list[Tensor]) -> Tensor:
    return torch.tensordot(coefficients.to(slopes[0]), torch.stack(slopes), 1)


def _shares(r: Tensor, t: Tensor, steps: int, scale: float) -> Tensor:
    r"""Shares :math:`q_j` of the jump, ``[B, steps]``, in even steps of :math:`\sinh^{-1}(t/s)`.

    With data of width s the velocity has its complex poles at :math:`t = \pm is` and changes on
    the scale :math:`\sqrt{t^2 + s^2}`; even steps in this variable follow it. The mesh changes
    the error only, so no derivative goes through it.
    """
    even = torch.linspace(0.0, 1.0, steps + 1, dtype=t.dtype, device=t.device)
    start, stop = torch.asinh(t / scale), torch.asinh(r / scale)
    times = scale * torch.sinh(start[:, None] - even * (start - stop)[:, None])
    gap = (t - r)[:, None]
    wide = gap > 1e-3
    graded = -times.diff(dim=1) / torch.where(wide, gap, 1.0)
    return torch.where(wide, graded, 1.0 / steps)
