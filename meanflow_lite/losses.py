"""Errors per sample and their weights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def squared_error(a: Float[Tensor, " b *d"], b: Float[Tensor, " ..."]) -> Float[Tensor, " b"]:
    r""":math:`\ell_i = \sum_d (a_{id} - b_{id})^2`: a sum over data dimensions, not a mean.

    With a mean, the constant ``c`` of :func:`adaptive_weight` would be ``D`` times larger
    relative to the error (4,096 times on 32x32x4 latents).

    Raises:
        ValueError: if the shapes differ (broadcasting would hide a bug).
    """
    if a.shape != b.shape:
        raise ValueError(
            f"prediction and target differ in shape: {tuple(a.shape)}, {tuple(b.shape)}"
        )
    return (a - b).square().flatten(1).sum(1)


def adaptive_weight(error: Float[Tensor, " b"], p: float, c: float) -> Float[Tensor, " b"]:
    r""":math:`w_i = \mathrm{sg}\left[(\ell_i + c)^{-p}\right]` (Geng et al. 2025, section 4.3).

    ``p = 0`` is the plain squared error. ``p = 1`` makes the weighted loss
    :math:`\ell / (\ell + c) \approx 1` whatever the error is: watch the unweighted one. A row
    without error and without c has weight 0, not infinity.

    Raises:
        ValueError: see :func:`check_weight`.
    """
    check_weight(p, c)
    base = error.detach() + c
    return torch.where(base > 0, base, torch.inf).pow(-p)


def check_weight(p: float, c: float) -> None:
    """Raise ``ValueError`` unless p and c are finite numbers of at least 0."""
    for name, value in (("p", p), ("c", c)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"{name} of the adaptive weight is a finite number of at least 0: got {value}"
            )


def pseudo_huber(error: Float[Tensor, " b"], c: float) -> Float[Tensor, " b"]:
    r""":math:`\sqrt{\ell_i + c^2} - c` of a squared error (Song & Dhariwal 2024).

    With c = 0 it is the norm; its gradient at an error of 0 is taken as 0.

    Raises:
        ValueError: if c is negative or not finite.
    """
    if not (math.isfinite(c) and c >= 0):
        raise ValueError(f"c of the pseudo-Huber distance is a number of at least 0: got {c}")
    square = error + c * c
    away = square > 0
    return torch.where(away, torch.where(away, square, 1.0).sqrt(), 0.0) - c
