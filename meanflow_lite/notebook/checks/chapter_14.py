"""Exercises of chapter 14: a loss that cannot fall."""

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
        "Divide by the size over the whole batch, not row by row.": (
            lambda v: (
                (v / v.square().sum(1, keepdim=True).mean(1).sqrt().mean()).square().sum(1).mean()
            )
        ),
    },
    praise="Right: one, whatever the force. Nothing can be read from it.",
)
