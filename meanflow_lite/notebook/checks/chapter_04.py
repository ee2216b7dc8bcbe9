"""Exercises of chapter 04: the floor of the loss, and how to see below its noise."""

import math

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

exercise(
    "04-floor",
    use=lambda gaussian_floor: [gaussian_floor(a, d) for a, d in ((2.0, 1), (0.5, 4096))],
    right=lambda a, d: d * math.pi / 2 * a,
    mistakes={
        "The loss sums over dimensions, and each has its own floor.": lambda a, d: math.pi / 2 * a,
        "The integral is pi/2 times a, not its square.": lambda a, d: d * math.pi / 2 * a**2,
        "Twice too much: from 0 to infinity the integral of 1 / (1 + x^2) is pi / 2.": (
            lambda a, d: d * math.pi * a
        ),
        "That is the variance of eps - x; what z_t says about it lowers the floor.": (
            lambda a, d: d * (1 + a**2)
        ),
        "That is the value at t = 1, the variance of the data; take the mean over t.": (
            lambda a, d: d * a**2
        ),
        "That is the mean of the values at both ends; the floor bends between them.": (
            lambda a, d: d * (1 + a**2) / 2
        ),
        "Zero would mean that z_t determines the pair; it does not.": lambda a, d: 0.0,
    },
    praise="Right: it grows with the dimension, so a loss of thousands is no alarm.",
)


_ONE = torch.tensor([2.0, 0.5, 3.1, 1.7, 0.2], dtype=torch.float64)


_TWO = torch.tensor([1.9, 0.6, 2.7, 1.5, 0.1], dtype=torch.float64)


def _unpaired(one: Tensor, two: Tensor) -> tuple[float, float]:
    return float((one - two).mean()), float(((one.var() + two.var()) / len(one)) ** 0.5)


exercise(
    "04-compare",
    use=lambda compare: compare(_ONE, _TWO),
    right=lambda a, b: (float((a - b).mean()), float((a - b).std() / len(a) ** 0.5)),
    mistakes={
        "That standard error is for different rows. Here the rows are the same: take the "
        "difference first, then its standard deviation.": _unpaired,
        "That is the standard deviation of one row; the mean of n rows has it divided by the "
        "root of n.": lambda a, b: (float((a - b).mean()), float((a - b).std())),
        "Divide by the root of n, not by n.": (
            lambda a, b: (float((a - b).mean()), float((a - b).std() / len(a)))
        ),
        "The variance needs n - 1 rows in its denominator, as torch's std has by default.": (
            lambda a, b: (float((a - b).mean()), float((a - b).std(correction=0) / len(a) ** 0.5))
        ),
        "The sign is wrong: one minus two.": (
            lambda a, b: (float((b - a).mean()), float((a - b).std() / len(a) ** 0.5))
        ),
    },
    praise="Right: what both networks find hard cancels in the difference.",
)


exercise(
    "04-rows",
    use=lambda rows_needed: [rows_needed(2.0, 0.01), rows_needed(5.0, 0.2)],
    right=lambda s, e: (2 * s / e) ** 2,
    mistakes={
        "The standard error falls with the root of the number of rows: square it.": (
            lambda s, e: 2 * s / e
        ),
        "That makes it one standard error; two are wanted.": lambda s, e: (s / e) ** 2,
        "The two belongs inside the square.": lambda s, e: 2 * (s / e) ** 2,
        "Square s as well: the variance of a mean is s^2 over the number of rows.": (
            lambda s, e: 4 * s / e**2
        ),
        "The ratio is upside down.": lambda s, e: (e / (2 * s)) ** 2,
    },
    praise="Right: for an excess of a hundredth of the spread it is forty thousand rows.",
)
