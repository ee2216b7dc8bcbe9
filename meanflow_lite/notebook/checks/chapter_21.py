"""Exercises of chapter 21: a fair comparison of cost."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

exercise(
    "21-ratio",
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
