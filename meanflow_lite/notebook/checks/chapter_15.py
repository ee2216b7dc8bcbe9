"""Exercises of chapter 15: a ranking."""

from __future__ import annotations

from meanflow_lite.evaluation.intervals import seed_interval
from meanflow_lite.notebook.exercises import exercise

_CLEAR = ([1.0, 1.1, 0.9, 1.05, 0.95], [2.0, 2.1, 1.9, 2.05, 1.95])


_NOISY = ([1.0, 2.0, 0.5, 1.5, 1.2], [1.3, 2.4, 0.9, 1.8, 1.5])


# The standard deviations overlap, the intervals of the means do not.
_CLOSE = ([1.0, 1.2, 0.8, 1.1, 0.9] * 4, [1.25, 1.45, 1.05, 1.35, 1.15] * 4)


_PAIRS = (_CLEAR, _CLEAR[::-1], _NOISY, _CLOSE)


def _by_means(first: list[float], second: list[float]) -> str:
    return "first" if sum(first) < sum(second) else "second"


def _by_ranges(first: list[float], second: list[float]) -> str:
    if max(first) < min(second):
        return "first"
    return "second" if max(second) < min(first) else "neither"


def _by_intervals(first: list[float], second: list[float]) -> str:
    a, b = seed_interval(first), seed_interval(second)
    return "first" if a.high < b.low else "second" if b.high < a.low else "neither"


def _more_is_better(first: list[float], second: list[float]) -> str:
    return _by_intervals(second, first)


exercise(
    "15-ranking",
    use=lambda better: tuple(better(first, second) for first, second in _PAIRS),
    right=_by_intervals,
    mistakes={
        "This ranks by the means alone: one of the pairs cannot be ranked.": _by_means,
        "This asks that every seed be better; the interval of the mean is narrower than the range "
        "of the seeds.": _by_ranges,
        "Less is better here.": _more_is_better,
    },
    praise="Right. Intervals that overlap do not prove equality either: they leave it open.",
)
