"""Schedules: settings as functions of the share of training that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sigmoid:
    r""":math:`\alpha = 1 - \sigma\big(\gamma\,(\mathrm{progress} - m)/w\big)`, snapped to 1 and 0.

    m is the middle of [``start``, ``end``] and w its width; values within ``snap`` of an end are
    that end, which spares :math:`\alpha^{-1}` its blow-up.
    """

    start: float = 0.0
    end: float = 1.0
    gamma: float = 25.0
    snap: float = 5e-3

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"0 <= start < end <= 1 is needed: got {self.start} and {self.end}")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be a positive number: got {self.gamma}")
        if not 0 <= self.snap < 0.5:
            raise ValueError(f"snap is a distance in [0, 0.5): got {self.snap}")

    def __call__(self, progress: float) -> float:
        """Alpha at a share of training."""
        at = self.gamma * (progress - (self.start + self.end) / 2) / (self.end - self.start)
        alpha = float(torch.sigmoid(torch.tensor(-at)))
        return 0.0 if alpha < self.snap else 1.0 if alpha > 1 - self.snap else alpha


@dataclass(frozen=True)
class Constant:
    """The same ``alpha`` throughout: for study."""

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share in [0, 1]: got {self.alpha}")

    def __call__(self, progress: float) -> float:
        """Return ``alpha``."""
        return self.alpha


@dataclass(frozen=True)
class Doubling:
    """``first`` steps, doubled at even shares of training until ``last``."""

    first: int = 8
    last: int = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"1 <= first <= last is needed: got {self.first} and {self.last}")

    def __call__(self, progress: float) -> int:
        """Number of steps at a share of training."""
        doublings = (self.last // self.first).bit_length() - 1
        return min(self.last, self.first * 2 ** int(progress * (doublings + 1)))
