"""Exercises of chapter 19: a distance without its bias."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

exercise(
    "19-limit",
    use=lambda limit: torch.tensor([limit(500, 4.0, 2000, 2.5), limit(1000, 3.0, 1500, 2.8)]),
    right=lambda n, at_n, m, at_m: (m * at_m - n * at_n) / (m - n),
    mistakes={
        "This weights the two by their size and keeps the bias: eliminate b instead.": (
            lambda n, at_n, m, at_m: (m * at_m + n * at_n) / (m + n)
        ),
        "This is b itself, not the distance without it.": (
            lambda n, at_n, m, at_m: (at_n - at_m) / (1 / n - 1 / m)
        ),
        "The line is straight in 1 / n, and this one is straight in n (taken at n = 0).": (
            lambda n, at_n, m, at_m: at_n - n * (at_m - at_n) / (m - n)
        ),
    },
    praise="Right: n F(n) is a straight line in n, and its slope is the limit.",
    hint="Two equations F(n) = F + b / n with two unknowns.",
)
