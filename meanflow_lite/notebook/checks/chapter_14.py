"""Exercises of chapter 14: a force by hand, and a loss that cannot fall."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_V = torch.tensor([[0.3, -1.0], [2.0, 0.1], [0.0, 0.4]], dtype=torch.float64)


exercise(
    "14-normalized",
    use=lambda loss: torch.as_tensor(loss(_V)),
    right=lambda v: (v / v.square().sum(1).mean().sqrt()).square().sum(1).mean(),
    mistakes={
        "This is the size before the division.": lambda v: v.square().sum(1).mean(),
        "The square of the size is one; so is its mean over the rows, not their sum.": lambda v: (
            (v / v.square().sum(1).mean().sqrt()).square().sum()
        ),
        "Divide by the size over the whole batch, not row by row.": (
            lambda v: (
                (v / v.square().sum(1, keepdim=True).mean(1).sqrt().mean()).square().sum(1).mean()
            )
        ),
    },
    praise="Right: one, whatever the force. Nothing can be read from it.",
)


exercise(
    "14-neighbor",
    use=lambda value: float(value),
    right=1.0,
    mistakes={
        "That is the first neighbor alone: add 1/4 times (2 - 1).": 0.75,
        "That is the second neighbor alone: 1/4 times (2 - (-1)) belongs to it.": 0.25,
        "The affinities are missing: each pair counts 1/2 times 1/2.": 4.0,
        "The sign: from the sample to the data, 2 - (-1) and 2 - 1.": -1.0,
    },
    praise="Right: 1/4 times 3 plus 1/4 times 1.",
    hint="Two pairs: (data, first sample) and (data, second sample).",
)
