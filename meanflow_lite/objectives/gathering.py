"""Rows of all processes, for objectives that couple the samples of a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def everywhere(rows: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " n *d"]:
    """The rows of all processes, without gradients: the drift couples the samples of a batch.

    Micro-batches (``accumulate``) are not gathered: each of them is a smaller set of points.
    """
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
