"""scikit-learn's 8x8 gray digits: real, labeled images that need no download."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor

NUM_CLASSES = 10
HELD_OUT = 500

Digits = tuple[Float[Tensor, " n 1 8 8"], Int[Tensor, " n"]]


@cache
def _digits() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return x, torch.tensor(labels)


def digits(held_out: bool = False) -> Digits:
    """Images scaled to [-1, 1] and labels 0 ... 9: 1,297 to train on, or the 500 ``held_out``.

    The split is a fixed permutation; the held-out digits are never trained on, by the generator
    or by the networks that judge it.
    """
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = order[:HELD_OUT] if held_out else order[HELD_OUT:]
    return x[rows], y[rows]


def to_uint8(x: Float[Tensor, " n c h w"]) -> Tensor:
    """Images in [-1, 1] as bytes, clipped and rounded: ``127.5 x + 127.5``.

    Raises:
        ValueError: for values that are not finite, which would become any color.
    """
    if not torch.isfinite(x).all():
        raise ValueError("the images hold NaN or infinite values: did training diverge?")
    return (x.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
