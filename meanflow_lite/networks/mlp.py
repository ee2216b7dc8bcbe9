"""A multilayer perceptron as a field: for the toys, and for any small data shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.networks.embedding import TIMES
from meanflow_lite.networks.tangent import Dual, affine, silu, tail


class MLP(nn.Module):
    r""":math:`u_\theta(z, r, t, y)` from the flat state, features of the times, and a label.

    Each time s enters as :math:`(s, \cos 2^k\pi s / 2, \sin 2^k\pi s / 2)`, a label as an
    embedding (``num_classes`` is the null label, and also stands for ``y = None``); the further
    numbers of a row that ``conditions`` names, such as omega, as they are. Activations are SiLU:
    the derivative of the network is part of its target, and ReLU has none to offer.
    The last layer starts at zero, so ``u = 0`` and ``du/dt = 0`` at the start.

    Shapes: ``z`` ``[B, *data]`` with ``prod(data) = dim``; ``r, t`` ``[B]``; ``y`` ``[B]``.
    """

    scales: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 3,
        num_classes: int = 0,
        conditioning: Sequence[str] = ("t", "t-r"),
        frequencies: int = 3,
        velocity_head: bool = False,
        conditions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        if not conditioning or not set(conditioning) <= TIMES.keys():
            raise ValueError(
                f"conditioning names some of {tuple(TIMES)}: got {tuple(conditioning)}"
            )
        self.conditioning = tuple(conditioning)
        self.conditions = tuple(conditions)
        scales = 2.0 ** torch.arange(frequencies) * math.pi / 2
        self.register_buffer("scales", scales, persistent=False)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        inputs = dim + len(self.conditioning) * (1 + 2 * frequencies) + len(self.conditions)
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
        **cond: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *d"]:
        """Evaluate the field."""
        return self._push(Dual(z), Dual(r), Dual(t), y, cond).primal

    def forward_with_tangent(
        self,
        z: Float[Tensor, " b *d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        dz: Float[Tensor, " k *d"],
        dr: Float[Tensor, " k"],
        dt: Float[Tensor, " k"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Float[Tensor, " b"],
    ) -> tuple[Tensor, Tensor]:
        r""":math:`u` and :math:`\partial_z u\,dz + \partial_r u\,dr + \partial_t u\,dt`, one pass.

        The tangents, and the derivative, are of the last k rows, ``[k, *data]``. Equal to
        ``torch.func.jvp`` of :meth:`forward` with the derivative detached, and several times
        faster on a network this small, where forward mode spends its time on bookkeeping.
        """
        u = self._push(Dual(z, dz), Dual(r, dr), Dual(t, dt), y, cond)
        assert u.tangent is not None
        return u.primal, u.tangent

    def with_velocity(
        self,
        z: Float[Tensor, " b *d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Float[Tensor, " b"],
    ) -> tuple[Tensor, Tensor]:
        """Average velocity u and an auxiliary velocity v: needs ``velocity_head``."""
        if self.velocity is None:
            raise ValueError("this network has no velocity head: build it with velocity_head=True")
        h = self._trunk(Dual(z), Dual(r), Dual(t), y, cond)
        u, v = affine(self.last, h), affine(self.velocity, h)
        return u.primal.reshape(z.shape), v.primal.reshape(z.shape)

    def _push(self, z: Dual, r: Dual, t: Dual, y: Tensor | None, cond: dict[str, Tensor]) -> Dual:
        u = affine(self.last, self._trunk(z, r, t, y, cond))
        tangent = None if u.tangent is None else u.tangent.reshape(-1, *z.primal.shape[1:])
        return Dual(u.primal.reshape(z.primal.shape), tangent)

    def _trunk(self, z: Dual, r: Dual, t: Dual, y: Tensor | None, cond: dict[str, Tensor]) -> Dual:
        if z.primal[0].numel() != self.dim:
            shape = tuple(z.primal.shape)
            raise ValueError(f"this network has dim {self.dim}: got a state of shape {shape}")
        if cond.keys() != set(self.conditions):
            raise ValueError(
                f"this network takes the conditions {sorted(self.conditions)}, got {sorted(cond)}: "
                "build it with conditions=(...), or bind them: functools.partial(net, omega=...)"
            )
        told = [cond[name][:, None] for name in self.conditions]
        h = affine(self.first, self._inputs(z, r, t, told))
        if self.label is not None:
            null = torch.full_like(t.primal, self.num_classes, dtype=torch.long)
            h = Dual(h.primal + self.label(null if y is None else y), h.tangent)
        for layer in self.hidden:
            h = affine(layer, silu(h))
        return silu(h)

    def _inputs(self, z: Dual, r: Dual, t: Dual, told: list[Tensor]) -> Dual:
        """State, times and their waves, further conditions, ``[B, dim + C (1 + 2K) + L]``."""
        times = self._times(r.primal, t.primal)
        waves = (times[..., None] * self.scales).flatten(1)  # [B, C * K]
        cos, sin = waves.cos(), waves.sin()
        primal = torch.cat([z.primal.flatten(1), times, cos, sin, *told], 1)
        if z.tangent is None or r.tangent is None or t.tangent is None:
            return Dual(primal)
        slopes = self._times(r.tangent, t.tangent)
        rates = (slopes[..., None] * self.scales).flatten(1)
        sin, cos = tail(sin, rates), tail(cos, rates)
        constant = rates.new_zeros(len(rates), len(told))
        moved = [z.tangent.flatten(1), slopes, -sin * rates, cos * rates, constant]
        return Dual(primal, torch.cat(moved, 1))

    def _times(self, r: Tensor, t: Tensor) -> Tensor:
        """What the network is told of the times, ``[B, C]``."""
        pairs = [TIMES[name] for name in self.conditioning]
        return torch.stack([a * r + b * t for a, b in pairs], 1)


class MLPDiscriminator(nn.Module):
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
