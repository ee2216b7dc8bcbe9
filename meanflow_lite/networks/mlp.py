"""A multilayer perceptron as a field: for the toys, and for any small data shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.networks.embedding import TIMES


class MLP(nn.Module):
    r""":math:`u_\theta(z, r, t, y)` from the flat state, features of the times, and a label.

    Each time s enters as :math:`(s, \cos 2^k\pi s / 2, \sin 2^k\pi s / 2)`, a label as an
    embedding (``num_classes`` is the null label, and also stands for ``y = None``). Activations
    are SiLU: the derivative of the network is part of its target, and ReLU has none to offer.
    The last layer starts at zero, so ``u = 0`` and ``du/dt = 0`` at the start.

    Shapes: ``z`` ``[B, *data]`` with ``prod(data) = dim``; ``r, t`` ``[B]``; ``y`` ``[B]``.
    """

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 3,
        num_classes: int = 0,
        conditioning: Sequence[str] = ("t", "t-r"),
        frequencies: int = 3,
        velocity_head: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        if not conditioning or not set(conditioning) <= TIMES.keys():
            raise ValueError(
                f"conditioning names some of {tuple(TIMES)}: got {tuple(conditioning)}"
            )
        self.conditioning = tuple(conditioning)
        scales = 2.0 ** torch.arange(frequencies) * math.pi / 2
        self.register_buffer("scales", scales, persistent=False)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        inputs = dim + len(self.conditioning) * (1 + 2 * frequencies)
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, dim)
        self.velocity = nn.Linear(width, dim) if velocity_head else None
        for layer in (self.last, self.velocity):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        z: Float[Tensor, " b *d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b *d"]:
        """Evaluate the field."""
        return self.last(self._trunk(z, r, t, y)).reshape(z.shape)

    def with_velocity(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """U and the second output, an auxiliary velocity v; built with ``velocity_head``."""
        if self.velocity is None:
            raise ValueError("this network has no velocity head: build it with velocity_head=True")
        h = self._trunk(z, r, t, y)
        return self.last(h).reshape(z.shape), self.velocity(h).reshape(z.shape)

    def _trunk(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        flat = z.flatten(1)
        if flat.shape[1] != self.dim:
            raise ValueError(f"this network has dim {self.dim}: got a state {tuple(z.shape)}")
        pairs = [TIMES[name] for name in self.conditioning]
        times = torch.stack([a * r + b * t for a, b in pairs], 1)  # [B, C]
        waves = (times[..., None] * self.scales).flatten(1)  # [B, C * K]
        h = self.first(torch.cat([flat, times, waves.cos(), waves.sin()], 1))
        if self.label is not None:
            null = torch.full_like(t, self.num_classes, dtype=torch.long)
            h = h + self.label(null if y is None else y)
        for layer in self.hidden:
            h = layer(nn.functional.silu(h))
        return nn.functional.silu(h)
