"""Two methods on the same seeds: the difference is taken seed by seed, and only then averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from meanflow_lite.evaluation.intervals import Interval, seed_interval


class Comparison(NamedTuple):
    """What pairing shows: ``worse`` of ``n`` seeds have a larger value in the first method.

    ``interval`` is of the mean difference, or of the ratio of geometric means; ``sign`` is the
    two-sided probability of as uneven a count when either order is as likely.
    """

    interval: Interval
    worse: int
    n: int
    sign: float

    @property
    def differs(self) -> bool:
        """Whether the sign test rejects equality at 5%."""
        return self.sign < 0.05


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Comparison:
    """Mean of ``first - second`` over seeds, with Student's interval, in the measure's unit."""
    a, b = _pairs(first, second)
    return Comparison(seed_interval((a - b).tolist(), level), *_signs(a, b))


def paired_ratio(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Comparison:
    """Geometric mean of ``first / second`` over seeds; Student's interval of its logarithm.

    Raises ``ValueError`` for values that are not positive: an excess over a floor may be
    negative, and then only the difference has a meaning.
    """
    a, b = _pairs(first, second)
    if (a <= 0).any() or (b <= 0).any():
        raise ValueError("a ratio needs positive values: use paired_difference for an excess")
    logs = seed_interval(np.log(a / b).tolist(), level)
    return Comparison(Interval(*(float(np.exp(v)) for v in logs)), *_signs(a, b))


def _pairs(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(values, dtype=float) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"two values or more a method, of the same seeds, are needed: got {a.shape}, {b.shape}"
        )
    return a, b


def _signs(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    worse, ties = int((a > b).sum()), int((a == b).sum())
    n = len(a) - ties
    sign = float(stats.binomtest(worse, n).pvalue) if n else 1.0
    return worse, n, sign
