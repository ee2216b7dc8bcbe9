"""Distances between samples, and what they are between two samples of the data itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import ot
import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.data.toys import Toy

Distance = Callable[[Tensor, Tensor], float]


def energy_distance(
    a: Float[Tensor, " n *d"], b: Float[Tensor, " m *d"], block: int = 2048
) -> float:
    r""":math:`2 E\|a - b\| - E\|a - a'\| - E\|b - b'\|` (Szekely & Rizzo 2013), in data units.

    The V-statistic: means over all pairs, a row with itself included. It is never negative, and
    two samples of one distribution are about :math:`E\|a - a'\|\,(1/n + 1/m)` apart: compare with
    that floor (:func:`compare`). Distances are taken in blocks of rows, in float64.
    """
    x, y = _samples(a, b)
    return (
        2 * _mean_distance(x, y, block) - _mean_distance(x, x, block) - _mean_distance(y, y, block)
    )


def wasserstein(a: Float[Tensor, " n *d"], b: Float[Tensor, " m *d"]) -> float:
    r""":math:`W_2 = \big(\min_\gamma E_\gamma \|a - b\|^2\big)^{1/2}`, in data units.

    Exact between the two samples: by quantiles in one dimension, else by the network simplex of
    POT (Flamary et al. 2021), which takes about a second for 2,000 rows.

    Raises:
        ValueError: if the rows differ in shape, or a sample is empty or holds NaN.
        RuntimeError: if the solver stops before the optimum.
    """
    x, y = _samples(a, b)
    if x.shape[1] == 1:
        a_1d, b_1d = x[:, 0].cpu().numpy(), y[:, 0].cpu().numpy()
        return math.sqrt(float(np.asarray(ot.wasserstein_1d(a_1d, b_1d, p=2))))
    cost = torch.cdist(x, y).square().cpu().numpy()
    total, log = ot.emd2([], [], cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport did not converge: {log['warning']}")
    return math.sqrt(max(float(total), 0.0))


class Excess(NamedTuple):
    """A distance to the data, the same distance from data to data, and the difference."""

    distance: float
    floor: float
    excess: float


def compare(
    distance: Distance,
    samples: Float[Tensor, " n *d"],
    data: Toy,
    generator: torch.Generator | None = None,
    repeats: int = 4,
) -> Excess:
    """``distance`` from ``samples`` to the data, in excess of the data-to-data floor.

    Means over ``repeats`` pairs of fresh data samples, all of the size of ``samples``; the first
    of a pair meets ``samples``, and the second.
    """
    reached = floor = 0.0
    for _ in range(repeats):
        first, second = (data.sample(len(samples), generator)[0] for _ in range(2))
        reached += distance(samples, first) / repeats
        floor += distance(second, first) / repeats
    return Excess(reached, floor, reached - floor)


def _samples(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape[1:] != b.shape[1:] or a.ndim < 2 or not len(a) or not len(b):
        raise ValueError(
            f"two samples [n, *data] with rows of one shape are needed: got {tuple(a.shape)} "
            f"and {tuple(b.shape)}"
        )
    if not bool(a.isfinite().all() & b.isfinite().all()):
        raise ValueError("a sample holds NaN or infinity: distances would hide it")
    return a.detach().flatten(1).double(), b.detach().flatten(1).double()


def _mean_distance(x: Tensor, y: Tensor, block: int) -> float:
    # Not by matrix products: they lose half of the digits of small distances.
    exact = "donot_use_mm_for_euclid_dist"
    total = sum(float(torch.cdist(rows, y, compute_mode=exact).sum()) for rows in x.split(block))
    return total / (len(x) * len(y))
