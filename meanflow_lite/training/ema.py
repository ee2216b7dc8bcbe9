"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    r""":math:`\bar\theta \leftarrow d_n\bar\theta + (1 - d_n)\theta`, with a ramped rate.

    :math:`d_n = \min(d, (1 + n)/(10 + n))` after n updates: a rate of 0.9999 over 3,000 steps
    would otherwise be mostly the initialization. ``net`` is a copy that takes no gradient; it is
    kept in float32 where the weights are of half precision, which would round its steps away.
    """

    def __init__(self, net: nn.Module, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of a moving average is in [0, 1): got {rate}")
        self.rate = rate
        self.updates = 0
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        for p in self.net.parameters():
            if p.dtype in (torch.bfloat16, torch.float16):
                p.data = p.data.float()

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards the weights of ``net``; buffers are copied."""
        decay = min(self.rate, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine: list[torch.Tensor] = [*self.net.parameters()]
        theirs = [p.to(m.dtype) for p, m in zip(net.parameters(), mine, strict=True)]
        torch._foreach_lerp_(mine, theirs, 1 - decay)  # pyright: ignore
        for kept, now in zip(self.net.buffers(), net.buffers(), strict=True):
            kept.copy_(now)
