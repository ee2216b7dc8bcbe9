"""A small discriminator for adversarial objectives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Discriminator(nn.Module):
    """A score ``[B]`` of flat samples and, if there are classes, their labels.

    ``dim`` is the size of one flat sample. The null label ``num_classes`` is a row of zeros.
    """

    def __init__(self, dim: int, width: int = 64, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.first = nn.Linear(dim + num_classes, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 1)

    def forward(
        self, x: Float[Tensor, " b *d"], y: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Score samples: high for real ones."""
        h = x.flatten(1)
        if self.num_classes:
            if y is None:
                raise ValueError("this discriminator was built with num_classes: it needs labels y")
            hot = nn.functional.one_hot(y, self.num_classes + 1)[:, : self.num_classes]
            h = torch.cat([h, hot.to(h)], 1)
        for layer in (self.first, self.middle):
            h = nn.functional.silu(layer(h))
        return self.last(h)[:, 0]
