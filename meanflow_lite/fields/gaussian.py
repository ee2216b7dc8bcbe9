"""Gaussian data: everything is affine, and the average velocity is one line."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.fields.base import check_call
from meanflow_lite.paths import bcast


class Gaussian:
    r"""Data :math:`x \sim N(\mu, \mathrm{diag}(s^2))` under the linear path.

    :math:`z_t \sim N(m_t, s_t^2)` with :math:`m_t = (1-t)\mu` and
    :math:`s_t^2 = (1-t)^2 s^2 + t^2`, in each coordinate.
    """

    num_classes: int | None = None

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """``mean`` and ``std`` are ``[D]``; ``std`` must be positive."""
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean and std must both be [D]: got {tuple(self.mean.shape)} "
                f"and {tuple(self.std.shape)}"
            )
        if not bool((self.std > 0).all() & (self.mean + self.std).isfinite().all()):
            raise ValueError(
                f"mean must be finite, and std positive and finite: got {mean} and {std}"
            )
        self.dim = len(self.mean)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, None]:
        """``n`` float32 rows ``[n, D]``, and None for the labels."""
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return (self.mean + self.std * noise).float(), None

    def velocity(
        self, z: Float[Tensor, " b d"], t: Float[Tensor, " b"], y: Tensor | None = None
    ) -> Float[Tensor, " b d"]:
        r""":math:`v(z, t) = -\mu + (z - m_t)\,\frac{t - (1-t)s^2}{s_t^2}`; ``[B, D]``."""
        return self.average(z, t, t, y)

    def average(
        self,
        z: Float[Tensor, " b d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Tensor | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b d"]:
        r""":math:`u = -\mu + \frac{z - m_t}{s_t}\cdot\frac{(t+r) - s^2(2-t-r)}{s_t + s_r}`.

        The flow keeps :math:`(z_t - m_t)/s_t`, and
        :math:`s_t - s_r = (s_t^2 - s_r^2)/(s_t + s_r)` removes the 0/0 at r = t.
        Shapes: ``z [B, D]``, ``r, t [B]``. Raises ``ValueError`` on other input.
        """
        check_call(z, r, t, y, dim=self.dim, num_classes=None, cond=cond)
        mean, std = self.mean.to(z), self.std.to(z)
        a, b = bcast(r, z), bcast(t, z)
        s_r, s_t = (((1 - c) ** 2 * std**2 + c**2).sqrt() for c in (a, b))
        slope = ((a + b) - std**2 * (2 - a - b)) / (s_t + s_r)
        return -mean + (z - (1 - b) * mean) / s_t * slope

    def velocity_variance(
        self, z: Float[Tensor, " b d"], t: Float[Tensor, " b"], y: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        r""":math:`\mathrm{tr\,Cov}(\epsilon - x \mid z_t) = \sum_d s_d^2/s_{t,d}^2`; ``[B]``."""
        check_call(z, t, t, y, dim=self.dim, num_classes=None, cond={})
        var, b = self.std.to(z) ** 2, bcast(t, z)
        return (var / ((1 - b) ** 2 * var + b**2)).sum(1)
