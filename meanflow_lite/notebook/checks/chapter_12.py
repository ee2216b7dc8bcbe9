"""Exercises of chapter 12: how many rows keep training stable."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

exercise(
    "12-share",
    use=lambda share: torch.tensor([share(0.9, 8.0), share(0.5, 5.0)], dtype=torch.float64),
    right=lambda t, m: 1 - 2 / (t * m),
    mistakes={
        "The factor one half of (16.2) is missing.": lambda t, m: 1 - 1 / (t * m),
        "This is the share of rows with r < t; the question is about the others.": (
            lambda t, m: 2 / (t * m)
        ),
        "Only the rows with r < t have the second term: weight it by 1 - p.": (
            lambda t, m: t * m / 2 - 1
        ),
    },
    praise="Right: p + (1 - p)(1 - t m / 2) must not be negative.",
)
