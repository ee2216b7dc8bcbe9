"""Exercises of chapter 04: a loaded coin, the loss and its loop, a comparison on the same rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

exercise(
    "04-coin",
    right=(0.8, 0.16),
    tolerance=1e-3,
    mistakes={
        "One is the most frequent value; the best number for squares is the mean.": (1.0, 0.2),
        "One half is the mean of a fair coin.": (0.5, 0.25),
        "The floor is the variance, 0.8 times 0.2; you gave its root.": (0.8, 0.4),
        "You still pay when the coin shows the other side: the floor is not zero.": (0.8, 0.0),
        "The price of heads, 0.2 squared, comes in eight of ten tosses only; add that of tails.": (
            (0.8, 0.04)
        ),
    },
    praise="Right: 0.8 x 0.2^2 + 0.2 x 0.8^2 = 0.16.",
)

_X, _EPS = torch.linspace(-2.0, 3.0, 16, dtype=torch.float64).reshape(2, 4, 2)
_T = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)


def _net(z: Tensor, t: Tensor) -> Tensor:
    return torch.sin(z) + t[:, None]


def _loss(place: Callable, target: Callable, reduce: Callable = lambda e: e.sum(1)) -> Callable:
    def loss(net: Callable, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        s = t[:, None]
        return reduce((net(place(x, eps, s), t) - target(x, eps)).square())

    return loss


def _line(x: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    return (1 - s) * x + s * eps


def _velocity(x: Tensor, eps: Tensor) -> Tensor:
    return eps - x


exercise(
    "04-loss",
    use=lambda loss: loss(_net, _X, _EPS, _T),
    right=_loss(_line, _velocity),
    mistakes={
        "The target is turned round: with noise at t = 1 the velocity is eps - x.": _loss(
            _line, lambda x, eps: x - eps
        ),
        "The place is turned round: at t = 0 the pair is at the data.": _loss(
            lambda x, eps, s: s * x + (1 - s) * eps, _velocity
        ),
        "The target is the velocity of the pair, not the noise.": _loss(_line, lambda x, eps: eps),
        "Sum over the coordinates: (4.2) has the squared length.": _loss(
            _line, _velocity, lambda e: e.mean(1)
        ),
        "The square is missing its partner: sum the squares, do not take the root.": _loss(
            _line, _velocity, lambda e: e.sum(1).sqrt()
        ),
    },
    praise="Right. This is the whole loss that large image models are trained with.",
)


class _Slope(torch.nn.Module):
    """One number, times the place; at t = 1 the best one is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.w * z


def _trained(train: Callable) -> float:
    net, generator = _Slope(), torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        x = 2 * torch.randn(2048, 1, generator=generator)
        return x, torch.randn(2048, 1, generator=generator), torch.ones(2048)

    train(net, draw, 200, 0.02)
    return round(float(net.w.detach()), 1)


def _loop(target: Callable, *, clear: bool = True, step: bool = True, sign: int = 1) -> Callable:
    def train(net: torch.nn.Module, draw: Callable, updates: int, lr: float) -> None:
        adam = torch.optim.Adam(net.parameters(), lr=lr)
        for _ in range(updates):
            x, eps, t = draw()
            loss = _loss(_line, target)(net, x, eps, t).mean()
            if clear:
                adam.zero_grad()
            (sign * loss).backward()
            if step:
                adam.step()

    return train


exercise(
    "04-loop",
    use=_trained,
    right=_loop(_velocity),
    tolerance=0.05,
    mistakes={
        "The network has not changed: is there a step of the optimizer?": _loop(
            _velocity, step=False
        ),
        "The network learned the velocity with its sign turned round.": _loop(
            lambda x, eps: x - eps
        ),
        "The gradients of earlier updates are still there: call zero_grad().": _loop(
            _velocity, clear=False
        ),
        "The loss was made larger, not smaller.": _loop(_velocity, sign=-1),
        "The network learned to predict the data; the target is eps - x.": _loop(lambda x, eps: x),
    },
    praise="Right: at t = 1 it learned v = z. For N(0, 4) and all times the loss ends at pi.",
    hint="At t = 1 and for data with mean zero the network should learn v = z.",
)

_ONE = torch.tensor([2.0, 0.5, 3.1, 1.7, 0.2], dtype=torch.float64)


_TWO = torch.tensor([1.9, 0.6, 2.7, 1.5, 0.1], dtype=torch.float64)


def _unpaired(one: Tensor, two: Tensor) -> tuple[float, float]:
    return float((one - two).mean()), float(((one.var() + two.var()) / len(one)) ** 0.5)


exercise(
    "04-compare",
    use=lambda compare: compare(_ONE, _TWO),
    right=lambda a, b: (float((a - b).mean()), float((a - b).std() / len(a) ** 0.5)),
    mistakes={
        "That standard error is for different rows. Here the rows are the same: take the "
        "difference first, then its standard deviation.": _unpaired,
        "That is the standard deviation of one row; the mean of n rows has it divided by the "
        "root of n.": lambda a, b: (float((a - b).mean()), float((a - b).std())),
        "Divide by the root of n, not by n.": (
            lambda a, b: (float((a - b).mean()), float((a - b).std() / len(a)))
        ),
        "The variance needs n - 1 rows in its denominator, as torch's std has by default.": (
            lambda a, b: (float((a - b).mean()), float((a - b).std(correction=0) / len(a) ** 0.5))
        ),
        "The sign is wrong: one minus two.": (
            lambda a, b: (float((b - a).mean()), float((a - b).std() / len(a) ** 0.5))
        ),
    },
    praise="Right: what both networks find hard cancels in the difference.",
)
