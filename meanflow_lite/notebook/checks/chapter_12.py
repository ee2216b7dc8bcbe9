"""Exercises of chapter 12: micro-batches, the rate of the average, a fair comparison of cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

_SETUPS = [(256, 8, 32), (256, 8, 20), (384, 8, 10), (96, 4, 5), (256, 1, 100)]


def _counts(micro_batches: Callable[[int, int, int], int]) -> Tensor:
    return torch.tensor([float(micro_batches(*setup)) for setup in _SETUPS])


def _smallest(batch: int, gpus: int, room: int, step: int = 1) -> int:
    n = 1
    while batch % (gpus * n) or batch // (gpus * n) > room:
        n += step
    return n


exercise(
    "12-micro",
    use=_counts,
    right=_smallest,
    mistakes={
        "Each fits, but the batch does not divide evenly: go on to the next number that does.": (
            lambda batch, gpus, room: math.ceil(batch / (gpus * room))
        ),
        "The images of a step are spread over the GPUs first: divide by their number.": (
            lambda batch, gpus, room: _smallest(batch, 1, room)
        ),
        "This rounds down, so that a micro-batch can be larger than the room.": (
            lambda batch, gpus, room: max(1, batch // (gpus * room))
        ),
        "Micro-batches of one image always fit; the smallest number of them is asked for.": (
            lambda batch, gpus, room: batch // gpus
        ),
    },
    praise="Right: it fits, it divides, and no smaller number does both.",
)

exercise(
    "12-ema",
    use=lambda rate: torch.tensor([rate(1_201_094, 0.005), rate(3000, 0.01)], dtype=torch.float64),
    right=lambda steps, share: 2 ** (-1 / (share * steps)),
    mistakes={
        "This is the rate whose memory falls to 1/e there, not to one half.": (
            lambda steps, share: math.exp(-1 / (share * steps))
        ),
        "One minus one over the half-life falls to 1/e there, not to one half.": (
            lambda steps, share: 1 - 1 / (share * steps)
        ),
        "This half-life is the whole run: use the share.": (lambda steps, share: 2 ** (-1 / steps)),
        "This is one minus the rate, the weight of the new parameters.": (
            lambda steps, share: 1 - 2 ** (-1 / (share * steps))
        ),
    },
    praise="Right: after share * steps steps one half of the old weights is left.",
    tolerance=1e-8,
)

exercise(
    "12-ratio",
    use=lambda ratio: torch.tensor([ratio(250, 2, 119.0, 311.0), ratio(50, 1, 23.0, 311.0)]),
    right=lambda steps, few, macs, decoder: (2 * steps * macs + decoder) / (few * macs + decoder),
    mistakes={
        "Guidance at sampling evaluates the network twice a step.": (
            lambda steps, few, macs, decoder: (steps * macs + decoder) / (few * macs + decoder)
        ),
        "Both decode their sample once, and that is not small beside one evaluation.": (
            lambda steps, few, macs, decoder: 2 * steps / few
        ),
        "MeanFlow has its guidance inside: its evaluations are not doubled.": (
            lambda steps, few, macs, decoder: (
                (2 * steps * macs + decoder) / (2 * few * macs + decoder)
            )
        ),
    },
    praise="Right: two evaluations a guided step, and one decoder on both sides.",
)
