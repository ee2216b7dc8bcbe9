"""Exercises of chapter 12: how many rows keep training stable, and what a change does."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

exercise(
    "12-share",
    use=lambda share: torch.tensor([share(0.9, 8.0), share(0.5, 5.0)], dtype=torch.float64),
    right=lambda t, m: 1 - 2 / (t * m),
    mistakes={
        "The factor one half of (12.1) is missing.": lambda t, m: 1 - 1 / (t * m),
        "This is the share of rows with r < t; the question is about the others.": (
            lambda t, m: 2 / (t * m)
        ),
        "Only the rows with r < t have the second term: weight it by 1 - p.": (
            lambda t, m: t * m / 2 - 1
        ),
    },
    praise="Right: p + (1 - p)(1 - t m / 2) must not be negative.",
)


_WORDS = ("better", "worse", "same")

exercise(
    "12-change",
    use=lambda answers: [str(word).strip().lower() for word in answers],
    right=["worse", "worse", "better", "worse"],
    mistakes={
        "p = 1 has a bias of order one in two dimensions (chapter 11).": [
            "better",
            "worse",
            "better",
            "worse",
        ],
        "In two dimensions the noise level cannot be read off z: t - r alone is not enough.": [
            "worse",
            "same",
            "better",
            "worse",
        ],
        "With r at 0 all jumps trained are the one that is asked for: one step gets better.": [
            "worse",
            "worse",
            "worse",
            "worse",
        ],
        "With all rows at r = t this is flow matching, and one step collapses.": [
            "worse",
            "worse",
            "better",
            "same",
        ],
    },
    praise="Right on all four.",
    hint=f"Four words, each one of {_WORDS}.",
)
