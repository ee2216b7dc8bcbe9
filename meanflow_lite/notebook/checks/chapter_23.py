"""Exercises of chapter 23: micro-batches."""

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
    "23-micro",
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
