"""Many seeds in one pass: networks of one shape side by side, each with its own data and noise.

Row i of a batch belongs to seed i modulo the number of seeds. Every objective of the library then
runs as it is: it cuts a batch by position, and each cut holds as many rows of every seed.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from meanflow_lite.objectives import Context, Domain, Draw, Loss, Objective
from meanflow_lite.training.loop import Trainer


class Stack(nn.Module):
    """``members`` of one shape as one field; parameters are ``[S, ...]``, rows interleaved."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.size = len(members)
        self.names = [name for name, _ in members[0].named_parameters()]
        tables = [dict(m.named_parameters()) for m in members]
        self.tables = nn.ParameterList(
            torch.stack([t[name].detach() for t in tables]) for name in self.names
        )
        object.__setattr__(self, "_shape", copy.deepcopy(members[0]).requires_grad_(False))

    def forward(self, *rows: Tensor | None) -> Tensor:
        """The members' ``forward`` on their own rows; ``[S * B, ...]`` in and out."""
        return self._each(_Forward(self._shape), rows)  # pyright: ignore

    def forward_with_tangent(self, *rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The members' ``forward_with_tangent``."""
        return self._each(_WithTangent(self._shape), rows)  # pyright: ignore

    def _each(self, call: nn.Module, rows: tuple[Tensor | None, ...]):
        given = [value for value in rows if value is not None]
        apart = [v.unflatten(0, (-1, self.size)).transpose(0, 1) for v in given]
        weights = {f"net.{n}": t for n, t in zip(self.names, self.tables, strict=True)}
        found = vmap(lambda weights, *rows: functional_call(call, weights, rows))(weights, *apart)
        if isinstance(found, tuple):
            return tuple(value.transpose(0, 1).flatten(0, 1) for value in found)
        return found.transpose(0, 1).flatten(0, 1)


class _Forward(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *rows: Tensor) -> Tensor:
        return self.net(*rows)


class _WithTangent(_Forward):
    def forward(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.forward_with_tangent(*rows)  # pyright: ignore


class EachSeed:
    """For an objective that compares the rows of a batch: it sees the rows of one seed at a time.

    The network is evaluated once for all seeds, at the point where the objective evaluates it:
    one jump from noise to data.
    """

    target_ema: float | None = None

    def __init__(self, objective: Objective, size: int) -> None:
        self.objective, self.size = objective, size

    @property
    def domain(self) -> Domain:
        """That of the objective."""
        return self.objective.domain

    def stage(self, progress: float) -> int:
        """That of the objective."""
        return self.objective.stage(progress)

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """That of the objective, for all rows."""
        return self.objective.draw(x, y, ctx)

    def __call__(self, u, draw: Draw, ctx: Context) -> Loss:
        """The objective's loss of every row among the rows of its own seed."""
        whole = u(draw.eps, draw.r, draw.t, draw.y)
        losses = []
        for k in range(self.size):
            own, rows = whole[k :: self.size], draw.map(lambda v, k=k: v[k :: self.size])
            losses.append(self.objective(lambda *_, own=own: own, rows, ctx))  # pyright: ignore
        watch = {
            name: torch.stack([loss.watch[name] for loss in losses], 1).flatten()
            for name in losses[0].watch
        }
        return Loss(torch.stack([loss.per_sample for loss in losses], 1).flatten(), watch)


class StackTrainer(Trainer):
    """The library's trainer on a stack: gradients are clipped seed by seed.

    A seed whose loss or gradient is not finite is counted in ``lost`` and takes no further step;
    the others go on.
    """

    def __init__(self, net: Stack, *args, clip: float = 10.0, **kwargs) -> None:
        self.size, self.seed_clip = net.size, clip
        self.lost: set[int] = set()
        super().__init__(net, *args, **kwargs)

    def _backward(self, micro: int) -> Loss:
        loss = super()._backward(micro)
        grads = [p.grad for g in self.optimizer.param_groups for p in g["params"]]
        grads = [g for g in grads if g is not None]
        # the loss is a mean over all seeds: times S it is each seed's own
        square = sum(g.flatten(1).square().sum(1) for g in grads)
        assert isinstance(square, Tensor)
        norm = square.sqrt() * self.size
        own = loss.per_sample.detach().unflatten(0, (-1, self.size)).sum(0)
        good = norm.isfinite() & own.isfinite()
        self.lost |= set((~good).nonzero().flatten().tolist())
        scale = self.size * (self.seed_clip / (norm + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.nan_to_num_(0.0, 0.0, 0.0)
            g *= torch.where(good, scale, 0.0).view(-1, *(1,) * (g.ndim - 1))
        if bool(good.all()):
            return loss
        rows = good.repeat(len(loss.per_sample) // self.size)
        kept = torch.where(rows, loss.per_sample.detach(), 0.0)
        return replace(loss, per_sample=kept, watch={})
