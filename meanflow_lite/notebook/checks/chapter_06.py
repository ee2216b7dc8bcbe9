"""Exercises of chapter 06: the target, the other end of the jump, a point."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_A = torch.tensor([[0.3, -1.2], [2.0, 0.7], [-0.4, 1.1]], dtype=torch.float64)


_B = torch.tensor([[1.5, 0.2], [-0.6, 0.9], [0.8, -2.0]], dtype=torch.float64)


_R = torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)


_T = torch.tensor([1.0, 0.6, 0.8], dtype=torch.float64)


exercise(
    "06-target",
    use=lambda target: target(_A, _B, _R, _T),
    right=lambda v, dudt, r, t: v - (t - r)[:, None] * dudt,
    mistakes={
        "The sign is wrong: solve u + (t - r) du/dt = v for u.": (
            lambda v, dudt, r, t: v + (t - r)[:, None] * dudt
        ),
        "The factor t - r is missing.": lambda v, dudt, r, t: v - dudt,
        "Divide out nothing: (6.1) has (t - r) times du/dt.": (
            lambda v, dudt, r, t: v - dudt / (t - r)[:, None]
        ),
        "That is the derivative of the displacement, not u.": (
            lambda v, dudt, r, t: (t - r)[:, None] * v - dudt
        ),
    },
    praise="Right: this is the whole target of MeanFlow.",
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


exercise(
    "06-point",
    use=lambda average: average(_A[:, 0], _R, _T, 0.5),
    right=lambda z, r, t, m: (z - m) / t,
    mistakes={
        "The path is straight from noise to m, so the end point z_r is not m unless r = 0.": (
            lambda z, r, t, m: (z - m) / (t - r)
        ),
        "This is z - m, right at t = 1 only: at time t the state is the share t of the way.": (
            lambda z, r, t, m: z - m
        ),
        "That is the noise of the path; the velocity is noise minus data.": (
            lambda z, r, t, m: (z - (1 - t) * m) / t
        ),
        "That is where the path ends; u is a displacement over its time.": (
            lambda z, r, t, m: 0 * z + m
        ),
        "The sign is wrong: velocity points from data to noise.": (lambda z, r, t, m: (m - z) / t),
    },
    praise="Right: the path is straight, r does not matter, and u = v = (z - m) / t.",
)
