"""A small convolutional critic of images, for the adversarial objective."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Discriminator(nn.Module):
    r""":math:`D(x, y) = (w + e_y)^\top h(x)`, with pooled features h (Miyato & Koyama 2018).

    Shapes: ``x`` ``[B, channels, H, W]``, ``y`` ``[B]`` or None (the null label); returns ``[B]``.
    Activations are smooth, because the penalty on its gradient differentiates twice.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.null = num_classes
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.score = nn.Linear(2 * width, 1)
        self.labels = nn.Embedding(num_classes + 1, 2 * width)

    def forward(
        self, x: Float[Tensor, " b c h w"], y: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Higher for images that look real."""
        h = self.body(x).mean((2, 3))
        if y is None:
            y = torch.full((len(x),), self.null, device=x.device)
        return self.score(h)[:, 0] + (self.labels(y) * h).sum(1)
