"""Exercises of chapter 06: a running mean, a residual, the other end of the jump."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

exercise(
    "06-car",
    right=(4.0, 4.0, 12.0),
    mistakes={
        "The average is the distance t^3 over the time t; t^3 is the distance.": (8.0, 12.0, 32.0),
        "The average of a speed that grows is not half of it: integrate 3 t^2.": (6.0, 6.0, 18.0),
        "The rate is the derivative of the average t^2, not of the speed.": (4.0, 12.0, 28.0),
        "m + t m' has the factor t = 2 in front of m'.": (4.0, 4.0, 8.0),
        "That is the speed at t = 2, not the average.": (12.0, 12.0, 36.0),
    },
    praise="Right: the average is t^2, it rises at 2 t, and t^2 + 2 t^2 is the speed.",
)

_A = torch.tensor([[0.3, -1.2], [2.0, 0.7], [-0.4, 1.1]], dtype=torch.float64)
_B = torch.tensor([[1.5, 0.2], [-0.6, 0.9], [0.8, -2.0]], dtype=torch.float64)
_R = torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)
_T = torch.tensor([1.0, 0.6, 0.8], dtype=torch.float64)


def _u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return torch.sin(z) * (1 + t)[:, None] ** 2 + torch.cos(3 * r)[:, None]


def _with(
    direction: Callable, sign: int = 1, factor: Callable = lambda r, t: t - r, less: bool = True
) -> Callable:
    def residual(u: Callable, z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> Tensor:
        value, dudt = torch.func.jvp(u, (z, r, t), direction(z, r, t, v))[:2]
        return value + sign * factor(r, t)[:, None] * dudt - (v if less else 0)

    return residual


def _total(z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return v, torch.zeros_like(r), torch.ones_like(t)


exercise(
    "06-residual",
    use=lambda residual: residual(_u, _A, _R, _T, _B),
    right=_with(_total),
    mistakes={
        "The place is held fixed: that is the partial derivative. It moves with v.": _with(
            lambda z, r, t, v: (0 * v, torch.zeros_like(r), torch.ones_like(t))
        ),
        "The clock stands still: the last tangent is 1, for t.": _with(
            lambda z, r, t, v: (v, torch.zeros_like(r), torch.zeros_like(t))
        ),
        "r moves and t does not: the tangents are those of (z, r, t), in this order.": _with(
            lambda z, r, t, v: (v, torch.ones_like(r), torch.zeros_like(t))
        ),
        "r moves too; it is pinned, so its tangent is 0.": _with(
            lambda z, r, t, v: (v, torch.ones_like(r), torch.ones_like(t))
        ),
        "The place moves with the velocity v, not with z.": _with(
            lambda z, r, t, v: (z, torch.zeros_like(r), torch.ones_like(t))
        ),
        "The sign of the derivative is turned round: u + (t - r) du/dt - v.": _with(
            _total, sign=-1
        ),
        "The factor is t - r, not t.": _with(_total, factor=lambda r, t: t),
        "The factor t - r is missing.": _with(_total, factor=lambda r, t: torch.ones_like(t)),
        "The velocity is still to be subtracted.": _with(_total, less=False),
    },
    praise="Right: zero at the average velocity, and nowhere else among finite fields.",
)

exercise(
    "06-end",
    use=lambda end: end(_A, _B, _R, _T),
    right=lambda u, du_dr, r, t: u - (t - r)[:, None] * du_dr,
    mistakes={
        "The sign is wrong: the factor t - r falls as r grows, so the product rule gives -u.": (
            lambda u, du_dr, r, t: u + (t - r)[:, None] * du_dr
        ),
        "The overall sign is wrong: the right side gives -v(z_r, r).": (
            lambda u, du_dr, r, t: (t - r)[:, None] * du_dr - u
        ),
        "The factor t - r is missing.": lambda u, du_dr, r, t: u - du_dr,
    },
    hint="Differentiate both sides of (t - r) u = z_t - z_r in r, by the product rule.",
    praise="Right: d/dr of both sides gives -u + (t - r) du/dr = -v(z_r, r).",
)
