"""Intervals: over seeds by Student's t, over samples by the bootstrap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

#: Values up to which the jackknife of BCa is taken, and values that are resampled at once.
JACKKNIFE, BLOCK = 2_000, 2_000_000


class Interval(NamedTuple):
    """An estimate and the two ends of its interval."""

    center: float
    low: float
    high: float


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    r""":math:`\bar x \pm t_{n-1}\, s / \sqrt n`: the mean of a measurement over seeds.

    Raises ``ValueError`` with fewer than two values, or any that is not finite.
    """
    x = _finite(values, level)
    half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The BCa bootstrap interval of ``statistic`` over independent values (Efron 1987).

    ``statistic`` takes ``axis``. Values that are all equal have an interval of width zero. Where
    BCa is not defined (a median that no single value moves), or there are more than 2,000 values
    (its jackknife takes memory in their square), the interval is that of the quantiles of the
    resampled statistic; with that many values the two agree but for a statistic with a bias.
    Raises ``ValueError`` with fewer than two values, or any that is not finite.
    """
    x = _finite(values, level)
    center = float(statistic(x, axis=-1))
    if np.ptp(x) == 0:
        return Interval(center, center, center)
    for method in ("BCa", "percentile") if len(x) <= JACKKNIFE else ("percentile",):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            ends = stats.bootstrap(
                (x,),
                statistic,
                confidence_level=level,
                n_resamples=resamples,
                batch=max(1, BLOCK // len(x)),
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([ends.low, ends.high]).all():
            return Interval(center, float(ends.low), float(ends.high))
    raise ValueError(f"the statistic {statistic} has no bootstrap interval on these values")


def _finite(values: Sequence[float], level: float) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least two finite values: got {values}")
    if not 0 < level < 1:
        raise ValueError(f"level is a probability in (0, 1): got {level}")
    return x
