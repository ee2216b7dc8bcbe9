"""Exercises of chapter 11: patches to images, a distance without its bias, three generators."""

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

_PATCH, _SIDE, _CHANNELS = 2, 3, 2
_TOKENS = torch.arange(2.0 * _SIDE**2 * _PATCH**2 * _CHANNELS).view(2, _SIDE**2, -1)

Unpatchify = Callable[[Tensor, int], Tensor]


def _assemble(pattern: tuple[int, ...], channels_first: bool = False) -> Unpatchify:
    """Axes (b, i, j, p, q, c) of the cut tokens, put in the order ``pattern``."""

    def unpatchify(tokens: Tensor, p: int) -> Tensor:
        b, n, _ = tokens.shape
        side = int(n**0.5)
        if channels_first:
            cut = tokens.reshape(b, side, side, -1, p, p).permute(0, 1, 2, 4, 5, 3)
        else:
            cut = tokens.reshape(b, side, side, p, p, -1)
        return cut.permute(*pattern).reshape(b, -1, side * p, side * p)

    return unpatchify


exercise(
    "11-unpatchify",
    use=lambda unpatchify: unpatchify(_TOKENS, _PATCH),
    right=_assemble((0, 5, 1, 3, 2, 4)),
    mistakes={
        "The patches are in the wrong places: token k lies in row k // side, column k % side.": (
            _assemble((0, 5, 2, 3, 1, 4))
        ),
        "Each patch is transposed: the first pixel axis of a patch is its row.": _assemble(
            (0, 5, 1, 4, 2, 3)
        ),
        "The whole image is transposed: rows and columns are exchanged, in the grid and inside.": (
            _assemble((0, 5, 2, 4, 1, 3))
        ),
        "The pixels of a token are read as a row of the image: bring each row of patches and its "
        "rows of pixels together (i, p), then (j, q), before you reshape.": _assemble(
            (0, 5, 1, 2, 3, 4)
        ),
        "The channel comes last inside a token: (p, q, c), not (c, p, q).": _assemble(
            (0, 5, 1, 3, 2, 4), channels_first=True
        ),
    },
    praise="Right: (i, p) are rows and (j, q) are columns. Ports fail here without an error.",
    hint="Cut tokens into (b, i, j, p, q, c), permute to (b, c, i, p, j, q), reshape.",
)

exercise(
    "11-limit",
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

exercise(
    "11-suspects",
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
