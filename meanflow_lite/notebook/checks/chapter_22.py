"""Exercises of chapter 22: the rate of the average."""

from __future__ import annotations

import math

import torch

from meanflow_lite.notebook.exercises import exercise

exercise(
    "22-ema",
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
