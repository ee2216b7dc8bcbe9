"""Toy distributions by name. All but the checkerboard have exact velocities and averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from meanflow_lite.fields import Gaussian, GaussianMixture, ProductMixture


@runtime_checkable
class Toy(Protocol):
    """A distribution to draw from; exact ones also have ``velocity`` and ``average``."""

    dim: int

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None for unlabeled data."""
        ...

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``n`` float32 rows ``[n, dim]`` and their labels ``[n]``, or None."""
        ...


def gaussian() -> Gaussian:
    r""":math:`N(0, 2^2)`: on :math:`N(0, 1)` too many wrong formulas agree with the right one."""
    return Gaussian([0.0], [2.0])


def mixture_a() -> ProductMixture:
    r""":math:`.3\,N(-2, .3^2) + .5\,N(.5, .4^2) + .2\,N(2.5, .2^2)`: skewed, three modes."""
    return ProductMixture([[0.3, 0.5, 0.2]], [[-2.0, 0.5, 2.5]], [[0.3, 0.4, 0.2]])


def mixture_c() -> ProductMixture:
    r""":math:`\frac12 N(-1, .5^2) + \frac12 N(1, .5^2)`: symmetric, two modes that touch."""
    return ProductMixture([[0.5, 0.5]], [[-1.0, 1.0]], [[0.5, 0.5]])


def product() -> ProductMixture:
    """Mixture A in one coordinate, mixture C in the other: six modes on a grid."""
    return ProductMixture(
        [[0.3, 0.5, 0.2], [0.5, 0.5, 0.0]],
        [[-2.0, 0.5, 2.5], [-1.0, 1.0, 0.0]],
        [[0.3, 0.4, 0.2], [0.5, 0.5, 1.0]],
    )


def ring() -> GaussianMixture:
    """Eight Gaussians of width 0.15 on a circle of radius 2, each its own class."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    return _mixture(2 * _circle(angle), std=0.15, labels=torch.arange(8))


def moons() -> GaussianMixture:
    """Two interleaved half circles of width 0.12, two classes."""
    angle = torch.linspace(0, math.pi, 24, dtype=torch.float64)
    upper = _circle(angle)
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
    centers = 1.5 * (torch.cat([upper, lower]) - torch.tensor([0.5, 0.25], dtype=torch.float64))
    return _mixture(centers, std=0.12, labels=torch.arange(2).repeat_interleave(24))


def spiral() -> GaussianMixture:
    """One and a half turns of a spiral out to radius 2.5, of width 0.12."""
    # Even steps in angle^2 are even steps of arc length, up to the innermost part.
    angle = 3 * math.pi * torch.linspace(0.01, 1, 56, dtype=torch.float64).sqrt()
    return _mixture(2.5 * angle[:, None] / angle[-1] * _circle(angle), std=0.12)


def rings() -> GaussianMixture:
    """Two concentric circles of radius 1 and 2.2, of width 0.12, two classes."""
    inner, outer = (torch.arange(k, dtype=torch.float64) * (2 * math.pi / k) for k in (20, 44))
    centers = torch.cat([_circle(inner), 2.2 * _circle(outer)])
    return _mixture(centers, std=0.12, labels=torch.tensor([0] * 20 + [1] * 44))


def classes() -> GaussianMixture:
    """Two classes of two wide Gaussians each that overlap, so that guidance has work to do."""
    centers = torch.tensor([[-1.2, 0.5], [0.2, 1.4], [1.2, -0.5], [-0.2, -1.4]])
    return _mixture(centers.double(), std=0.5, labels=torch.tensor([0, 0, 1, 1]))


class Checkerboard:
    """Uniform on the eight dark unit squares of a 4 x 4 board on [-2, 2]^2.

    It can be sampled, but its velocity here has no closed form: use energy and Wasserstein
    distances, not the error to the exact field.
    """

    dim = 2
    num_classes: int | None = None

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, None]:
        """``n`` float32 rows ``[n, 2]``, and None for the labels."""
        column = torch.randint(0, 4, (n,), generator=generator)
        row = 2 * torch.randint(0, 2, (n,), generator=generator) + column % 2
        corner = torch.stack([column, row], 1).float() - 2
        return corner + torch.rand(n, 2, generator=generator, dtype=torch.float32), None


TOYS: dict[str, Callable[[], Toy]] = {
    "gaussian": gaussian,
    "mixture_a": mixture_a,
    "mixture_c": mixture_c,
    "product": product,
    "ring": ring,
    "moons": moons,
    "spiral": spiral,
    "rings": rings,
    "classes": classes,
    "checkerboard": Checkerboard,
}


def toy(name: str) -> Toy:
    """The toy distribution called ``name``; raises ``ValueError`` with the known names."""
    if name not in TOYS:
        raise ValueError(f"unknown toy {name!r}: choose one of {', '.join(sorted(TOYS))}")
    return TOYS[name]()


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _mixture(centers: Tensor, std: float, labels: Tensor | None = None) -> GaussianMixture:
    k = len(centers)
    return GaussianMixture(
        torch.full((k,), 1 / k, dtype=torch.float64),
        centers,
        torch.full((k,), std, dtype=torch.float64),
        labels,
    )
