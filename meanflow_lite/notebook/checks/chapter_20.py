"""Exercises of chapter 20: three generators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.data.batches import seeded
from meanflow_lite.data.digits import digits
from meanflow_lite.notebook.exercises import exercise
from meanflow_lite.runs.model import Model
from meanflow_lite.samplers import integrate, sample

Generator = Callable[[Model, Tensor, Tensor], Tensor]


def _label_lost(model: Model, eps: Tensor, labels: Tensor) -> Tensor:
    return sample(model.net, eps, [1.0, 0.0], torch.full_like(labels, model.num_classes))


def _copies(model: Model, eps: Tensor, labels: Tensor) -> Tensor:
    x, y = digits()
    of_class = [(y == k).nonzero()[:, 0] for k in range(10)]
    pick = torch.randint(2**31, (len(labels),), generator=seeded(14))
    rows = torch.stack(
        [of_class[k][p % len(of_class[k])] for k, p in zip(labels.tolist(), pick, strict=True)]
    )
    return x[rows] + 0.1 * eps


def _velocity_jump(model: Model, eps: Tensor, labels: Tensor) -> Tensor:
    return integrate(model.net, eps, [1.0, 0.0], labels)


#: Three generators with one mistake each; the reader finds out which.
SUSPECTS: dict[int, Generator] = {1: _velocity_jump, 2: _label_lost, 3: _copies}


exercise(
    "20-suspects",
    right=("velocity jump", "label lost", "copies"),
    mistakes={
        "One and three are exchanged: a copy is close to a training digit and keeps the spread.": (
            "copies",
            "label lost",
            "velocity jump",
        ),
        "Two has no spread problem: one of ten right is what guessing gives.": (
            "velocity jump",
            "too much guidance",
            "copies",
        ),
        "One is recognized as its label, so the label arrives; look at its spread.": (
            "label lost",
            "velocity jump",
            "copies",
        ),
        "Three is closer to the training set than any real digit: that is not a good model.": (
            "velocity jump",
            "label lost",
            "correct",
        ),
    },
    praise="Right: spread, accuracy and the nearest neighbor, one symptom each.",
    hint="Compare each row with that of the held-out digits, column by column.",
)
